"""CFG++ as a weight (Chung et al. 2024, arXiv 2406.08070, algorithm 2).

CFG++ makes the clean part of a step from the guided data prediction and the noise part from the unconditional one,

    z_s = alpha_s (D_u + lam (D_c - D_u)) + sigma_s eps_u.

A step z_s = A z_t + B D of a one-step table does the same with the weight w = lam alpha_s/B. The weight grows with the number of steps, as
lam/h: CFG++ has no limit of many steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.arrays import values_are_known
from ..numerics.inputs import as_number, as_numbers
from ..sampling import registry
from ..sde.base import SDE
from ..solvers.base import Solver
from ..tableau.tableau import Row, Tableau


@dataclass(frozen=True)
class GridWeight:
    """A weight that is known at the times of a grid alone; see `cfgpp`.

    Attributes:
        times: of network calls, falling.
        weights: at these times.
    """

    times: tuple[float, ...]
    weights: tuple[float, ...]

    def __repr__(self) -> str:
        return f"GridWeight({len(self.times)} times, {hash((self.times, self.weights)) % 16**8:08x})"

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The weights at the times `t`.

        Raises:
            ValueError: a time that is not on the grid.
        """
        known = torch.tensor(self.times, dtype=torch.float64, device=t.device)
        distance, nearest = (t.reshape(-1, 1) - known).abs().min(1)
        if values_are_known(t) and bool((distance > 1e-9).any()):
            off = t.reshape(-1)[distance > 1e-9][0].item()
            raise ValueError(
                f"CFG++ has weights at the times of its grid alone, and t={off:g} is none: sample on the grid it was made for"
            )
        return torch.tensor(self.weights, dtype=torch.float64, device=t.device)[nearest].reshape(t.shape)


def cfgpp(sde: SDE, grid: Tensor, scale: float, solver: str | Solver = "ddim") -> GridWeight:
    """CFG++ (Chung et al. 2024, arXiv 2406.08070) as a weight: samples of `Guided(model, cfgpp(...))` under this solver on this grid are its.

    The formulas are in the docstring of the module.

    Args:
        sde: the path.
        grid: falling times, `(N+1,)`; give the same ones to `sample`.
        scale: lam, in [0, 1] in the paper.
        solver: one whose steps are z_s = A z_t + B D + C xi, such as "ddim" or "ancestral-posterior".

    Raises:
        TypeError: an argument of another type; names it.
        ValueError: a solver with other steps.
    """
    found = registry.resolve(solver) if isinstance(solver, str) else solver
    if not isinstance(found, Solver):
        raise ValueError(f"CFG++ needs a solver that is a table of one-step rows, got {solver!r}")
    scale, times = as_number("scale", scale), as_numbers("grid", grid)
    tableau = found.tableau(sde, times)
    if not all(set(row.data) == {k} and set(row.z) <= {k} for k, row in enumerate(tableau.rows)):
        raise ValueError(f"CFG++ needs steps of one data prediction each, got {solver!r}: take 'ddim' or 'ancestral-posterior'")
    weights = tuple(_weight(tableau, k, row, scale) for k, row in enumerate(tableau.rows))
    return GridWeight(tableau.times[:-1], weights)


def _weight(tableau: Tableau, k: int, row: Row, scale: float) -> float:
    """lam alpha_s/B of the row to the state k + 1."""
    return scale * float(tableau.sde.alpha(tableau.times[k + 1])) / float(row.data[k])
