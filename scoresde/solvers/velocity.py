"""Adams-Bashforth methods on the velocity along a path from noise to data.

With y = z/alpha, r = sigma/alpha and a scale c the probability-flow ODE dy = eps dr is, in a clock q that is finite at both ends,

    line:    w = y/(c + r),             q = r/(c + r),     dw/dq = v = eps - D/c,
    circle:  w = y/sqrt(c^2 + r^2),     q = arctan(r/c),   dw/dq = v = (c^2 eps - r D)/(c sqrt(c^2 + r^2)).

For c = 1 the first v is the velocity of rectified flow (Liu et al. 2023, arXiv 2209.03003) and the second that of Salimans and Ho (2022, arXiv
2202.00512, appendix D) for a variance-preserving path; v = 0 on the circle when the data are N(0, c^2). Neither
has a pole at alpha = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ..numerics.quadrature import ADAMS_BASHFORTH, interpolation_weights
from ..sde.base import SDE
from ..tableau.builder import GridPoint, TableauBuilder
from ..tableau.tableau import Tableau
from .base import Solver


class Path(NamedTuple):
    """rho = z/w, the clock q, and v's coefficient of z, with v = a z - rho D/(c sigma) on either path."""

    rho: float
    q: float
    a: float


def linear(p: GridPoint, c: float) -> Path:
    """w = z/(c alpha + sigma)."""
    rho = c * p.alpha + p.sigma
    return Path(rho, p.sigma / rho, 1 / p.sigma)


def trigonometric(p: GridPoint, c: float) -> Path:
    """w = z/sqrt(c^2 alpha^2 + sigma^2)."""
    rho = math.hypot(c * p.alpha, p.sigma)
    return Path(rho, math.atan2(p.sigma, c * p.alpha), c * p.alpha / (p.sigma * rho))


PATHS: dict[str, Callable[[GridPoint, float], Path]] = {"line": linear, "circle": trigonometric}


def steady_weights(nodes: list[float], q: float, order: int, growth: float) -> list[float]:
    """Integrals from nodes[0] to q of the Lagrange polynomials of the newest K nodes, relative to the step, with K at most `order`.

    sum_j |c_j| is what the step makes of errors in the values. K is the highest order for which it is at most `growth` times that of a
    uniform grid: nodes that crowd together before a long step would be extrapolated without bound.
    """
    steps = [(node - nodes[0]) / (q - nodes[0]) for node in nodes[:order]]
    for k in range(len(steps), 1, -1):
        c = interpolation_weights(steps[:k], [1 / (p + 1) for p in range(k)])
        if sum(map(abs, c)) <= growth * sum(map(abs, ADAMS_BASHFORTH[k - 1])):
            return c
    return [1.0]


@dataclass(frozen=True)
class VelocityAdams(Solver):
    """w_t = w_s + (q_t - q_s) sum_j c_j v_j, with the weights of the actual spacing. On "line" a constant D and eps are carried exactly.

    Args:
        order: the most values of v in a step.
        path: "line" or "circle".
        scale: c, of the order of the data's standard deviation per coordinate.
        growth: see `steady_weights`.

    Raises:
        ValueError: an order outside 1..4, another path, or a scale or growth that is not positive.
    """

    order: int = 3
    path: Literal["line", "circle"] = "line"
    scale: float = 1.0
    growth: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4 or self.path not in PATHS:
            raise ValueError(f"need an order in 1..4 and 'line' or 'circle', got {self.order} and {self.path!r}")
        if not (self.scale > 0 and self.growth > 0):
            raise ValueError(f"scale and growth must be positive, got {self.scale} and {self.growth}")

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table, c, at = TableauBuilder(sde, grid), self.scale, PATHS[self.path]
        history: list[tuple[int, Path]] = []  # newest first
        for _, s, t in table.steps():
            history = [(table.last, at(s, c)), *history[: self.order - 1]]
            now, then = history[0][1], at(t, c)
            weights = steady_weights([p.q for _, p in history], then.q, self.order, self.growth)
            z, data = {table.last: then.rho / now.rho}, {}
            for (j, p), w in zip(history, weights, strict=False):
                step = then.rho * (then.q - now.q) * w
                z[j] = z.get(j, 0.0) + step * p.a
                data[j] = -step * p.rho / (c * table.points[j].sigma)
            table.append(t, z=z, data=data)
            table.end_step()
        return table.tableau()
