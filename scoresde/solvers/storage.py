"""Solvers that were made for a model, from the files that they were kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .bound import BoundSolver, Packed, below, read
from .calibration import Ladder, Rung
from .fitting import FittedSolver
from .selection import Selected


def load(path: str | Path) -> FittedSolver | Selected | Ladder:
    """The solver or the ladder that `save` wrote.

    Raises:
        ValueError: the file holds none.
        FileNotFoundError: there is no file.
    """
    packed = read(path)
    return _ladder(packed) if packed[1]["kind"] == "ladder" else _solver(packed)


def _solver(packed: Packed) -> FittedSolver | Selected:
    return Selected.unpacked(packed) if packed[1]["kind"] == "selected" else FittedSolver.unpacked(packed)


def _ladder(packed: Packed) -> Ladder:
    tensors, meta = packed

    def rung(k: int, meta: dict[str, Any]) -> Rung:
        law = below(f"{k}", tensors)
        solver: BoundSolver = _solver((below("solver", law), meta["solver"]))
        return Rung(
            solver, meta["nfe"], law["mean"], law["theta"], meta["factor"], meta["error"], meta["median"], law["bounds"]
        )  # fmt: skip

    rungs = tuple(rung(k, each) for k, each in enumerate(meta["rungs"]))
    return Ladder(rungs, meta["confidence"], meta["teacher_steps"], meta["discrepancy"])


def load_solver(path: str | Path) -> FittedSolver | Selected:
    """`load` of a single solver.

    Raises:
        ValueError: the file holds none, or a ladder.
        FileNotFoundError: there is no file.
    """
    made = load(path)
    if isinstance(made, Ladder):
        raise ValueError(f"{path} holds a ladder, not a solver: give `solvers.load` of it to `sample`, with tol=")
    return made
