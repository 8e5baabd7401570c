"""`scoresde train`."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer

from ...data import NAMES
from ...losses.times import TIME_SAMPLERS
from ...losses.weightings import WEIGHTINGS
from ...numerics.inputs import as_one_of
from ...sde.prediction import PREDICTIONS, PREDICTIONS_ELSEWHERE
from ...train.architectures import ARCHITECTURES
from ...train.config import CONFIG
from ...train.experiment import Experiment
from ...train.presets import PRESETS
from ...train.processes import PROCESSES, USUAL
from ...train.recipe import DECAYS, Recipe
from ...train.tracking import TRACKERS
from ...train.trainer import Trainer
from ..configuration import from_file, from_preset, from_run
from ..options import CropOption, DeviceOption, ModeOption, SizeOption, default_device, integers, path, usable_device
from ..pictures import COUNT, Pictures
from ..training import default_folder, summary


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="digits, mnist, fashion, a folder of images, a folder of IDX files, an .npy file, or an .npz file of x and label. Labels "
            "and sub-folders of images are classes, for --conditional.",
            metavar="DATA",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Folder of the run; by default runs/ and the name of the data. The run in it continues.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            parser=path,
            metavar="PATH",
            callback=from_run,
            help="Continue the run of this folder with its own data and options. More --iterations train it longer. DATA that were "
            "moved are given anew.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=from_file,
            help="A .toml file of these options, such as batch-size = 64. Options given here win.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            is_eager=True,
            callback=from_preset,
            help=f"Published hyper-parameters for CIFAR-10: {', '.join(PRESETS)}. A file and options given here win.",
        ),
    ] = None,
    iterations: Annotated[
        int,
        typer.Option(
            min=1,
            help="Optimiser steps. More of them continue a finished run. Its learning rate then follows the schedule of the longer run.",
        ),
    ] = 1200,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in each step, of all processes together.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate, after the warm-up.")] = 2e-3,
    warmup: Annotated[int, typer.Option(min=0, help="Iterations in which the rate rises to its peak.")] = 100,
    decay: Annotated[str, typer.Option(help=f"How the rate falls to its end: {' or '.join(DECAYS)}.")] = "cosine",
    final_rate: Annotated[float, typer.Option(min=0, max=1, help="Rate at the end, as a fraction of the peak.")] = 0.02,
    weight_decay: Annotated[float, typer.Option(min=0, help="Weight decay of AdamW.")] = 0.01,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; inf for no limit.")] = 1.0,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of the moving average of the weights.")] = 0.995,
    snapshot_every: Annotated[
        int,
        typer.Option(
            min=0,
            help="Iterations between two snapshots of the averaged weights. From them sample --average-length forms an average of another "
            "length after the training. 0: no snapshots.",
        ),
    ] = 0,
    process: Annotated[
        str,
        typer.Option(
            help="What turns data into noise: the chains linear and cosine; the paths vp, sub-vp, ve, edm and flow; or blur, coloured, cld and "
            "hold, whose blocks of coordinates have noise of their own."
        ),
    ] = "cosine",
    steps: Annotated[int, typer.Option(min=2, help="Length T of a chain; other processes have none.")] = 1000,
    prediction: Annotated[
        str | None,
        typer.Option(
            help="What the network returns: noise, velocity, data, score or edm. By default a velocity, edm on ve and edm, and noise on blur, "
            "coloured, cld and hold."
        ),
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(WEIGHTINGS)}; by default the plain squared error of the prediction."),
    ] = None,
    time_sampler: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(TIME_SAMPLERS)}, adaptive; by default discrete, and log_normal for an edm prediction."
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(help=f"Of images: {', '.join(ARCHITECTURES)}. Other data get an MLP of --width.")
    ] = "unet",
    width: Annotated[
        int, typer.Option(min=2, max=65_536, help="Channels of the first level or of a transformer; hidden width of the MLP.")
    ] = 32,
    multipliers: Annotated[str, typer.Option(help="Width of each U-Net level, in units of --width.")] = "1,2",
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of each level, or of a transformer.")] = 1,
    attention: Annotated[
        str | None, typer.Option(help="Levels with attention, from 0 at the top, such as 1,2; by default the last.")
    ] = None,
    heads: Annotated[int, typer.Option(min=1, help="Heads of attention, of unet and dit.")] = 4,
    dropout: Annotated[float, typer.Option(min=0, max=1, help="Dropout in the blocks.")] = 0.0,
    patch: Annotated[int, typer.Option(min=1, help="Side of the pixel blocks that unet and dit fold into channels.")] = 1,
    conditional: Annotated[bool, typer.Option("--conditional", help="Train with class labels.")] = False,
    label_dropout: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of labels left out in a step, with --conditional: sample --guidance needs 0.1 or so."
        ),
    ] = 0.0,
    size: SizeOption = None,
    crop: CropOption = None,
    mode: ModeOption = None,
    mirrored: Annotated[bool, typer.Option("--mirrored", help="Train on the mirror image of each image too.")] = False,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples excluded from training; by default 10 %, at most 1,000. At most half of the data can be held out."
        ),
    ] = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Run the network in bfloat16 autocast.")] = False,
    float16: Annotated[bool, typer.Option("--float16", help="Run the network in float16 autocast, with a scaled loss.")] = False,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute activations again in the backward pass: less memory, more time.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Keep the channels of a pixel together in memory: faster convolutions.")
    ] = False,
    validate_every: Annotated[int, typer.Option(min=1, help="Iterations between validations.")] = 200,
    save_every: Annotated[
        int, typer.Option(min=1, help="Iterations between checkpoints. Every five minutes, SIGTERM and Ctrl-C write one too.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights, batches, times and noise.")] = 0,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Processes that read the data while training. 0: all data are read into memory first."),
    ] = 0,
    parallel: Annotated[
        str | None,
        typer.Option(help="ddp or fsdp2, under torchrun; by default ddp where torchrun starts several processes."),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Micro-batches of a step, for less memory. The result is the same as without.")
    ] = 1,
    log: Annotated[list[str] | None, typer.Option(help=f"A tracker: {' or '.join(TRACKERS)}. May be given twice.")] = None,
    pictures: Annotated[
        int,
        typer.Option(
            min=0,
            help="Samples drawn at every validation: the last are samples.png, and the folder pictures has all. 0: only after training.",
        ),
    ] = COUNT,
    device: DeviceOption = default_device(),
) -> None:
    """Train a network on DATA.

    Images get a U-Net, other data an MLP. The same command continues an interrupted run, and with more --iterations a finished one. Under
    torchrun it trains on several processes. The folder of the run gets samples.png and loss.png.
    """
    given: dict[str, Any] = dict(locals())
    if data is None:
        raise ValueError("give DATA to begin a run, or --resume to continue one")
    folder = out or default_folder(data)
    if resume is not None and folder != resume:
        raise ValueError(f"--resume {resume} continues in its own folder: leave out --out {folder}")
    if resume is not None and data not in NAMES and not Path(data).exists():
        raise ValueError(
            f"{data} is not there: where the data were moved, give their new place, scoresde train --resume {resume} DATA"
        )
    usual = USUAL[as_one_of("--process", process, PROCESSES)]
    given["prediction"] = as_one_of("--prediction", prediction or usual, (*PREDICTIONS, "edm"), elsewhere=PREDICTIONS_ELSEWHERE)
    given["multipliers"] = integers("--multipliers", multipliers)
    given["attention"] = None if attention is None else integers("--attention", attention)
    if weighting is None:
        given["weighting"] = "sigma2" if given["prediction"] == "score" else given["prediction"]
    if time_sampler is None and given["prediction"] == "edm" and resume is None:
        given["time_sampler"] = "log_normal"  # Karras et al. 2022, table 1
    usable = usable_device(device)
    # What is no option, such as the betas of AdamW, is that of the run.
    base = Experiment(data) if resume is None else Experiment.read(resume)
    recipe = replace(base.recipe, **{field.name: given[field.name] for field in fields(Recipe) if field.name in given})
    entries = {field.name: given[field.name] for field in fields(Experiment) if field.name in given}
    experiment = replace(base, **entries, recipe=recipe)
    before = Experiment.read(folder).recipe.iterations if (folder / CONFIG).exists() else None
    drawn = Pictures(folder)
    trainer = experiment.trainer(
        folder, usable, on_the_way=workers > 0, channels_last=channels_last, parallel=parallel, accumulate=accumulate,
        workers=workers, log=log or [], callbacks=[lambda trainer, _row: drawn(trainer, pictures)] if pictures else [],
    )  # fmt: skip
    if trainer.main:
        print(summary(Experiment.read(folder), trainer, folder, before), flush=True)
    try:
        _run(trainer, folder)
        if not pictures or not drawn.last:
            drawn(trainer, pictures or COUNT)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    if trainer.main:
        last = trainer.history[-1]
        print(
            f"{folder}: {trainer.iteration} iterations, held-out loss {last['validation']:.4f} "
            f"(a network that returns zero: {last['zero']:.4f}); see samples.png and loss.png"
        )


def _run(trainer: Trainer, folder: Path) -> None:
    """Train, and say how to go on where a signal stops it.

    Raises:
        SystemExit: with the exit code that a shell gives the signal.
    """
    try:
        trainer.run()
    except (KeyboardInterrupt, SystemExit) as stop:
        if trainer.main:
            print(f"scoresde: stopped; to go on: scoresde train --resume {shlex.quote(str(folder))}", file=sys.stderr)
        raise SystemExit(stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT) from None
