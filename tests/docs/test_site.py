"""One small page, built with the configuration of the documentation: formulas are MathML, and nothing comes from the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("sphinx", "furo", "myst_parser", "math_core", "sphinx_design"):
    pytest.importorskip(package, reason="needs the extra `docs`")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = r"""# A page

The marginal $q(z_t \mid x)$, and the step of the chain:

$$
\hat z_t = \tfrac{1}{2}\,\mathbb{E}[x], \qquad
\begin{aligned} a &= b \\ c &= d \end{aligned}
$$

A [link](https://example.com) that a reader follows loads nothing.

```{eval-rst}
.. autofunction:: scoresde.sampling.sample
```
"""


def build(folder, page):
    """The standard error and the pages of a site with one page."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-b",
        "html",
        "-c",
        DOCS,
        "-D",
        "exclude_patterns=api.md,api/*,cli-reference.md,gallery.md",
    ]
    done = subprocess.run([*command, folder / "docs", folder / "html"], capture_output=True, text=True, check=True)
    return done.stderr, {path.name: path.read_text() for path in (folder / "html").glob("*.html")}


def test_a_page_has_its_formulas_and_loads_nothing(tmp_path):
    warnings, pages = build(tmp_path, PAGE)
    assert warnings == ""
    assert len(re.findall(r"<math\b", pages["index.html"])) == 2
    drawn = re.sub(r"<annotation.*?</annotation>", "", pages["index.html"], flags=re.DOTALL)
    assert "\\tfrac" not in drawn
    assert "\\tfrac" in pages["index.html"]  # for who copies the formula
    assert "<mfrac" in drawn
    assert "<mtable" in drawn

    parameters = re.findall(r'class="sig-param"><span class="n"><span class="pre">(\w+)', pages["index.html"])
    assert parameters[:5] == ["model", "shape", "solver", "steps", "nfe"]  # those of the function, not of its overloads


def test_the_build_warns_of_what_it_cannot_show_without_a_network(tmp_path):
    image, formula = "https://example.com/picture.png", r"\notacommand"
    warnings, _ = build(tmp_path, f'# A page\n\n<img alt="" src="{image}">\n\n$${formula}$$\n')
    assert f"index.html loads {image}" in warnings
    assert "notacommand" in warnings
    assert len(warnings.splitlines()) == 2
