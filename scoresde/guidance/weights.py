"""The weight of guidance over time.

w = 1 is the conditional model and w = 0 the unconditional one, as in diffusers, Imagen and EDM2. Ho and Salimans 2022, arXiv 2207.12598, write
w - 1 for it.

A limited interval (Kynkaanniemi et al. 2024, arXiv 2404.07724) guides at medium noise alone, with r = sigma/alpha and lambda = -log r:

    w(t) = 1 + (w - 1) m(t),        m = 1 for low < r <= high and 0 elsewhere.

w jumps at both edges, and a jump in time makes every solver first order there. With `ramp` = b, m rises and falls linearly in lambda over a
length b that is centred on each edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..numerics.arrays import Time, values_are_known
from ..numerics.inputs import as_function, as_number, as_numbers, as_sequence, as_values
from ..sampling import registry
from ..sde.base import SDE, as_time
from ..solvers.base import Solver
from ..tableau.tableau import Row, Tableau

Weight = float | Callable[[SDE, Tensor], Tensor | float]


def as_weight(weight: Weight) -> Weight:
    """A number, or a function of `(sde, t)`.

    Raises:
        TypeError: neither.
        ValueError: a number that is not finite, or one for each sample, which belongs to the call.
    """
    if callable(weight):
        function: Weight = as_function("weight", weight, 2)
        return function
    if isinstance(weight, Tensor) and weight.ndim:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, but a model serves every batch: give one weight for each sample to the call, "
            "guidance_weight=weight"
        )
    return as_number("weight", weight)


def weight_at(sde: SDE, t: Time, weight: Weight) -> Tensor:
    """w at the times `t`, float64 of their shape."""
    times = as_time(t)
    if callable(weight):
        return as_values("weight", weight(sde, times.clone()), times)
    return torch.full_like(times, weight)


@dataclass(frozen=True)
class Interval:
    """Where guidance acts: at low < sigma/alpha <= high.

    Attributes:
        low, high: of sigma/alpha; `high` may be infinite.
        ramp: the length in lambda over which the weight rises and falls at each edge.

    Raises:
        TypeError: no numbers.
        ValueError: not 0 <= low < high, or a negative ramp.
    """

    low: float
    high: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", as_number("interval[0]", self.low, 0.0))
        if self.high != math.inf:
            object.__setattr__(self, "high", as_number("interval[1]", self.high, above=self.low))
        object.__setattr__(self, "ramp", as_number("ramp", self.ramp, 0.0))

    @classmethod
    def of(cls, interval: object, ramp: float) -> Interval | None:
        """The interval of a pair (low, high); None for None.

        Raises:
            TypeError, ValueError: as for the class, or a sequence of another length.
        """
        if interval is None:
            if ramp:
                raise ValueError("ramp= softens the edges of an interval: give interval= too")
            return None
        edges = as_sequence("interval", interval)
        if len(edges) != 2:
            raise ValueError(f"interval must be (low, high) in sigma/alpha, got {interval!r}")
        return cls(*edges, ramp)

    def share(self, sde: SDE, t: Time) -> Tensor:
        """m(t), float64 of the shape of `t`."""
        half_log_snr = sde.half_log_snr(t)
        r = (-half_log_snr).exp()
        if not self.ramp:
            return ((r > self.low) & (r <= self.high)).double()
        # The distance to each edge, positive inside. An edge at 0 or at infinity is never reached.
        into = [torch.full_like(r, torch.inf)]
        if self.low > 0:
            into.append(-math.log(self.low) - half_log_snr)
        if self.high < math.inf:
            into.append(half_log_snr + math.log(self.high))
        return (torch.stack(into).amin(0) / self.ramp + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class GridWeight:
    """A weight that is known at the times of a grid alone; see `cfgpp`.

    Attributes:
        times: of network calls, falling.
        weights: at these times.
    """

    times: tuple[float, ...]
    weights: tuple[float, ...]

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """The weights at the times `t`.

        Raises:
            ValueError: a time that is not on the grid.
        """
        known = torch.tensor(self.times, dtype=torch.float64, device=t.device)
        distance, nearest = (t.reshape(-1, 1) - known).abs().min(1)
        if values_are_known(t) and bool((distance > 1e-9).any()):
            off = t.reshape(-1)[distance > 1e-9][0].item()
            raise ValueError(f"CFG++ has weights at the times of its grid alone, and t={off:g} is none: sample on the grid it was made for")
        return torch.tensor(self.weights, dtype=torch.float64, device=t.device)[nearest].reshape(t.shape)


def cfgpp(sde: SDE, grid: Tensor, scale: float, solver: str | Solver = "ddim") -> GridWeight:
    """CFG++ (Chung et al. 2024, arXiv 2406.08070) as a weight: samples of `Guided(model, cfgpp(...))` under this solver on this grid are its.

    CFG++ makes the clean part of a step from the guided data prediction and the noise part from the unconditional one,

        z_s = alpha_s (D_u + lam (D_c - D_u)) + sigma_s eps_u.

    A step z_s = A z_t + B D of a one-step table does the same with the weight w = lam alpha_s/B. The weight grows with the number of steps, as
    lam/h: CFG++ has no limit of many steps.

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
    return scale * float(tableau.sde.alpha(tableau.times[k + 1])) / row.data[k]
