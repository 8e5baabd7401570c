"""What a solver is: a rule that fills a tableau."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from ..sde import SDE
from .tableau import Point, Rows, Tableau


class Solver(ABC):
    """A pure function of a path and a grid."""

    @property
    def default_grid(self) -> str:
        """The name of the grid that suits the solver when the caller gives none.

        At up to 20 calls "trailing" is better than the other grids for nearly every solver (docs/benchmarks.md); with many steps it is
        "quadratic".
        """
        return "trailing"

    @property
    def calls_per_step(self) -> int:
        """Network calls in a full step."""
        return 1

    @abstractmethod
    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The coefficients of this solver on `grid`, N+1 decreasing times, in float64."""


def from_no_signal(rows: Rows, t: Point) -> None:
    """Append the deterministic step from alpha = 0 to `t`: z_t = sigma_t/sigma_s z_s + alpha_t D, where a noise prediction says nothing."""
    j = rows.state
    rows.add(t, z={j: t.sigma / rows.at[j].sigma}, data={rows.looks[-1]: t.alpha})


def redrawn_from_no_signal(rows: Rows, t: Point) -> None:
    """Append the stochastic step from alpha = 0 to `t`, the exact transition: z_t = alpha_t D + sigma_t xi."""
    rows.add(t, data={rows.looks[-1]: t.alpha}, noise={rows.fresh_noise(): t.sigma})


def one_step(sde: SDE, grid: Tensor, step: Callable[[Point, Point], tuple[float, float, float]]) -> Tableau:
    """The tableau of z_t = A z_s + B D_s + C xi with `step(s, t) -> (A, B, C)`."""
    rows = Rows(sde, grid)
    for _, s, t in rows.steps():
        j = rows.state
        a, b, c = step(s, t)
        rows.add(t, z={j: a}, data={j: b}, noise={rows.fresh_noise(): c} if c else None)
        rows.mark()
    return rows.tableau()


def interpolation_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights c with sum_j c_j d_j^p = M_p for p < K: of the values at the `nodes` d in the integral of their interpolant.

    M_p is the same integral of u^p. The system of Vandermonde is solved by the algorithm of Bjorck and Pereyra (1970), in K^2 operations.
    """
    c, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            c[i] -= nodes[k] * c[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            c[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            c[i] -= c[i + 1]
    return c
