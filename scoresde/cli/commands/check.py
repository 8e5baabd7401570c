"""`scoresde check`."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from ...diagnostics.check import check as check_model
from ...numerics.batching import cond_to_device
from ..options import DeviceOption, RunFolder, default_device, load_run


def check(
    run: RunFolder,
    samples: Annotated[int, typer.Option(min=32, help="Most held-out samples to use.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Is the network of a RUN what it is said to be? Prints its error by noise level, and a verdict with the likely remedy.

    The check reads the network with other predictions, signs, times, processes and scales of the data, on held-out samples, and says which
    reading fits better. Exit code 1 if something is wrong.
    """
    experiment, model = load_run(run, device)
    held_out = experiment.load_data()[1][:samples]
    cond = cond_to_device(experiment.condition(held_out), model.device)
    found = check_model(model, held_out.x.to(model.device), torch.Generator().manual_seed(seed), **cond)
    print(found)
    if not found.well:
        raise typer.Exit(1)
