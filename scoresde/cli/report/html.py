"""A page of sections as one file: pictures are embedded, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from .pictures import is_image, scatter_figure, strip

# Points of a scatter plot.
MOST_POINTS = 2000

# What the page says about each term that a section uses.
GLOSSARY = {
    "calls": "Network calls: one is an evaluation of the network for one sample. They decide what it costs.",
    "fine solve": "Samples of 200 steps of dpm++3m. Few solvers come closer to what the network itself describes.",
    "error": "Distance between a sample and that of the fine solve from the same seed. The solver alone makes it.",
    "rms": "Root of the mean square, here over all coordinates of all samples.",
    "interval": "Bootstrap of the n samples, 95 %. Where rms is far above the median, few samples decide and the interval is too narrow.",
    "stochastic solver": "It draws noise on the way, so that its samples are others than those of the fine solve.",
    "floor": "The smallest value that means something. For a distance to data: that between two sets of real samples.",
    "Frechet distance": "Distance between Gaussians of the same mean and covariance as the samples and as the data. Not an FID: "
    "compare only numbers of one table.",
    "kernel distance": "Squared maximum mean discrepancy with a cubic kernel, as in KID, without bias: "
    "around 0 for equal distributions, and so sometimes negative.",
    "fitted solver": "Coefficients and times fitted to this network by scoresde fit. The network itself stays as it is.",
    "bound": "Calibrated so that 95 % of new samples have an error below it. It costs no further network call.",
    "guidance": "Twice the network calls push a sample towards its class. Weight 1 is the class alone, weight 0 no class.",
    "posterior": "Samples that agree with an observation, here with the pixels that are seen. Nothing is trained for it.",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture with its label.

    Attributes:
        source: a data URL.
        label: beside or above it.
        alt: what it shows, in words.
        plot: whether it is a plot, whose colours follow the page, and no strip of samples.
    """

    source: str
    label: str
    alt: str
    plot: bool = False


def number(value: float, digits: int = 2) -> str:
    """A number with so many digits that count."""
    return f"{value:#.{digits}g}".rstrip(".")


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: paragraphs above the rest.
        facts: descriptions by name.
        table, pictures: may be missing.
        note: a paragraph below, about n and units.
        terms: keys of `GLOSSARY` that the section uses.
    """

    title: str
    text: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    note: str = ""
    terms: Sequence[str] = ()


def html_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page, which ends with the terms that its sections use."""
    used = {term for section in sections for term in section.terms}
    terms = Section("Terms", facts={term: said for term, said in GLOSSARY.items() if term in used})
    loader = PackageLoader("scoresde.cli.report", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(title=title, lead=lead, sections=[*sections, terms])


def plotted(figure: Any, label: str, alt: str) -> Picture:
    """A figure of matplotlib as a drawing. The same numbers make the same file."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "scoresde"}):
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return Picture(_url("svg+xml", file.getvalue()), label, alt, plot=True)


def strips(rows: Mapping[str, Tensor], what: str) -> list[Picture]:
    """A picture of samples for each label: images as one row, other data as a scatter plot or as a histogram on the axes of the first."""
    pictures, first = [], next(iter(rows.values()))
    for label, x in rows.items():
        alt = f"{label}: {len(x)} {what}"
        if is_image(x):
            file = io.BytesIO()
            strip(x).save(file, format="png", optimize=True)
            pictures.append(Picture(_url("png", file.getvalue()), label, alt))
        else:
            pictures.append(plotted(scatter_figure(x[:MOST_POINTS], first), label, alt))
    return pictures


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
