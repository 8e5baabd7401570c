"""`scoresde sample`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ... import grids, sampling
from ...guidance import Guided
from ...loops.base import AdaptiveLoop
from ...numerics.batching import cond_to_device
from ...sampling import registry
from ...solvers.tuned import TunedSolver
from .. import report
from ..options import BatchSizeOption, DeviceOption, FirstSeedOption, RunFolder, default_device, labels, load_run, output_file, path

# Network calls per sample, unless the user says how many.
CALLS = 20


def sample(
    run: RunFolder,
    out: Annotated[Path, typer.Option(parser=path, metavar="PATH", help="A .png picture or a .npy array of the samples.")],
    solver: Annotated[
        str,
        typer.Option(
            help="default, the solver and the grid that suit the budget best by our measurements; "
            f"a .safetensors file from `scoresde fit`; or one of {', '.join(sampling.names())}."
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
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000_000, help="Number of samples.")] = 64,
    batch_size: BatchSizeOption = 256,
    seed: FirstSeedOption = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of all samples, for a conditional model; by default the classes in turn.")
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            help="Weight of classifier-free guidance, for a model trained with --label-dropout: 1 for the class alone, 0 for none."
        ),
    ] = 1.0,
    device: DeviceOption = default_device(),
) -> None:
    """Draw samples from a trained RUN."""
    experiment, model = load_run(run, device)
    output_file(out, ".png", ".npy")
    if label is not None and not experiment.conditional:
        raise ValueError(f"--label {label}: {run} was trained without --conditional")
    if label is not None and experiment.classes is not None and label >= experiment.classes:
        raise ValueError(f"--label {label}: the classes of {run} are 0..{experiment.classes - 1}")
    if guidance != 1 and not experiment.recipe.label_dropout:
        raise ValueError(
            f"--guidance {guidance:g}: {run} was trained without --label-dropout, so it has no prediction without a label"
        )
    sampled = model if guidance == 1 else Guided(model, guidance)
    chosen = registry.resolve(solver)
    if steps is None and nfe is None and not isinstance(chosen, AdaptiveLoop | TunedSolver):
        nfe = CALLS
    planned = sampling.plan(sampled, chosen, steps=steps, nfe=nfe, grid=grid, event=experiment.event)
    seeds = range(seed, seed + count)
    x = sampling.sample(
        sampled, (count, *experiment.event), planned, seeds=seeds, batch_size=batch_size, progress=sys.stderr.isatty(),
        **cond_to_device(labels(experiment, seeds, label), model.device),
    ).cpu()  # fmt: skip
    if out.suffix == ".npy":
        import numpy as np

        np.save(out, x.numpy())
    else:
        report.save_samples(x, out)
    each = 1 if guidance in (0, 1) else 2
    calls = "" if planned.nfe is None else f", {each * planned.nfe} network calls"
    print(f"{out}: {len(x)} samples of {report.used(solver, planned)}{calls}")
