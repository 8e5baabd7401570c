"""`scoresde fit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from ... import sampling, tuning
from ...models.base import Model
from ...models.in_basis import in_basis
from ...numerics.batching import cond_to_device, index_cond
from ...tuning import FittedSolver
from ...tuning.reference import distance, starts
from ...tuning.selection import solve, summary
from ..options import (
    DeviceOption,
    GuidanceOption,
    NetworkOption,
    RunFolder,
    default_device,
    guided,
    labels,
    load_run,
    output_file,
    path,
)
from ..stopping import TERMINATED, Terminated, stopped_by_sigterm

# Starts of the calibration of a bound with 95 %: half of them teach, and 19 is the least number with such a quantile.
CALIBRATED = 38


def fit(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="PATH", help="The .safetensors file of the solver. [default: RUN/fitted-NFE.safetensors]"
        ),
    ] = None,
    nfe: Annotated[int, typer.Option(min=2, help="Network calls per sample.")] = 8,
    trajectories: Annotated[int, typer.Option(min=8, help="Starting states, half of them held out from the fit.")] = 256,
    refine: Annotated[
        int, typer.Option(min=0, help="Most rounds of joint refinement. It stops earlier when a round does not help.")
    ] = 6,
    teacher_steps: Annotated[
        int | None, typer.Option(min=2, help="Steps of the reference solves; by default as many as they need.")
    ] = None,
    bound: Annotated[
        bool,
        typer.Option("--bound", help="Calibrate a bound on the error of each sample too, into a second file, for sample --bound."),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in one network call.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starting states.")] = 0,
    guidance: GuidanceOption = 1.0,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Fit a solver to a trained RUN, for one number of network calls.

    `sample` and `compare` take the file in place of a solver's name. A fit that was interrupted goes on with the same command, from its
    search on: the reference solves are repeated. Prints the error on held-out starts, that of the default with as many calls, and that of the
    reference solves.
    """
    experiment, loaded = load_run(run, device, network=network)
    model = guided(run, experiment, loaded, guidance)
    out = output_file(out or run / f"fitted-{nfe}.safetensors", ".safetensors")
    cond = cond_to_device(labels(experiment, range(trajectories)), model.device)
    if bound and trajectories < CALIBRATED:
        raise ValueError(f"--bound needs --trajectories {CALIBRATED} or more")
    partial = out.with_suffix(".partial.safetensors")
    print(f"{out}: {nfe} calls, {trajectories} starts; first the reference solves", flush=True)
    try:
        with stopped_by_sigterm():
            fitted = tuning.fit(
                model, nfe, shape=experiment.event, trajectories=trajectories, cond=cond, seed=seed, refine=refine,
                reference_steps=teacher_steps, batch_size=batch_size, checkpoint=partial,
            )  # fmt: skip
    except KeyboardInterrupt as stop:
        kept = f"{partial} is kept: the same command goes on" if partial.exists() else "nothing was found so far that could be kept"
        print(f"scoresde: stopped; {kept}", file=sys.stderr)
        if isinstance(stop, Terminated):
            raise typer.Exit(TERMINATED) from None
        raise
    fitted.save(out)
    print(f"{out}: {fitted}")
    rms, median = default_errors(model, fitted, cond, batch_size)
    print(f"the default with {fitted.nfe} calls, on the same starts: median {median:.3g}, rms {rms:.3g}")
    if bound:
        cascade = tuning.calibrate(
            model, experiment.event, levels=[fitted], noises=trajectories, cond=cond, seed=seed, reference_steps=teacher_steps,
            batch_size=batch_size,
        )  # fmt: skip
        cascade.save(out.with_suffix(".bound.safetensors"))
        level = cascade.levels[0]
        print(
            f"{out.with_suffix('.bound.safetensors')}: {cascade.confidence:.0%} of new samples stay below their bound, "
            f"median {level.bounds.median():.3g}"
        )


@torch.no_grad()
def default_errors(model: Model, fitted: FittedSolver, cond: dict[str, Tensor], batch_size: int) -> tuple[float, float]:
    """rms and median of the error of the default with as many calls, on the held-out starts of a fit against the same reference."""
    settings, own = fitted.settings, in_basis(model)
    z = starts(own, settings["event"], settings["trajectories"], settings["seed"], "fit")
    held_out = slice(settings["trajectories"] // 2, None)
    z, known = z[held_out], index_cond(dict(cond), held_out, len(z))
    planned = sampling.plan(own, nfe=fitted.nfe, event=settings["event"])
    assert isinstance(planned, sampling.TablePlan)
    reference = tuning.solve_reference(own, z, known, steps=settings["teacher_steps"], batch_size=batch_size)
    return summary(distance(solve(own, planned.tableau, z, known, batch_size), reference.x))
