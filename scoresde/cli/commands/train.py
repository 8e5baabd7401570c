"""`scoresde train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...losses.times import TIME_SAMPLERS
from ...losses.weightings import WEIGHTINGS
from ...numerics.inputs import as_one_of
from ...sde.prediction import PREDICTIONS, PREDICTIONS_ELSEWHERE
from ...train.experiment import Experiment
from ...train.processes import PROCESSES
from ...train.recipe import Recipe
from ..options import DeviceOption, default_device, path, usable_device


def train(
    data: Annotated[
        str,
        typer.Argument(help="digits, mnist, fashion, a folder of IDX files, a folder of images, or a .npy file.", metavar="DATA"),
    ],
    out: Annotated[Path, typer.Option(parser=path, metavar="PATH", help="Folder of the run. An interrupted run in it continues.")],
    iterations: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1200,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in each step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate, after the warm-up.")] = 2e-3,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of the moving average of the weights.")] = 0.995,
    process: Annotated[
        str,
        typer.Option(
            help="What turns data into noise: the chains linear and cosine; the paths vp, sub-vp, ve, edm and flow; or blur, coloured, cld and "
            "hold, whose blocks of coordinates have noise of their own."
        ),
    ] = "linear",
    steps: Annotated[int, typer.Option(min=2, help="Length T of a chain; other processes have none.")] = 1000,
    prediction: Annotated[str, typer.Option(help="What the network returns: noise, velocity, data, score or edm.")] = "noise",
    weighting: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(WEIGHTINGS)}; by default the plain squared error of the prediction."),
    ] = None,
    time_sampler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(TIME_SAMPLERS)}, adaptive; by default discrete.")
    ] = None,
    width: Annotated[
        int, typer.Option(min=2, max=65_536, help="Channels of the U-Net's first level; hidden width of the MLP.")
    ] = 32,
    multipliers: Annotated[str, typer.Option(help="Width of each U-Net level, in units of --width.")] = "1,2",
    patch: Annotated[int, typer.Option(min=1, help="Side of the pixel blocks that the U-Net folds into channels.")] = 1,
    conditional: Annotated[bool, typer.Option("--conditional", help="Train with class labels.")] = False,
    label_dropout: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of labels left out in a step, with --conditional: sample --guidance needs 0.1 or so."
        ),
    ] = 0.0,
    held_out: Annotated[int, typer.Option(min=1, help="Samples excluded from training.")] = 200,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Run the network in bfloat16 autocast.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights, batches, times and noise.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Train a network on DATA.

    Images get a U-Net, other data an MLP. The same command continues an interrupted run.
    """
    as_one_of("--process", process, PROCESSES)
    as_one_of("--prediction", prediction, (*PREDICTIONS, "edm"), elsewhere=PREDICTIONS_ELSEWHERE)
    if weighting is None:
        weighting = "sigma2" if prediction == "score" else prediction
    try:
        levels = tuple(int(m) for m in multipliers.split(","))
    except ValueError:
        raise ValueError(f"--multipliers {multipliers}: need a list of integers such as 1,2,2") from None
    experiment = Experiment(
        data, held_out, process, steps, prediction, width, levels, patch, conditional,  # type: ignore[arg-type]
        Recipe(
            iterations, batch_size, learning_rate, ema=ema, weighting=weighting, time_sampler=time_sampler,
            label_dropout=label_dropout, bfloat16=bfloat16, save_every=save_every, seed=seed,
        ),
    )  # fmt: skip
    trainer = experiment.train(out, usable_device(device))
    last = trainer.history[-1]
    print(
        f"{out}: {trainer.iteration} iterations, validation loss {last['validation']:.4f} "
        f"(a network that returns zero: {last['zero']:.4f})"
    )
