"""Time grids: the N+1 strictly decreasing times that a solver steps along.

A grid is uniform in some clock u(t),

    u(t_n) = u(t_0) + n/(N-1) (u(t_min) - u(t_0)),   n = 0..N-1,      t_N = 0,

so that N steps call the network at N times from `t_start` to `sde.t_min` (`trailing` and `flow`: to one step of N before 0). The last step
goes to sigma = 0. With `t_end` > 0 all N+1 times are uniform in the clock, and no step goes to 0. Grids are float64 tensors on the CPU. Any
strictly decreasing tensor of times is a grid.

Every rule raises a TypeError or ValueError, by name, for `steps` below 1, `t_start` outside [t_min, 1] and `t_end` outside [0, t_start).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from .numerics.inputs import as_count, as_number, as_numbers
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
    return _uniform_in(lambda t: sde.half_log_snr(t), lambda u: sde.time(u), sde, steps, t_start, t_end)


def karras(sde: SDE, steps: int, *, rho: float = 7.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in (sigma/alpha)^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Raises:
        ValueError: `rho` is not positive and finite.
    """
    rho = as_number("rho", rho, above=0.0)
    return _uniform_in(lambda t: (-sde.half_log_snr(t) / rho).exp(), lambda u: sde.time(-rho * u.log()), sde, steps, t_start, t_end)


