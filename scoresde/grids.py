"""Time grids: the N+1 strictly decreasing times that a solver steps along.

A grid is uniform in some clock u(t),

    u(t_n) = u(t_0) + n/(N-1) (u(t_min) - u(t_0)),   n = 0..N-1,      t_N = 0,

so that N steps call the network at N times from `t_start` to `sde.t_min` (`trailing`: to one step of N before 0). The last step goes to
sigma = 0. With `t_end` > 0 all N+1 times are uniform in the clock, and no step goes to 0. Grids are float64 tensors on the CPU. Any strictly
decreasing tensor of times is a grid.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from .sde.base import SDE, as_time
from .sde.vp import VPSDE, VPChain


class Grid(Protocol):
    """A rule that makes a grid."""

    def __call__(self, sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
        """`steps + 1` times from `t_start` to `t_end`."""
        ...


def uniform(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in t. On a chain with N = T these are all its steps."""
    return _uniform_in(lambda t: t, lambda u: u, sde, steps, t_start, t_end)


def half_log_snr(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in lambda = log(alpha/sigma) (Lu et al. 2022, arXiv 2206.00927)."""
    return _uniform_in(sde.half_log_snr, sde.time, sde, steps, t_start, t_end)


def karras(sde: SDE, steps: int, *, rho: float = 7.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in (sigma/alpha)^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    return _uniform_in(lambda t: (-sde.half_log_snr(t) / rho).exp(), lambda u: sde.time(-rho * u.log()), sde, steps, t_start, t_end)


def power(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in tau^(1/power), where tau is the time of the classical VP SDE with the same signal-to-noise ratio.

    Power 1 is uniform in tau; a higher power takes more steps at small noise. The rule depends on lambda only, so that it is the same for every
    path. `quadratic` and `cubic` are powers with a name; for others take `functools.partial(grids.power, power=2.5)`.

    Raises:
        ValueError: `power` is not positive.
    """
    return _uniform_in(*_power_clock(sde, power), sde, steps, t_start, t_end)


def trailing(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in the clock of `power` down to 0: u(t_n) = u(t_0) (1 - n/N), so that the last call is one step of N before the end.

    Other grids call the network at `sde.t_min`, which costs one of few steps. With power 1 this grid is the "trailing" spacing of Lin et al.
    2023, arXiv 2305.08891, in the time of the classical VP SDE. No call is below `sde.t_min`: with many steps the grid is that of `power`.

    Raises:
        ValueError: `power` is not positive.
    """
    clock, inverse = _power_clock(sde, power)
    start = as_time(min(t_start, sde.t_max))
    last = max(float(inverse(clock(start) / steps)), sde.t_min) if steps > 1 else sde.t_min
    return _uniform_in(clock, inverse, sde, steps, t_start, t_end, last)


def _power_clock(sde: SDE, power: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """u = tau^(1/power) as a function of t, and its inverse."""
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}")
    vp = VPSDE()

    def half_log_snr_at(tau: Tensor) -> Tensor:
        # vp.half_log_snr, extended beyond tau = 1 for paths with less signal at t = 1.
        integral = tau * (vp.beta_min + 0.5 * tau * (vp.beta_max - vp.beta_min))
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    return lambda t: vp.time(sde.half_log_snr(t)) ** (1 / power), lambda u: sde.time(half_log_snr_at(u**power))


def quadratic(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """`power` 2, as DDIM is spaced in its paper (Song et al. 2021, arXiv 2010.02502, appendix D.2)."""
    return power(sde, steps, power=2.0, t_start=t_start, t_end=t_end)


def cubic(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """`power` 3: more steps at small noise."""
    return power(sde, steps, power=3.0, t_start=t_start, t_end=t_end)


def tangent(sde: SDE, steps: int, *, scale: float = 0.5, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in arctan(r/c) with r = sigma/alpha and c = `scale`, best for Gaussian data N(0, c^2) (Sabour et al. 2024, arXiv 2404.14507)."""
    return _uniform_in(
        lambda t: torch.atan(torch.exp(-sde.half_log_snr(t)) / scale),
        lambda u: sde.time(-(scale * torch.tan(u)).log()),
        sde,
        steps,
        t_start,
        t_end,
    )


def beta(sde: SDE, steps: int, *, a: float = 0.6, b: float = 0.6, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Quantiles of a beta distribution in t: more steps at both ends (Lee et al. 2024, arXiv 2407.12173)."""
    from scipy.special import betainc, betaincinv

    return _uniform_in(
        lambda t: torch.as_tensor(betainc(a, b, t.numpy()), dtype=torch.float64),
        lambda u: torch.as_tensor(betaincinv(a, b, u.numpy()), dtype=torch.float64),
        sde,
        steps,
        t_start,
        t_end,
    )


def ddpm(
    sde: SDE,
    steps: int,
    *,
    spacing: Literal["trailing", "leading", "linspace"] = "trailing",
    t_start: float = 1.0,
    t_end: float = 0.0,
) -> Tensor:
    """The chain's own indices i in 1..T, thinned, then 0.

    "trailing" starts at T; "linspace" takes both T and 1; "leading" takes 1, 1+T//N, ... and so starts below T, as DDIM's code does
    (the names are those of Lin et al. 2023, arXiv 2305.08891, table 2).

    Raises:
        ValueError: `sde` is not a chain, `t_start` is not a time of the chain, `t_end` is not 0, or there are more steps than indices.
    """
    if not isinstance(sde, VPChain):
        raise ValueError(f"grid 'ddpm' needs a discrete chain (VPSDE.from_betas), got {sde!r}")
    if t_end != 0:
        raise ValueError("grid 'ddpm' ends at 0")
    top = round(t_start * sde.steps)
    if abs(t_start * sde.steps - top) > 1e-6:
        raise ValueError(f"grid 'ddpm' starts at a time i/{sde.steps} of the chain, got t_start={t_start:g}")
    if not 1 <= steps <= top:
        raise ValueError(f"grid 'ddpm' takes 1 to {top} steps on this chain from t_start={t_start:g}, got {steps}")
    n = torch.arange(steps, dtype=torch.float64)
    if spacing == "trailing":
        indices = (top - n * top / steps).round()
    elif spacing == "leading":
        indices = 1 + (steps - 1 - n) * (top // steps)
    elif spacing == "linspace":
        indices = torch.linspace(top, 1, steps, dtype=torch.float64).round()
    else:
        raise ValueError(f"spacing must be 'trailing', 'leading' or 'linspace', got {spacing!r}")
    return check(torch.cat([indices, indices.new_zeros(1)]) / sde.steps)


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "half_log_snr": half_log_snr,
    "karras": karras,
    "quadratic": quadratic,
    "cubic": cubic,
    "trailing": trailing,
    "exponential": half_log_snr,  # sigma/alpha falls by one factor a step
    "tangent": tangent,
    "beta": beta,
    "ddpm": ddpm,
}


def names() -> list[str]:
    """Every grid by its name."""
    return list(GRIDS)


def get(name: str) -> Grid:
    """The grid of that name.

    Raises:
        ValueError: no grid has that name.
    """
    if name not in GRIDS:
        close = difflib.get_close_matches(name, GRIDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(GRIDS)}"
        raise ValueError(f"no grid is called {name!r}{hint}")
    return GRIDS[name]


def check(grid: Tensor) -> Tensor:
    """`grid` as a float64 tensor on the CPU.

    Raises:
        ValueError: fewer than two times, times outside [0, 1], or times that do not strictly decrease.
    """
    grid = torch.as_tensor(grid).detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid needs shape (N+1,) with N >= 1, got {tuple(grid.shape)}")
    if not bool(((grid >= 0) & (grid <= 1)).all()):
        raise ValueError(f"a grid must lie in [0, 1], got times from {grid.min().item():g} to {grid.max().item():g}")
    rising = (grid[1:] >= grid[:-1]).nonzero().flatten()
    if len(rising):
        n = int(rising[0])
        raise ValueError(
            f"a grid must strictly decrease, but its entries {n} and {n + 1} are {grid[n]:.17g} and {grid[n + 1]:.17g}"
        )
    return grid


def _uniform_in(
    clock: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sde: SDE,
    steps: int,
    t_start: float,
    t_end: float,
    t_last: float | None = None,
) -> Tensor:
    """The times at which `clock` is uniform; the ends are hit exactly. The last call before 0 is at `t_last`, by default `sde.t_min`."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    last = as_time(t_end if t_end > 0 else t_last or sde.t_min)
    first = as_time(t_start)
    if t_end == 0 and steps == 1:
        return check(torch.stack([first, as_time(0.0)]))
    if not first > last:
        raise ValueError(f"{steps} steps need a start above {float(last):g}, got t_start={t_start:g}")
    u_first, u_last = clock(first), clock(last)
    if not bool(u_first.isfinite()):
        # Zero terminal signal: lambda = -inf at t = 1. Space the rest as if from t_max.
        u_first = clock(as_time(sde.t_max))
    points = steps + 1 if t_end > 0 else steps
    u = u_first + (u_last - u_first) * torch.linspace(0, 1, points, dtype=torch.float64)
    tail = [last] if t_end > 0 else [last, as_time(0.0)]
    return check(torch.cat([first[None], inverse(u[1:-1]), torch.stack(tail)]))
