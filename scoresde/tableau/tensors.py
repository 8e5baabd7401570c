"""A table as tensors, for a file, and back. The order of the terms in a row is kept, because it decides the last bit of a sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..sde.base import SDE
from .tableau import Row, Tableau


def to_tensors(tableau: Tableau) -> dict[str, Tensor]:
    """The times and the indices of `Tableau`, and the coefficients c of row k and index j in `z`, `data` and `xi` as `(n, 3)` rows (k, j, c).

    The table multiplies data predictions, as solvers write it; the path is not part of the result.
    """
    indices = {"grid_states": torch.tensor(tableau.grid_states), "step_evals": torch.tensor(tableau.step_evals)}
    coefficients = {
        kind: torch.tensor(
            [(k, j, c) for k, row in enumerate(tableau.rows) for j, c in getattr(row, kind).items()], dtype=torch.float64
        ).reshape(-1, 3)
        for kind in Row._fields
    }
    return {"times": torch.tensor(tableau.times, dtype=torch.float64)} | indices | coefficients


def from_tensors(sde: SDE, tensors: Mapping[str, Tensor]) -> Tableau:
    """The inverse of `to_tensors`, to the bit."""
    times = tuple(tensors["times"].tolist())
    rows = [Row({}, {}, {}) for _ in times[1:]]
    for kind in Row._fields:
        for k, j, c in tensors[kind].tolist():
            getattr(rows[int(k)], kind)[int(j)] = c
    return Tableau(sde, times, tuple(rows), tuple(tensors["grid_states"].tolist()), tuple(tensors["step_evals"].tolist()))
