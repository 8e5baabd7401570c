"""`scoresde fit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ... import tuning
from ...numerics.batching import cond_to_device
from ..options import DeviceOption, RunFolder, default_device, labels, load_run, output_file, path


def fit(
    run: RunFolder,
    out: Annotated[Path, typer.Option(parser=path, metavar="PATH", help="The .safetensors file of the solver.")],
    nfe: Annotated[int, typer.Option(min=2, help="Network calls per sample.")] = 8,
    trajectories: Annotated[int, typer.Option(min=8, help="Starting states, half of them held out from the fit.")] = 256,
    refine: Annotated[
        int, typer.Option(min=0, help="Most rounds of joint refinement. It stops earlier when a round does not help.")
    ] = 6,
    teacher_steps: Annotated[
        int | None, typer.Option(min=2, help="Steps of the reference solves; by default as many as they need.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in one network call.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starting states.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Fit a solver to a trained RUN, for one number of network calls.

    `sample` and `compare` take the file in place of a solver's name.
    """
    experiment, model = load_run(run, device)
    output_file(out, ".safetensors")
    cond = cond_to_device(labels(experiment, range(trajectories)), model.device)
    fitted = tuning.fit(
        model, nfe, shape=experiment.event, trajectories=trajectories, cond=cond, seed=seed, progress=sys.stderr.isatty(),
        refine=refine, reference_steps=teacher_steps, batch_size=batch_size,
    )  # fmt: skip
    fitted.save(out)
    print(f"{out}: {fitted}")
