"""`scoresde compare`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from tabulate import tabulate

from ...data import Data
from .. import report
from ..options import (
    BatchSizeOption,
    DeviceOption,
    FirstSeedOption,
    GuidanceOption,
    NetworkOption,
    RunFolder,
    default_device,
    guided,
    labels_of_data,
    load_run,
    output_folder,
    path,
)

DEFAULT_ENTRIES = (
    "ancestral:1000", "ddim:50", "euler-maruyama:250", "heun:25", "dpm++2m:10", "dpm++2m:20", "default:10", "default:20",
)  # fmt: skip


def compare(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(parser=path, metavar="PATH", help="Folder for report.html and pictures; by default RUN.")
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver",
            metavar="NAME:STEPS",
            help="NAME:STEPS, NAME:STEPS:GRID or the file of a fitted solver; repeat the option for each solver. "
            "default:CALLS is the solver and the grid that suit this number of network calls best by our measurements; auto:CALLS is the "
            "best of a pilot on this model. "
            "The steps of an adaptive solver are the most that it may try. "
            f"[default: {' '.join(DEFAULT_ENTRIES)}]",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, max=10_000_000, help="Samples for each solver.")] = 256,
    features: Annotated[
        str, typer.Option(help="pixels, or classifier: the features of a small network, trained first on the labels.")
    ] = "pixels",
    against: Annotated[str, typer.Option(help="The real data of the distance: held-out or all.")] = "held-out",
    batch_size: BatchSizeOption = 256,
    seed: FirstSeedOption = 0,
    curves: Annotated[bool, typer.Option(help="Plot the error against the number of network calls.")] = True,
    guidance: GuidanceOption = 1.0,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Compare solvers on a trained RUN.

    All solvers sample from the same seeds. Prints a table and writes report.html, one file with all pictures in it, and its parts: report.md, a
    picture with a row of samples for each solver, and a plot of the error against the number of network calls. The plot shows the deterministic
    solvers that are given, or a few common ones without --solver.
    """
    entries = [report.parse_entry(text) for text in solver or DEFAULT_ENTRIES]
    if features not in ("pixels", "classifier"):
        raise ValueError(f"--features {features}: must be pixels or classifier")
    if against not in ("held-out", "all"):
        raise ValueError(f"--against {against}: must be held-out or all")
    experiment, model = load_run(run, device, network=network)
    out = output_folder(out or run)
    training, held_out = experiment.load_data()
    if against == "held-out":
        real, real_pair = held_out, (training.x[:samples], held_out.x)
    else:
        real = joined(training, held_out)
        real_pair = (real.x[::2], real.x[1::2])
    classifier = None
    if features == "classifier":
        if training.labels is None or training.x.ndim != 4:
            raise ValueError("--features classifier needs images with labels")
        classifier = report.Classifier.trained(training.x, training.labels)
    seeds = range(seed, seed + samples)
    conditions, about_labels = labels_of_data(experiment, seeds, real)
    result = report.compare(
        guided(run, experiment, model, guidance), entries, real.x, real_pair, seeds=seeds, batch_size=batch_size, classifier=classifier,
        conditions=conditions, curve_solvers=entries if solver else report.CURVE_SOLVERS,
        curve_nfe=report.CURVE_NFE if curves else (), progress=sys.stderr.isatty(),
    )  # fmt: skip
    rows = {name: x[:16] if report.is_image(x) else x for name, x in result.samples.items()}
    report.save_rows(rows, out / "compare.png")
    if result.curves:
        report.save_error_plot(result.curves, out / "error.png")
    for entry, row in zip(result.entries, result.rows, strict=True):
        row["rms error"] = result.paired[str(entry)].rms if str(entry) in result.paired else None
    table = tabulate(result.rows, headers="keys", tablefmt="github", floatfmt=".3g")
    note = (
        result.yardstick.no_frechet
        if result.yardstick.no_frechet
        else f"Frechet distance in {result.yardstick.name} between {samples} samples of each solver and {len(real.x)} real ones "
        f"({against} data). Floor: {len(real_pair[0])} real samples are at {result.floor:.3g} from {len(real_pair[1])} others. "
        f"Not an FID: compare only numbers of one table. {about_labels}".rstrip()
    )
    if curves and result.without_curve:
        note += f" No error is plotted for {', '.join(result.without_curve)}: it is for deterministic solvers."
    if any(int(str(row["steps"])) == int(str(row["NFE"])) + 1 for row in result.rows if "late " in str(row["solver"])):
        note += " A late first call: the first step is taken without a network call."
    if guidance not in (0, 1):
        note += f" Each call of the model with --guidance {guidance:g} evaluates the network twice."
    (out / "report.md").write_text(report.markdown(run, experiment, table, note, bool(result.curves)))
    title, sections = (
        f"{run.name}: one network, {len(result.rows)} solvers",
        report.comparison_sections(run, experiment, model, result, about_labels),
    )
    (out / "report.html").write_text(report.html_page(title, report.lead(result), sections), encoding="utf-8")
    print(
        f"{report.lead(result)}\n\n{table}\n\n{note}\n\nwritten: {out}/report.html, report.md, compare.png"
        + (", error.png" if result.curves else "")
    )


def joined(training: Data, held_out: Data) -> Data:
    """The data before they were split, in another order."""
    labels = None if training.labels is None or held_out.labels is None else torch.cat([training.labels, held_out.labels])
    return replace(training, x=torch.cat([training.x, held_out.x]), labels=labels)
