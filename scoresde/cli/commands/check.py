"""`scoresde check`."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from ...diagnostics.check import check as check_model
from ...networks.labels import null_label
from ...numerics.batching import cond_to_device
from ..foreign import inmost
from ..options import DeviceOption, NetworkOption, RunFolder, default_device, load_run


def check(
    run: RunFolder,
    samples: Annotated[
        int, typer.Option(min=32, help="Most samples to use: held-out ones, and training samples where these are few.")
    ] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Is the network of a RUN what it is said to be?

    Prints its error by noise level, and a verdict with the likely remedy. The check reads the network with other predictions, signs, times,
    processes and scales of the data, on held-out samples, and says which reading fits better. Exit code 1 if something is wrong.
    """
    experiment, loaded = load_run(run, device, network=network)
    # What is wrong with a network is seen before its prediction is held to a range.
    model = inmost(loaded)
    training, held_out = experiment.load_data()
    # The last are tested, and the others tell their mean and covariance. A small folder has few held-out samples.
    parts = [training[: max(0, samples - len(held_out.x))], held_out[:samples]]
    conditions = [cond_to_device(experiment.condition(part), model.device) for part in parts]
    cond = {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}
    x = torch.cat([part.x for part in parts]).to(model.device)
    null = null_label(model)
    if not cond and null is not None:
        cond = {"label": torch.full((len(x),), null, device=model.device)}  # data without labels
    found = check_model(model, x, torch.Generator().manual_seed(seed), **cond)
    print(found)
    if not found.well:
        raise typer.Exit(1)
