"""A table as tensors, for a file, and back. The order of the terms in a row is kept, because it decides the last bit of a sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..numerics.coefficients import Coefficient
from ..numerics.files import stored_tensor
from ..sde.base import SDE
from .tableau import Row, Tableau


def to_tensors(tableau: Tableau) -> dict[str, Tensor]:
    """The times and the indices of `Tableau`, and the coefficients c of row k and index j in `z`, `data` and `xi` as `(n, 3)` rows (k, j, c).

    A coefficient of blocks has c = 0 there, and is the tensor `z k j`, or `data k j`, or `xi k j`. The table multiplies data predictions, as
    solvers write it; the path is not part of the result.
    """
    indices = {
        "grid_states": torch.tensor(tableau.grid_states, device="cpu"),
        "step_evals": torch.tensor(tableau.step_evals, device="cpu"),
    }
    blocks, coefficients = dict[str, Tensor](), dict[str, Tensor]()
    for kind in Row._fields:
        terms = []
        for k, row in enumerate(tableau.rows):
            for j, c in getattr(row, kind).items():
                if isinstance(c, Tensor):
                    blocks[f"{kind} {k} {j}"] = c.contiguous()
                terms.append((k, j, 0.0 if isinstance(c, Tensor) else c))
        coefficients[kind] = torch.tensor(terms, dtype=torch.float64, device="cpu").reshape(-1, 3)
    times = {"times": torch.tensor(tableau.times, dtype=torch.float64, device="cpu")}
    return times | indices | coefficients | blocks


def from_tensors(sde: SDE, tensors: Mapping[str, Tensor]) -> Tableau:
    """The inverse of `to_tensors`, to the bit.

    Raises:
        ValueError: a tensor is missing, or is not what `to_tensors` writes.
    """
    times = tuple(stored_tensor(tensors, "times", -1).tolist())
    rows = [Row({}, {}, {}) for _ in times[1:]]
    for kind in Row._fields:
        terms = stored_tensor(tensors, kind, -1, 3)
        for k, j, c in terms.tolist():
            if not (0 <= k < len(rows) and k == int(k) and j == int(j)):
                raise ValueError(f"{kind} has a coefficient at row {k:g} and index {j:g}, of {len(rows)} rows")
            getattr(rows[int(k)], kind)[int(j)] = _coefficient(tensors, f"{kind} {int(k)} {int(j)}", c)
        if sum(len(getattr(row, kind)) for row in rows) != len(terms):
            raise ValueError(f"{kind} has two coefficients for one index")
    grid_states, step_evals = (_states(tensors, name) for name in ("grid_states", "step_evals"))
    return Tableau(sde, times, tuple(rows), grid_states, step_evals)


def _coefficient(tensors: Mapping[str, Tensor], name: str, number: float) -> Coefficient:
    """The coefficient of blocks of that name, or the number where there is none.

    Raises:
        ValueError: it has another form than a coefficient.
    """
    tensor = tensors.get(name)
    if tensor is None:
        return number
    if tensor.ndim not in (1, 3) or tensor.dtype != torch.float64:
        raise ValueError(f"the tensor {name} must hold the coefficients of blocks, (K,) or (K, m, m) in float64")
    return tensor


def _states(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The indices of states."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != 1 or tensor.dtype != torch.int64:
        raise ValueError(f"the tensor {name} must hold integers")
    return tuple(tensor.tolist())
