"""The sections of a comparison: the run, errors against the fine solve, samples, the error plot, distances to data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...interop.formats.calls import Called
from ...models.base import Model
from ...report import KernelDistance
from ...sampling.registry import DEFAULT
from ...train.experiment import Experiment
from ..foreign import Foreign, inmost
from .compare import CURVE_SAMPLES, Comparison
from .html import Section, Table, number, plotted, strips
from .page import process_text
from .paired import FINE_STEPS, PairedError
from .pictures import error_figure, is_image

# Images of a row, and the calls up to which the first sentence looks for the smallest error.
COLUMNS, FEW_CALLS = 10, 10

# Standard errors from which on a kernel distance is told from 0.
CLEAR = 2.0
SCALED_NOTE = (
    "For the kernel distance each coordinate is less its mean in the real data and divided by its standard deviation there. "
)
KERNEL_NOTE = (
    "A kernel distance has no unit; beside it is its standard error. The estimate has no bias and can be negative; below 2 standard errors "
    "it is not told from 0, and only the error is shown."
)


def comparison_sections(
    run: Path, experiment: Experiment, model: Model, found: Comparison, about_labels: str = ""
) -> list[Section]:
    """All that a comparison can show, the errors first.

    Args:
        run: the folder of the model.
        experiment: what is known of it.
        model: the model, without guidance.
        found: the measurements.
        about_labels: a sentence about the classes of the samples, for the distances to real data.
    """
    sections = [errors(found), samples(found), *([curve(found)] if found.curves else []), distances(found, about_labels)]
    return [*sections, about(run, experiment, model)]


def about(run: Path, experiment: Experiment, model: Model) -> Section:
    """What was trained, on what, and how."""
    recipe = experiment.recipe
    classes = f", {experiment.classes} classes" if experiment.conditional else ", no classes"
    if recipe.label_dropout:
        classes += f", left out of {recipe.label_dropout:.0%} of the training samples"
    inside = inmost(model)
    own = inside.network.network if isinstance(inside.network, Called) else inside.network
    network = f"{type(own).__name__}, {sum(p.numel() for p in inside.parameters()):,} parameters"
    facts = {
        "folder": str(run),
        "data": f"{Path(experiment.data).name}, {_shape(experiment.event)}, {experiment.held_out} samples held out",
        "network": f"{network}, {inside.prediction} prediction{classes}",
    }
    if isinstance(experiment, Foreign):
        facts |= {"process": experiment.process, "origin": experiment.origin}
    else:
        training = f"{recipe.iterations} iterations of {recipe.batch_size} samples, seed {recipe.seed}"
        facts |= {"process": process_text(experiment), "training": training}
    return Section("The run", facts=facts)


def lead(found: Comparison) -> str:
    """The errors of the solvers that have few calls, as many as the one of the smallest median; in two sentences at most."""
    fine = found.fine
    rows = [(name, calls, found.paired[key]) for key, name, calls in _entries(found) if key in found.paired]
    if not rows:
        return "All solvers are stochastic: their samples are others than those of the fine solve, so that no error is measured."
    # One outlier among the samples can decide an rms, and no median.
    calls = min([row for row in rows if row[1] <= FEW_CALLS] or rows, key=lambda row: row[2].median)[1]
    equal = sorted(((name, error) for name, own, error in rows if own == calls), key=lambda row: row[1].median)
    (name, error), *others = equal
    said = "".join(f"; {other} {number(own.median)} ({_spread(own)})" for other, own in others)
    return (
        f"With {calls} network calls, {name} is {number(error.median)} from the fine solve of {FINE_STEPS} calls "
        f"(median of n = {len(fine.x)} samples, {unit(fine.x)}; {_spread(error)}){said}.{_decided_by_few(equal)}"
    )


def _spread(error: PairedError) -> str:
    return f"rms {number(error.rms)}, 95 % interval {number(error.low)} to {number(error.high)}"


def _decided_by_few(rows: Sequence[tuple[str, PairedError]]) -> str:
    """Where the first by rms is another one than by median: a sentence."""
    least = min(rows, key=lambda row: row[1].rms)
    if least is rows[0]:
        return ""
    return f" By rms {least[0]} is first: a few samples of {rows[0][0]} decide that."


def errors(found: Comparison) -> Section:
    """The paired error of each solver, with its interval."""
    fine = found.fine
    n = str(len(fine.x))
    rows = [("fine solve", str(FINE_STEPS), f"floor {number(fine.floor)}", "", "", n)]
    for key, name, calls in _entries(found):
        cells = paired_cells(found.paired[key]) if key in found.paired else ("stochastic", "", "")
        rows.append((name, str(calls), *cells, n if key in found.paired else ""))
    return Section(
        "Error of each solver",
        [
            "All solvers start from the seeds of the fine solve. Between two samples of one seed there is the error of the solver alone."
        ],
        table=Table(("solver", "calls", "rms error", "95 % interval", "median", "n"), rows),
        note=f"Errors are {unit(fine.x)}. Floor: the fine solve moves by as much when it takes {FINE_STEPS // 2} steps. "
        f"For scale: samples of different seeds are {number(fine.scale)} apart. {_defaults(found)}",
        terms=(
            "calls",
            "fine solve",
            "error",
            "rms",
            "interval",
            "floor",
            *(["stochastic solver"] if len(found.paired) < len(found.entries) else []),
            *(["fitted solver"] if any(entry.solver.endswith(".safetensors") for entry in found.entries) else []),
        ),
    )


def paired_cells(error: PairedError) -> tuple[str, str, str]:
    """The cells of an error: rms, interval, median."""
    return number(error.rms), f"{number(error.low)} to {number(error.high)}", number(error.median)


def samples(found: Comparison) -> Section:
    """Samples of the same seeds, a row for each solver, the fine solve first."""
    fine = found.fine
    rows = {f"fine solve, {FINE_STEPS} calls": fine.x}
    for key, name, calls in _entries(found):
        error = f", rms error {number(found.paired[key].rms)}" if key in found.paired else ", stochastic"
        rows[f"{name}, {calls} calls{error}"] = found.samples[key]
    said = f"Each column is one seed. Errors are {unit(fine.x)}, over n = {len(fine.x)} samples."
    if len(found.paired) < len(found.entries):
        said += " A stochastic solver makes other samples."
    return sample_rows("Samples", said, rows)


def sample_rows(title: str, text: str, rows: Mapping[str, Tensor]) -> Section:
    """A section of rows of samples; of images the first columns."""
    shown = {label: x[:COLUMNS] if is_image(x) else x for label, x in rows.items()}
    return Section(title, [text], pictures=strips(shown, "samples"))


def curve(found: Comparison) -> Section:
    """The error plot."""
    n = min(CURVE_SAMPLES, len(found.fine.x))
    named = {_name(label): pairs for label, pairs in found.curves.items()}
    figure = error_figure(named, "rms error against the fine solve", (4.8, 3.9))
    listed = "; ".join(f"{label} " + ", ".join(f"{nfe}: {number(error)}" for nfe, error in pairs) for label, pairs in named.items())
    left_out = f" Not here: {', '.join(map(_name, found.without_curve))}, not deterministic." if found.without_curve else ""
    return Section(
        "Error against network calls",
        ["Lower is better, further left is cheaper. Both axes are logarithmic."],
        pictures=[plotted(figure, "", f"rms error by network calls. {listed}")],
        note=f"Errors are {unit(found.fine.x)}, over n = {n} samples.{left_out}",
        terms=("calls", "fine solve", "error", "rms"),
    )


def distances(found: Comparison, about_labels: str = "") -> Section:
    """The Frechet and the kernel distance of each solver to data, beside their floors."""
    yardstick, reference = found.yardstick, len(found.yardstick.reference)
    one, other = map(len, yardstick.pair)
    measured: dict[str, tuple[dict[str, str], str, str]] = {}
    notes = [yardstick.no_frechet, yardstick.no_kernel]
    if not yardstick.no_frechet:
        values = {key: number(value, 3) for key, value in found.frechet.items()}
        measured["Frechet distance"] = values, number(found.floor, 3), "The Frechet distance is in squares of their units."
    if not yardstick.no_kernel:
        values = {key: _kernel(value) for key, value in found.kernel.items()}
        measured["kernel distance"] = values, _kernel(yardstick.kernel_floor), SCALED_NOTE * yardstick.scaled + KERNEL_NOTE
    rows = [
        (name, str(calls), *(values[key] for values, _, _ in measured.values()), str(yardstick.n))
        for key, name, calls in _entries(found)
    ]
    rows.append(("floor: real data", "", *(floor for _, floor, _ in measured.values()), f"{one} and {other}"))
    if measured:
        notes = [
            f"Distances in {yardstick.name}.",
            *(said for _, _, said in measured.values()),
            f"n samples of each solver against {reference} real ones. Floor: {one} real samples against {other} others.",
            about_labels,
            *notes,
        ]
    return Section(
        "Distance to real data",
        ["The network's errors count here too, so that good solvers differ little. Values near the floor or below it rank nothing."]
        if measured
        else [],
        table=Table(("solver", "calls", *measured, "n"), rows) if measured else None,
        note=" ".join(filter(None, notes)),
        terms=("calls", "floor", *measured) if measured else (),
    )


def unit(x: Tensor) -> str:
    """The unit of a distance between samples, in words."""
    return "per pixel, whose values run from -1 to 1" if is_image(x) else "per coordinate, in units of the data"


def _kernel(distance: KernelDistance) -> str:
    if distance.value < CLEAR * distance.stderr:
        return f"within its error ({number(distance.stderr, 1)})"
    return f"{number(distance.value)} ± {number(distance.stderr, 1)}"


def _entries(found: Comparison) -> list[tuple[str, str, int]]:
    """Key, name and network calls of each entry, the cheapest first."""
    named = [(str(entry), _name(entry.label), int(str(row["NFE"]))) for entry, row in zip(found.entries, found.rows, strict=True)]
    return sorted(named, key=lambda entry: entry[2])


def _defaults(found: Comparison) -> str:
    """What the default was for each of its budgets."""
    chosen = [
        f"{row['solver']} with {row['NFE']} calls"
        for entry, row in zip(found.entries, found.rows, strict=True)
        if entry.solver == DEFAULT
    ]
    return f"Chosen: {'; '.join(chosen)}." if chosen else ""


def _name(solver: str) -> str:
    """The name of a solver; of the file of a fitted one, that of the file."""
    return Path(solver).stem if solver.endswith(".safetensors") else solver


def _shape(event: tuple[int, ...]) -> str:
    size = math.prod(event)
    return f"{size} dimensions" + (f" ({' x '.join(map(str, event))})" if len(event) > 1 else "")
