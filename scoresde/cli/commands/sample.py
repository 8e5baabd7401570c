"""`scoresde sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ... import grids, sampling
from ...loops.base import AdaptiveLoop
from ...numerics.batching import cond_to_device
from ...sampling import registry
from ...sampling.auto import NOISES
from ...sampling.chunk_files import FORMATS
from ...solvers.tuned import TunedSolver
from .. import report
from ..bounds import calibrated, sample_with_bounds, save_bounds
from ..options import (
    BatchSizeOption,
    DeviceOption,
    FirstSeedOption,
    GuidanceOption,
    NetworkOption,
    RunFolder,
    default_device,
    guided,
    label_number,
    labels,
    load_run,
    output_file,
    output_folder,
    path,
)

# What a folder gets: chunks, or of images a file each.
CHUNKS, IMAGES = "safetensors", "png"
# Network calls per sample, unless the user says how many.
CALLS = 20


def sample(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="A .png or .jpg picture, a .npy array, or a folder that several processes can fill. [default: RUN/samples.png]",
        ),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(
            help="default, the solver and the grid that suit the budget best by our measurements; "
            "auto, the best of a pilot on this model; "
            f"a .safetensors file from `scoresde fit`; one of {', '.join(sampling.names())}; "
            "or a name of another library, such as 'DPM++ 2M Karras'.",
            autocompletion=lambda incomplete: [
                name for name in (registry.DEFAULT, registry.AUTO, *sampling.names()) if name.startswith(incomplete)
            ],
        ),
    ] = registry.DEFAULT,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Grid intervals. A fitted solver has its own. For an adaptive solver the most that it may try."),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(min=1, help=f"Upper bound on network calls per sample; {CALLS} if neither --steps nor --nfe is given."),
    ] = None,
    grid: Annotated[str | None, typer.Option(help=f"One of {', '.join(grids.names())}; by default the solver's own.")] = None,
    count: Annotated[int, typer.Option("--count", "--n", "-n", min=1, max=10_000_000, help="Number of samples.")] = 64,
    batch_size: BatchSizeOption = 256,
    chunk: Annotated[int, typer.Option(min=1, help="Samples in one file of a folder.")] = 256,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"Of a folder: {', '.join(FORMATS)}. Chunks of --chunk samples, or with png one image a sample, by its seed; by default png "
            "for images.",
        ),
    ] = None,
    seed: FirstSeedOption = 0,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class of all samples, its name or its number, for a conditional model; by default the classes in turn: "
            "a sample has its seed modulo the number of classes. Chunks of a folder have it as `label`, beside x and seeds."
        ),
    ] = None,
    guidance: GuidanceOption = 1.0,
    bound: Annotated[
        bool,
        typer.Option(
            "--bound", help="Bound the error of each sample, by a calibrated solver: see fit --bound. Writes a .bounds.csv."
        ),
    ] = False,
    tol: Annotated[
        float | None,
        typer.Option(
            help="Error to stay below, rms a coordinate: a calibrated solver of several levels stops at the first that does."
        ),
    ] = None,
    average_length: Annotated[
        float | None,
        typer.Option(
            help="Average the weights over this share of the training, for a run with --snapshot-every: above 0 and below 0.2887. "
            "It is sigma_rel, the width of the profile of the average; that of a power average is below 12^-1/2."
        ),
    ] = None,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Draw samples from a trained RUN.

    Into a folder every process draws its share of the chunks: start it by torchrun, with RANK and WORLD_SIZE set, or as a SLURM job array.
    Chunks that are there are kept, so that a job that was killed is started once more.
    """
    experiment, model = load_run(run, device, average_length, network)
    out = out or run / "samples.png"
    if out.suffix:
        output_file(out, ".png", ".jpg", ".jpeg", ".npy")
    else:
        output_folder(out)
        if bound:
            raise ValueError(f"--out {out}: --bound needs a file, such as {out}.npy")
    number = None if label is None else label_number(run, experiment, label)
    sampled = guided(run, experiment, model, guidance)
    chosen = solver if registry.is_auto(solver) else calibrated(solver, bound, tol) or registry.resolve(solver)
    if steps is None and nfe is None and not isinstance(chosen, AdaptiveLoop | TunedSolver):
        nfe = CALLS
    pilot = cond_to_device(labels(experiment, range(NOISES), number), model.device)
    planned = sampling.plan(sampled, chosen, steps=steps, nfe=nfe, grid=grid, event=experiment.event, cond=pilot)
    calls = "" if planned.nfe is None else f", {calls_text(planned.nfe, guidance)}"
    said = f"samples of {report.used(solver, planned)}{calls}"
    if not out.suffix:

        def conditions(seeds: Tensor) -> dict[str, Tensor]:
            return labels(experiment, range(int(seeds[0]), int(seeds[-1]) + 1), number)

        form = file_format or (IMAGES if report.is_image(torch.empty(0, *experiment.event)) else CHUNKS)
        drawn = sampling.sample_to(
            out, sampled, count, experiment.event, planned, first_seed=seed, chunk=chunk, cond=conditions,
            format=form,
            batch_size=batch_size if batch_size < chunk else None, progress=sys.stderr.isatty(),
        )  # fmt: skip
        found = f", {drawn.found} were there" if drawn.found else ""
        missing = f"; {drawn.missing} chunks of the set are missing" if drawn.missing else ""
        images = f"; the images are {out}/{f'{seed:06d}' if count <= chunk else '*'}/*.png" if form == IMAGES else ""
        print(f"{out}: {drawn.drawn} {said}{found}{missing}{images}")
        return
    seeds = range(seed, seed + count)
    cond = labels(experiment, seeds, number)
    if bound:
        x, bounds, mean = sample_with_bounds(sampled, experiment.event, planned, seeds, batch_size, cond)
        said += f", {calls_text(round(mean, 2), guidance)}; bound of the error: {bounds.median():.3g} (median), {bounds.max():.3g} (largest)"
        said += f", in {save_bounds(out, seeds, bounds)}"
    else:
        x = sampling.sample(
            sampled, (count, *experiment.event), planned, seeds=seeds, batch_size=batch_size, progress=sys.stderr.isatty(),
            **cond_to_device(cond, model.device),
        ).cpu()  # fmt: skip
    if out.suffix == ".npy":
        import numpy as np

        np.save(out, x.numpy())
    else:
        report.save_samples(x, out)
    print(f"{out}: {len(x)} {said}")


def calls_text(calls: float, guidance: float) -> str:
    """The network calls of a sample. With guidance a call of the model evaluates the network twice, and --nfe counts it once."""
    if guidance in (0, 1):
        return f"{calls:g} network calls"
    return f"{calls:g} guided calls, {2 * calls:g} evaluations of the network"
