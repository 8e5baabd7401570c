"""What a pilot found: pairs of a solver and a grid with their errors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..numerics.brief import line
from ..solvers.base import Solver


class Ranked(NamedTuple):
    """A (solver, grid) pair with its errors per coordinate."""

    name: str
    solver: Solver
    grid: Tensor
    rms: float
    median: float

    @property
    def score(self) -> float:
        """sqrt(rms median)."""
        return (self.rms * self.median) ** 0.5

    def __repr__(self) -> str:
        return line("Ranked", repr(self.name), f"rms {self.rms:.3g}", f"median {self.median:.3g}")


class Ranking(tuple[Ranked, ...]):
    """Pairs with their errors, best first; printed as a table."""

    def __repr__(self) -> str:
        return line("Ranking", f"{len(self)} pairs", f"best {self[0].name}" if self else "")

    def __str__(self) -> str:
        width = max((len(entry.name) for entry in self), default=0)
        rows = [f"{entry.name:<{width}}  {entry.median:9.3g}  {entry.rms:9.3g}" for entry in self]
        return "\n".join([f"{'solver and grid':<{width}}  {'median':>9}  {'rms':>9}", *rows])
