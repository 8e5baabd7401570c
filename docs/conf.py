"""Sphinx: sphinx-build -W -b html docs docs/_build/html (no network needed)."""

import re
import sys
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

import scoresde

sys.path.append(str(Path(__file__).parent))
import make_api
import make_cli
import make_gallery

project = "scoresde"
author = "The scoresde authors"
copyright = author
version = release = scoresde.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "mathml",
    "offline",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_title = f"scoresde {version}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings quote code in single backticks
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
suppress_warnings = ["ref.python"]  # an attribute `grid` of a docstring exists in several classes
autodoc_inherit_docstrings = False  # a solver lists what it adds to its base class
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"
viewcode_line_numbers = True


def formulas(app, what, name, obj, options, lines):
    """A paragraph indented below the one before is a formula: a literal block. In prose `|` and `*` are signs, not markup."""
    out, prose, literal = [], 0, False
    for line in lines:
        if line.strip():
            indent = len(line) - len(line.lstrip())
            starts = not literal and bool(out) and not out[-1].strip() and indent > prose
            if starts:
                out += [" " * prose + "::", ""]
            literal = starts or (literal and indent > prose)
            if not literal:
                prose = indent
                line = re.sub(r"(`[^`]*`)|([|*])", lambda found: found[1] or "\\" + found[2], line)
        out.append(line)
    lines[:] = out


def one_signature(app, what, name, obj, options, signature, returns):
    """Show the arguments that a reader passes: overloads are for the type checker and hide them in `**options`."""
    if what == "function":
        analyzer = ModuleAnalyzer.for_module(obj.__module__)
        analyzer.analyze()
        analyzer.overloads.clear()


def setup(app):
    make_api.write(Path(app.srcdir))
    make_cli.write(Path(app.srcdir) / "cli-reference.md")
    make_gallery.write(Path(app.srcdir))
    app.connect("autodoc-process-signature", one_signature)
    app.connect("autodoc-process-docstring", formulas, priority=400)  # napoleon comes at 500
