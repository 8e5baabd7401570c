"""Formulas become MathML in the build, which browsers draw themselves: no script, no font and no network."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

log = logging.getLogger(__name__)
converter = LatexToMathML(annotation=True, fancy_error=False)  # the annotation keeps the LaTeX for who copies the formula


def mathml(translator, node, display):
    """Append the formula of a node to the page; one that cannot be read is a warning and stays LaTeX."""
    latex = node.astext().strip()
    try:
        formula = converter.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        log.warning("formula %r: %s", latex, error, location=node)
        formula = f"<code>{translator.encode(latex)}</code>"
    translator.body.append(f'<div class="formula">{formula}</div>' if display else formula)


def inline(translator, node):
    mathml(translator, node, display=False)
    raise nodes.SkipNode


def block(translator, node):
    mathml(translator, node, display=True)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True}
