"""The command line: train, fit a solver, sample, compare, diagnose."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tabulate import tabulate

from .. import grids, losses, solvers
from ..sampling.sample import sample as draw
from ..train.data import DataError
from ..train.experiment import Experiment
from ..train.recipe import Recipe
from . import report

app = typer.Typer(
    help="Train score models, fit solvers to them, sample with any solver, compare solvers, diagnose what was trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


DEFAULT_ENTRIES = ("ancestral:1000", "ddim:50", "euler-maruyama:250", "heun:25", "dpm++2m:10", "dpm++2m:20")


Run = Annotated[Path, typer.Argument(help="Folder of a training run.", metavar="RUN")]


DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, ...; by default a GPU if there is one.")]


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_device(name: str) -> torch.device:
    """The device of that name, if it can be used."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(help="digits, mnist, fashion, a folder of IDX files, a folder of images, or a .npy file.", metavar="DATA"),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run in it goes on.")],
    iterations: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1200,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in each step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak rate, after the warm-up.")] = 2e-3,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of the moving average of the weights.")] = 0.995,
    process: Annotated[str, typer.Option(help="linear or cosine: the betas of the chain.")] = "linear",
    steps: Annotated[int, typer.Option(min=2, help="Length T of the chain.")] = 1000,
    prediction: Annotated[str, typer.Option(help="What the network returns: noise, velocity, data or score.")] = "noise",
    weighting: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(losses.WEIGHTINGS)}; by default plain squared error of the prediction.")
    ] = None,
    time_sampler: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(losses.TIME_SAMPLERS)}, adaptive; by default discrete.")
    ] = None,
    width: Annotated[int, typer.Option(min=2, help="Channels of the U-Net's first level; hidden width of the MLP.")] = 32,
    multipliers: Annotated[str, typer.Option(help="Width of each U-Net level, in units of --width.")] = "1,2",
    patch: Annotated[int, typer.Option(min=1, help="Side of the pixel blocks that the U-Net folds into channels.")] = 1,
    conditional: Annotated[bool, typer.Option("--conditional", help="Train with class labels.")] = False,
    held_out: Annotated[int, typer.Option(min=1, help="Samples kept from training.")] = 200,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Run the network in bfloat16 autocast.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Iterations between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, batches, times and noise.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Train a network on DATA.

    A U-Net on images, an MLP on anything else. The same command goes on where an interrupted one stopped.
    """
    if weighting is None:
        weighting = "sigma2" if prediction == "score" else prediction
    try:
        levels = tuple(int(m) for m in multipliers.split(","))
    except ValueError:
        raise ValueError(f"--multipliers {multipliers}: need a list of integers such as 1,2,2") from None
    experiment = Experiment(
        data, held_out, process, steps, prediction, width, levels, patch, conditional,  # type: ignore[arg-type]
        Recipe(
            iterations, batch_size, learning_rate, ema=ema, weighting=weighting, time_sampler=time_sampler, bfloat16=bfloat16,
            save_every=save_every, seed=seed,
        ),
    )  # fmt: skip
    trainer = experiment.train(out, to_device(device))
    last = trainer.history[-1]
    print(
        f"{out}: {trainer.iteration} iterations, validation loss {last['validation']:.4f} "
        f"(a network that returns zero: {last['zero']:.4f})"
    )


@app.command()
def fit(
    run: Run,
    out: Annotated[Path, typer.Option(help="The .safetensors file of the solver.")],
    nfe: Annotated[int, typer.Option(min=2, help="Network calls per sample.")] = 8,
    trajectories: Annotated[int, typer.Option(min=8, help="Starts to fit to, half of them held out.")] = 256,
    refine: Annotated[
        int, typer.Option(min=0, help="Most rounds of joint refinement at the end; they stop where it no longer helps.")
    ] = 6,
    teacher_steps: Annotated[
        int | None, typer.Option(min=2, help="Steps of the fine solves; by default as many as they need.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples that the network sees at once.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the starts.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Fit a solver to a trained RUN, for one number of network calls.

    `sample` and `compare` take the file in place of a solver's name.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: the file must end in .safetensors")
    experiment = Experiment.read(run)
    model = experiment.load_model(run, to_device(device))
    cond: dict[str, Any] = {name: value.to(model.device) for name, value in _labels(experiment, range(trajectories)).items()}
    fitted = solvers.fit(
        model, nfe, shape=experiment.event, trajectories=trajectories, cond=cond, seed=seed, progress=sys.stderr.isatty(),
        refine=refine, teacher_steps=teacher_steps, batch_size=batch_size,
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    fitted.save(out)
    print(f"{out}: {fitted}")


@app.command()
def sample(
    run: Run,
    out: Annotated[Path, typer.Option(help="A .png picture or a .npy array of the samples.")],
    solver: Annotated[
        str, typer.Option(help=f"A .safetensors file from `scoresde fit`, or one of {', '.join(solvers.names())}.")
    ] = "dpm++2m",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Grid intervals; 20 if neither --steps nor --nfe is given. A fitted solver has its own."),
    ] = None,
    nfe: Annotated[int | None, typer.Option(min=1, help="Upper bound on network calls per sample.")] = None,
    grid: Annotated[str | None, typer.Option(help=f"One of {', '.join(grids.names())}; by default the solver's own.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of samples.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once; they do not depend on it.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next has seed + 1.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of the samples of a conditional model; by default all in turn.")
    ] = None,
    device: DeviceOption = default_device(),
) -> None:
    """Draw samples from a trained RUN."""
    if out.suffix not in (".png", ".npy"):
        raise ValueError(f"--out {out}: the file must end in .png or .npy")
    experiment = Experiment.read(run)
    model = experiment.load_model(run, to_device(device))
    if label is not None and not experiment.conditional:
        raise ValueError(f"--label {label}: {run} was trained without --conditional")
    if label is not None and experiment.classes is not None and label >= experiment.classes:
        raise ValueError(f"--label {label}: the classes of {run} are 0..{experiment.classes - 1}")
    labels = _labels(experiment, range(seed, seed + count), label)
    if steps is None and nfe is None and not solver.endswith(".safetensors"):
        steps = 20
    parts = []
    for start in range(0, count, batch_size):
        seeds = range(seed + start, seed + min(start + batch_size, count))
        cond: dict[str, Any] = {name: value[start : start + batch_size].to(model.device) for name, value in labels.items()}
        shape = (len(seeds), *experiment.event)
        parts.append(
            draw(model, shape, solver, steps=steps, nfe=nfe, grid=grid, seeds=seeds, progress=sys.stderr.isatty(), **cond).cpu()
        )
    x = torch.cat(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        import numpy as np

        np.save(out, x.numpy())
    else:
        report.save_samples(x, out)
    print(f"{out}: {len(x)} samples of {solver}")


@app.command()
def compare(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="Folder for report.md and pictures; by default RUN.")] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver",
            help=f"NAME:STEPS, NAME:STEPS:GRID or the file of a fitted solver, once for each. [default: {' '.join(DEFAULT_ENTRIES)}]",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples for each solver.")] = 256,
    features: Annotated[str, typer.Option(help="pixels, or classifier: of a small network trained here on the labels.")] = "pixels",
    against: Annotated[str, typer.Option(help="held-out or all: the real data that the distance is taken from.")] = "held-out",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn at once; they do not depend on it.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sample; the next has seed + 1.")] = 0,
    curves: Annotated[bool, typer.Option(help="Plot the error against the number of network calls.")] = True,
    device: DeviceOption = default_device(),
) -> None:
    """Compare solvers on a trained RUN.

    All sample from the same seeds. Prints a table and writes report.md, a picture with a row of samples for each solver, and a plot of the
    error against the number of network calls.
    """
    entries = [report.parse_entry(text) for text in solver or DEFAULT_ENTRIES]
    if features not in ("pixels", "classifier"):
        raise ValueError(f"--features {features}: must be pixels or classifier")
    if against not in ("held-out", "all"):
        raise ValueError(f"--against {against}: must be held-out or all")
    experiment = Experiment.read(run)
    model = experiment.load_model(run, to_device(device))
    training, held_out = experiment.load_data()
    if against == "held-out":
        reference, real_pair = held_out.x, (training.x[:samples], held_out.x)
    else:
        reference = torch.cat([training.x, held_out.x])
        real_pair = (reference[::2], reference[1::2])
    classifier = None
    if features == "classifier":
        if training.labels is None or training.x.ndim != 4:
            raise ValueError("--features classifier needs images with labels")
        classifier = report.Classifier.trained(training.x, training.labels)
    seeds = range(seed, seed + samples)
    result = report.compare(
        model, entries, reference, real_pair, seeds=seeds, batch_size=batch_size, classifier=classifier,
        conditions=_labels(experiment, seeds), curve_nfe=(5, 8, 10, 15, 20, 30) if curves else (), progress=sys.stderr.isatty(),
    )  # fmt: skip
    out = out or run
    out.mkdir(parents=True, exist_ok=True)
    rows = {name: x[:16] if report.is_image(x) else x for name, x in result.samples.items()}
    report.save_rows(rows, out / "compare.png")
    if result.curves:
        report.save_error_plot(result.curves, out / "error.png")
    table = tabulate(result.rows, headers="keys", tablefmt="github", floatfmt=".3g")
    note = (
        f"Frechet distance in {result.features} between {samples} samples of each solver and {len(reference)} real ones "
        f"({'held-out' if against == 'held-out' else 'all'} data). Floor: {len(real_pair[0])} real samples against {len(real_pair[1])} "
        f"others are at {result.floor:.3g}. Not an FID: compare only numbers of one table."
    )
    text = report.markdown(run, experiment, table, note, bool(result.curves))
    (out / "report.md").write_text(text)
    print(f"{table}\n\n{note}\n\nwritten: {out}/report.md, compare.png" + (", error.png" if result.curves else ""))


@app.command()
def diagnose(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="Folder for diagnosis.md, .json and .png; by default RUN.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="The most held-out samples (and training samples) to look at.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of noise, times and probes.")] = 0,
    device: DeviceOption = default_device(),
) -> None:
    """Diagnose a trained RUN on samples that it has not seen.

    Prints the held-out log-likelihood and its bounds, in nats, and for data in bins in bits per dimension; draws the loss by time, and how far
    the network is from being a score: the residual of the Fokker-Planck equation and the asymmetry of its Jacobian.
    """
    experiment = Experiment.read(run)
    model = experiment.load_model(run, to_device(device))
    training, held_out = (part[:samples] for part in experiment.load_data())
    result = report.diagnose(
        model, training.x.to(model.device), held_out.x.to(model.device), bins=held_out.bins, weighting=experiment.recipe.weighting,
        seed=seed,
        training_cond={name: value.to(model.device) for name, value in experiment.condition(training).items()},
        held_out_cond={name: value.to(model.device) for name, value in experiment.condition(held_out).items()},
    )  # fmt: skip
    out = out or run
    out.mkdir(parents=True, exist_ok=True)
    report.save_diagnosis(result, out / "diagnosis.png")
    (out / "diagnosis.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    table, note = report.density_table(result, held_out.bins)
    (out / "diagnosis.md").write_text(report.diagnosis_markdown(run, experiment, table, note))
    print(f"{table}\n\n{note}\n\nwritten: {out}/diagnosis.md, diagnosis.json, diagnosis.png")


def _labels(experiment: Experiment, seeds: range, label: int | None = None) -> dict[str, torch.Tensor]:
    """For a conditional model the class of each sample: the one given, or all in turn by the seeds."""
    if not experiment.conditional or experiment.classes is None:
        return {}
    return {"label": torch.tensor([seed % experiment.classes if label is None else label for seed in seeds])}


def main() -> None:
    """Run the command line: what the user can mend is one line and exit code 2."""
    try:
        app()
    except (ValueError, DataError, FileNotFoundError, FloatingPointError) as error:
        print(f"scoresde: {error}", file=sys.stderr)
        sys.exit(2)
