"""docs/gallery.md from the examples and what they made: `python docs/make_gallery.py [NAME ...]` runs them, every one without a name.

A run leaves docs/gallery/NAME.png and NAME.txt, the picture and what the example printed; both are committed. The page is not: conf.py calls
`write` in every build, so that its sentences and its sources are those of the examples as they are.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "gallery"
COLOURS = 128  # of a picture's palette: noise does not compress, and nobody sees the difference
EXAMPLES = {
    "train_digits": "Train and sample",
    "ddpm_is_an_sde": "DDPM is an SDE",
    "linear_sdes": "Linear SDEs",
    "score_matching_family": "Forms of score matching",
    "likelihood": "Likelihood",
    "guidance": "Guidance",
    "inverse_problems": "Inverse problems",
    "simulation_based_inference": "Simulation-based inference",
}
RUNS = {"guidance": "runs/mnist", "inverse_problems": "runs/mnist"}  # folders of `scoresde train mnist`, for larger pictures
INTRODUCTION = """# Gallery

The scripts of the folder `examples`: what they draw, what they print and their sources. Each needs the extra `demo` and runs on a CPU, with
`--short` in seconds. A script with `--run` draws with a network of 28 x 28 digits that `scoresde train` has trained, and without it trains a
smaller one; [Guidance](guidance.md) and [Inverse problems](inverse.md) say what the network is. Printed seconds are those of a busy machine.
"""


def command(name: str) -> list[str]:
    """The arguments of Python that run an example in the root of the repository."""
    return [f"examples/{name}.py", *(["--run", RUNS[name]] if name in RUNS else [])]


def run(name: str) -> None:
    """Run an example and keep its picture and its printed lines.

    Raises:
        subprocess.CalledProcessError: the example failed.
    """
    from PIL import Image

    PICTURES.mkdir(exist_ok=True)
    picture = PICTURES / f"{name}.png"
    arguments = [sys.executable, *command(name), "--out", str(picture.relative_to(ROOT))]
    ran = subprocess.run(arguments, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    picture.with_suffix(".txt").write_text(ran.stdout)
    Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def sentence(name: str) -> str:
    """The first line of an example's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{name}.py").read_text()))
    return (text or "").splitlines()[0]


def card(name: str) -> str:
    """A small picture with a link to the section of the example."""
    return f""":::{{grid-item-card}} {EXAMPLES[name]}
:link: gallery-{name}
:link-type: ref
:img-top: gallery/{name}.png
:img-alt: {sentence(name)}
:::
"""


def section(name: str) -> str:
    """An example: its sentence, its picture, what it printed and its source."""
    printed = f"""
:::{{dropdown}} What it prints
```{{literalinclude}} gallery/{name}.txt
:language: text
```
:::
"""
    return f"""(gallery-{name})=
## {EXAMPLES[name]}

{sentence(name)}

```sh
python {" ".join(command(name))}
```

```{{image}} gallery/{name}.png
:alt: {sentence(name)}
```
{printed if (PICTURES / f"{name}.txt").exists() else ""}
:::{{dropdown}} Source
```{{literalinclude}} ../examples/{name}.py
:language: python
```
:::
"""


def write(folder: Path) -> None:
    """Write the page where it has changed."""
    cards = ["::::{grid} 2 2 4 4\n:gutter: 2\n", *map(card, EXAMPLES), "::::\n"]
    page = "\n".join([INTRODUCTION, *cards, *map(section, EXAMPLES)])
    path = folder / "gallery.md"
    if not path.exists() or path.read_text() != page:
        path.write_text(page)


if __name__ == "__main__":
    for name in sys.argv[1:] or EXAMPLES:
        run(name)
