"""The arguments of `sample` that choose times, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .. import grids
from ..numerics.inputs import as_count, as_number

GridLike = str | grids.Grid | Tensor


@dataclass(frozen=True)
class Request:
    """The arguments of `sample` that choose times; see there."""

    steps: int | None = None
    nfe: int | None = None
    grid: GridLike | None = None
    t_start: float | None = None

    @classmethod
    def checked(cls, steps: Any, nfe: Any, grid: Any, t_start: Any) -> Request:
        """The request with its numbers converted.

        Raises:
            TypeError: an argument of another type; names it.
            ValueError: a number that no grid can have; names it.
        """
        if grid is not None and not isinstance(grid, str) and not callable(grid):
            grid = grids.check(grid)
        return cls(
            None if steps is None else as_count("steps", steps),
            None if nfe is None else as_count("nfe", nfe),
            grid,
            None if t_start is None else as_number("t_start", t_start, high=1.0, above=0.0),
        )

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())
