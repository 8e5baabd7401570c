"""What is said in the arguments and in the configuration of a scheduler of ours."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from ...loops import LoopSolver
from ...numerics.inputs import as_number
from ...sampling.plans import Plan
from ...sampling.registry import name_of, resolve
from ...sampling.request import GridLike
from ...solvers.base import Solver
from ...solvers.on_grid import OnGrid
from ...solvers.tuned import TunedSolver
from ...tuning import Cascade
from .reading import Reading
from .stored import grid_from_json, solver_from_json


def choice(solver: Any, grid: Any) -> tuple[Solver | None, GridLike | None]:
    """The solver, None for the default, and the grid, None for that of the source, from the arguments or the JSON of a scheduler.

    Raises:
        TypeError: neither a solver nor a name of one.
        ValueError: a solver that chooses its own times or loops in itself, or a grid for one that has its own.
    """
    grid = grid_from_json(grid) if isinstance(grid, Mapping | list) else grid
    if isinstance(solver, Plan):
        if grid is not None:
            raise ValueError("a plan has its own grid: give no grid= with it")
        solver, grid = solver.solver, solver.times
    if isinstance(solver, Mapping):
        solver = solver_from_json(solver)
    elif isinstance(solver, str | PathLike):
        solver = resolve(str(solver))
    if isinstance(solver, OnGrid):
        solver, grid = solver.solver, solver.grid if grid is None else grid
    if isinstance(solver, LoopSolver | Cascade):
        raise ValueError(f"{name_of(solver)} runs a loop of its own, which a pipeline cannot step: take a solver that is a table")
    if solver is not None and not isinstance(solver, Solver):
        raise TypeError(f"solver must be a name, a Solver or the plan of one, got {solver!r}")
    if isinstance(solver, TunedSolver) and grid is not None:
        if not isinstance(grid, Tensor) or not torch.equal(grid, solver.grid):
            raise ValueError(f"{type(solver).__name__} has times of its own: give no grid= with it")
        grid = None
    return solver, grid


def clip_of(reading: Reading, clip: bool | float | None) -> float | None:
    """c where data predictions are held to [-c, c], else None.

    Raises:
        ValueError: the scheduler clips and nobody has said what to do, or it does not and has no range.
    """
    if clip is None and reading.clip_range is not None:
        raise ValueError(
            f"{reading.kind} has clip_sample=True, which is no part of a solver: give clip=False to sample without, or clip=True to hold the "
            f"data prediction to [-{reading.clip_range:g}, {reading.clip_range:g}]"
        )
    if clip is True and reading.clip_range is None:
        raise ValueError(f"{reading.kind} clips nothing, so that clip=True has no range: give a number")
    if clip is None or clip is False:
        return None
    return reading.clip_range if clip is True else as_number("clip", clip, above=0.0)


def scheduler_to_json(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The class and all values of the configuration of a scheduler of diffusers.

    Raises:
        TypeError: no scheduler of diffusers.
    """
    name = type(scheduler).__name__
    if not isinstance(scheduler, SchedulerMixin) or getattr(diffusers, name, None) is not type(scheduler):
        raise TypeError(f"from_scheduler needs a scheduler of diffusers, usually pipe.scheduler, got {scheduler!r}")
    return {"_class_name": name} | {key: value for key, value in scheduler.config.items() if key[0] != "_"}


def scheduler_from_json(source: Mapping[str, Any]) -> SchedulerMixin:
    """The inverse of `scheduler_to_json`."""
    kind = getattr(diffusers, source["_class_name"])
    return kind(**{name: value for name, value in source.items() if name in kind._get_init_keys(kind)})
