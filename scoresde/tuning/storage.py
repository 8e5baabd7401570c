"""Read the files of selected solvers, fitted solvers and cascades.

The "kind" of a file is "selected", "fitted" or "ladder": the names are those of scoresde 0.1, whose files are read too.
"""

from __future__ import annotations

from pathlib import Path

from ..numerics.files import subset
from ..solvers.tuned import State, read_state
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
    _, meta = state
    return _cascade(state) if meta["kind"] == "ladder" else _solver(state)


def load_solver(path: str | Path) -> FittedSolver | Selected:
    """`load` of a single solver.

    Raises:
        ValueError: the file holds none, or a cascade.
        FileNotFoundError: there is no file.
    """
    loaded = load(path)
    if isinstance(loaded, Cascade):
        raise ValueError(f"{path} holds a cascade, not a solver: give `tuning.load` of it to `sample`, with tol=")
    return loaded


def _solver(state: State) -> FittedSolver | Selected:
    _, meta = state
    return Selected.from_state_dict(state) if meta["kind"] == "selected" else FittedSolver.from_state_dict(state)


def _cascade(state: State) -> Cascade:
    tensors, meta = state
    levels = []
    for k, rung in enumerate(meta["rungs"]):
        own = subset(f"{k}", tensors)
        solver = _solver((subset("solver", own), rung["solver"]))
        levels.append(
            Level(
                solver, rung["nfe"], own["mean"], own["theta"], rung["factor"], rung["error"], rung["median"], own["bounds"]
            )
        )  # fmt: skip
    return Cascade(tuple(levels), meta["confidence"], meta["teacher_steps"], meta["discrepancy"])