def power(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in tau^(1/power), where tau is the time of the classical VP SDE with the same signal-to-noise ratio.

    Power 1 is uniform in tau; a higher power takes more steps at small noise. The rule depends on lambda only, so that it is the same for every
    path. `quadratic` and `cubic` are powers with a name; for others take `functools.partial(grids.power, power=2.5)`.

    Raises:
        ValueError: `power` is not positive and finite.
    """
    return _uniform_in(*_power_clock(sde, power), sde, steps, t_start, t_end)


def trailing(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in the clock of `power` down to 0: u(t_n) = u(t_0) (1 - n/N), so that the last call is one step of N before the end.

    Other grids call the network at `sde.t_min`, which costs one of few steps. With power 1 this grid is the "trailing" spacing of Lin et al.
    2023, arXiv 2305.08891, in the time of the classical VP SDE. No call is below `sde.t_min`: with many steps the grid is that of `power`.

    Raises:
        ValueError: `power` is not positive and finite.
    """
    return _down_to_zero(*_power_clock(sde, power), sde, steps, t_start, t_end)


def flow(sde: SDE, steps: int, *, shift: float = 1.0, power: float = 1.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in q^(1/power) down to 0, where q = r/(shift + r) and r = sigma/alpha.

    With shift 1, q is the time of the rectified flow with the same signal-to-noise ratio, whatever the path. A smaller shift or a higher power
    takes more steps at small noise; `shift` is that of Esser et al. 2024, arXiv 2403.03206, eq. 23. Steps are balanced for data of standard
    deviation `shift`. As with `trailing`, the last call comes one step of N before the end, and never below `sde.t_min`.

    Raises:
        ValueError: `shift` or `power` is not positive and finite.
    """
    shift, power = as_number("shift", shift, above=0.0), as_number("power", power, above=0.0)

    def clock(t: Tensor) -> Tensor:
        return (1 + shift * sde.half_log_snr(t).exp()) ** (-1 / power)

    def inverse(u: Tensor) -> Tensor:
        q = u**power
        return sde.time(((1 - q) / (shift * q)).log())

    return _down_to_zero(clock, inverse, sde, steps, t_start, t_end)


def _down_to_zero(
    clock: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sde: SDE,
    steps: int,
    t_start: float,
    t_end: float,
) -> Tensor:
    """The times at which `clock`, which is 0 at t = 0, is uniform; with many steps the last call is at `sde.t_min`."""
    steps, t_start, t_end = _checked(sde, steps, t_start, t_end)
    first = clock(as_time(t_start))
    if not bool(first.isfinite()):
        first = clock(as_time(sde.t_max))
    last = max(float(inverse(first / steps)), sde.t_min) if steps > 1 else sde.t_min
    return _uniform_in(clock, inverse, sde, steps, t_start, t_end, last)


def _power_clock(sde: SDE, power: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """u = tau^(1/power) as a function of t, and its inverse."""
    power = as_number("power", power, above=0.0)
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
    """Uniform in arctan(r/c) with r = sigma/alpha and c = `scale`, best for Gaussian data N(0, c^2) (Sabour et al. 2024, arXiv 2404.14507).

    Raises:
        ValueError: `scale` is not positive and finite.
    """
    scale = as_number("scale", scale, above=0.0)
    return _uniform_in(
        lambda t: torch.atan(torch.exp(-sde.half_log_snr(t)) / scale),
        lambda u: sde.time(-(scale * torch.tan(u)).log()),
        sde,
        steps,
        t_start,
        t_end,
    )


def beta(sde: SDE, steps: int, *, a: float = 0.6, b: float = 0.6, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Quantiles of a beta distribution in t: more steps at both ends (Lee et al. 2024, arXiv 2407.12173).

    Raises:
        ValueError: `a` or `b` is not positive and finite.
    """
    from scipy.special import betainc, betaincinv

    a, b = as_number("a", a, above=0.0), as_number("b", b, above=0.0)
    return _uniform_in(
        lambda t: torch.as_tensor(betainc(a, b, t.numpy()), dtype=torch.float64, device="cpu"),
        lambda u: torch.as_tensor(betaincinv(a, b, u.numpy()), dtype=torch.float64, device="cpu"),
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
    t_start: float | None = None,
    t_end: float = 0.0,
) -> Tensor:
    """The chain's own indices i in 1..T, thinned, then 0.

    `t_start` is the time of the first; by default 1, or what the spacing "leading" makes of it.

    "trailing" starts at T; "linspace" takes both T and 1; "leading" takes 1, 1+T//N, ... and so starts below T, as DDIM's code does
    (the names are those of Lin et al. 2023, arXiv 2305.08891, table 2).

    Raises:
        ValueError: `sde` is not a chain, `t_start` is not a time of the chain or not the first one, `t_end` is not 0, or there are more steps
            than indices.
    """
    if not isinstance(sde, VPChain):
        raise ValueError(f"grid 'ddpm' needs a discrete chain (VPSDE.from_betas), got {sde!r}")
    steps, start, t_end = _checked(sde, steps, 1.0 if t_start is None else t_start, t_end)
    if t_end != 0:
        raise ValueError(f"grid 'ddpm' ends at 0, got t_end={t_end:g}")
    top = round(start * sde.steps)
    if abs(start * sde.steps - top) > 1e-6:
        raise ValueError(f"grid 'ddpm' starts at a time i/{sde.steps} of the chain, got t_start={start:g}")
    if steps > top:
        raise ValueError(f"grid 'ddpm' takes 1 to {top} steps on this chain from t_start={start:g}, got {steps}")
    n = torch.arange(steps, dtype=torch.float64, device="cpu")
    if spacing == "trailing":
        indices = (top - n * top / steps).round()
    elif spacing == "leading":
        indices = 1 + (steps - 1 - n) * (top // steps)
    elif spacing == "linspace":
        indices = torch.linspace(top, 1, steps, dtype=torch.float64, device="cpu").round()
    else:
        raise ValueError(f"spacing must be 'trailing', 'leading' or 'linspace', got {spacing!r}")
    times = torch.cat([indices, indices.new_zeros(1)]) / sde.steps
    if t_start is not None:
        if indices[0] != top:
            raise ValueError(f"spacing={spacing!r} starts at {times[0]:g} with {steps} steps, not at t_start={start:g}")
        times[0] = start
    return check(times)


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "half_log_snr": half_log_snr,
    "karras": karras,
    "quadratic": quadratic,
    "cubic": cubic,
    "trailing": trailing,
    "flow": flow,
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


def describe(rule: Grid) -> str:
    """The name of a rule, with the options that a `functools.partial` has set: "trailing(power=2.0)"."""
    if isinstance(rule, partial):
        options = [repr(value) for value in rule.args] + [f"{name}={value!r}" for name, value in rule.keywords.items()]
        return f"{describe(rule.func)}({', '.join(options)})"
    name: str = getattr(rule, "__name__", type(rule).__name__)
    return name


def check(grid: Tensor) -> Tensor:
    """`grid` as a float64 tensor on the CPU.

    Raises:
        TypeError: no real numbers.
        ValueError: fewer than two times, times outside [0, 1], or times that do not strictly decrease.
    """
    grid = as_numbers("grid", grid).detach().cpu()
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


def _checked(sde: SDE, steps: int, t_start: float, t_end: float) -> tuple[int, float, float]:
    """The arguments of every rule.

    Raises:
        TypeError: another type.
        ValueError: `steps` below 1, `t_start` outside [t_min, 1] or `t_end` outside [0, t_start).
    """
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be a path such as VPSDE(), got {sde!r}")
    steps, t_start = as_count("steps", steps), as_number("t_start", t_start, above=0.0, high=1.0)
    t_end = as_number("t_end", t_end, low=0.0, below=1.0)
    if t_start < sde.t_min:
        raise ValueError(f"t_start={t_start:g} lies below t_min={sde.t_min:g}, the smallest time at which a grid calls the network")
    if not t_end < t_start:
        raise ValueError(f"t_end must be smaller than t_start={t_start:g}, got {t_end:g}")
    return steps, t_start, t_end


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
    steps, t_start, t_end = _checked(sde, steps, t_start, t_end)
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
    u = u_first + (u_last - u_first) * torch.linspace(0, 1, points, dtype=torch.float64, device="cpu")
    tail = [last] if t_end > 0 else [last, as_time(0.0)]
    return check(torch.cat([first[None], inverse(u[1:-1]), torch.stack(tail)]))
