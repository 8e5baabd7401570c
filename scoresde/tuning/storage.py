"""Solvers that were made for a model, from the files that they were kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..numerics.files import subset
from ..solvers.tuned import State, TunedSolver, read_state
from .calibration import Cascade, Level
from .fitting import FittedSolver
from .selection import Selected


def load(path: str | Path) -> FittedSolver | Selected | Cascade:
    """The solver or the cascade that `save` wrote.

    Raises:
        ValueError: the file holds none.
        FileNotFoundError: there is no file.
    """
    state = read_state(path)
    return _cascade(state) if state[1]["kind"] == "ladder" else _solver(state)


def load_solver(path: str | Path) -> FittedSolver | Selected:
    """`load` of a single solver.

    Raises:
        ValueError: the file holds none, or a cascade.
        FileNotFoundError: there is no file.
    """
    made = load(path)
    if isinstance(made, Cascade):
        raise ValueError(f"{path} holds a cascade, not a solver: give `solvers.load` of it to `sample`, with tol=")
    return made


def _solver(state: State) -> FittedSolver | Selected:
    return Selected.from_state_dict(state) if state[1]["kind"] == "selected" else FittedSolver.from_state_dict(state)


def _cascade(state: State) -> Cascade:
    tensors, about = state

    def level(k: int, about: dict[str, Any]) -> Level:
        law = subset(f"{k}", tensors)
        solver: TunedSolver = _solver((subset("solver", law), about["solver"]))
        return Level(
            solver, about["nfe"], law["mean"], law["theta"], about["factor"], about["error"], about["median"], law["bounds"]
        )  # fmt: skip

    levels = tuple(level(k, each) for k, each in enumerate(about["rungs"]))
    return Cascade(levels, about["confidence"], about["teacher_steps"], about["discrepancy"])
