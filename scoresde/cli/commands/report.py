"""`scoresde report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ... import guidance, tuning
from ...numerics.batching import cond_to_device
from ...sde.linear import LinearSDE
from .. import report as reports
from ..options import (
    BatchSizeOption,
    DeviceOption,
    NetworkOption,
    RunFolder,
    default_device,
    labels_of_data,
    load_run,
    output_folder,
    path,
)

# The network calls of the fitted solvers, and what they are compared with.
FITTED_CALLS = (5, 8)
ENTRIES = ("default:5", "default:8", "ddim:8", "dpm++2m:8", "dpm++2m:20", "ancestral:100")

# Rounds of refinement of a fit.
REFINE = 1


def report(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Folder for report.html, and for the fitted solvers in its folder report; by default RUN.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=16, max=10_000, help="Samples for each solver, and of images for each weight of guidance.")
    ] = 200,
    trajectories: Annotated[int, typer.Option(min=40, help="Starting states of each fit, and of the calibration.")] = 128,
    batch_size: BatchSizeOption = 256,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Show what a trained RUN can do, on one page.

    Writes report.html, in place of that of `compare`. Fits solvers of 5 and of 8 network calls and compares them with others. Calibrates a
    bound on the error of each sample. A run on images shows an inpainting too, and with labels and --label-dropout classes by weight of
    guidance.
    """
    experiment, model = load_run(run, device, network=network)
    out = output_folder(out or run)
    training, held_out = experiment.load_data()
    calibration, _ = labels_of_data(experiment, range(trajectories), held_out)
    fits = output_folder(out / "report")  # apart from the solvers that the user fitted
    files = []
    for nfe in FITTED_CALLS:
        fitted = tuning.fit(
            model, nfe, shape=experiment.event, trajectories=trajectories, refine=REFINE, batch_size=batch_size,
            cond=cond_to_device(calibration, model.device), progress=sys.stderr.isatty(),
        )  # fmt: skip
        files.append(str(fits / f"fitted-{nfe}.safetensors"))
        fitted.save(files[-1])
        print(f"{files[-1]}: {fitted}", flush=True)
    seeds = range(samples)
    conditions, about_labels = labels_of_data(experiment, seeds, held_out)
    found = reports.compare(
        model, [reports.parse_entry(text) for text in (*ENTRIES, *files)], held_out.x, (training.x[:samples], held_out.x), seeds=seeds,
        batch_size=batch_size, conditions=conditions, curve_solvers=(*reports.CURVE_SOLVERS, *files),
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    compared = reports.comparison_sections(run, experiment, model, found, about_labels)
    # What is made for processes with one noise level at a time, not one for each coordinate.
    scalar = not isinstance(model.sde, LinearSDE)
    shown = [reports.bounds(model, fitted, found.fine, trajectories, calibration)] if scalar else []
    images = reports.is_image(training.x)
    guidable = experiment.conditional and experiment.recipe.label_dropout > 0
    if images and guidable and training.labels is not None and experiment.classes is not None:
        classifier = reports.Classifier.trained(training.x, training.labels)
        shown.append(reports.guided(model, classifier, held_out, experiment.classes, samples, batch_size))
    if images and scalar and (guidable or not experiment.conditional):
        prior = guidance.conditioned(model, label=-1) if guidable else model
        shown.append(reports.inpainted(prior, held_out.x.to(model.device), training.x.mean(0)))
    page = reports.html_page(f"{run.name}: what one network can do", reports.lead(found), [*compared[:-1], *shown, compared[-1]])
    (out / "report.html").write_text(page, encoding="utf-8")
    print(f"{reports.lead(found)}\n\nwritten: {out}/report.html")
