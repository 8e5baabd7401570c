"""Rules for any path, each by the clock in which it is uniform."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics.inputs import as_number
from ..sde.base import SDE
from ..sde.vp import VPSDE
from .base import down_to_zero, uniform_in


def uniform(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in t. On a chain with N = T these are all its steps."""
    return uniform_in(lambda t: t, lambda u: u, sde, steps, t_start, t_end)


def half_log_snr(sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in lambda = log(alpha/sigma) (Lu et al. 2022, arXiv 2206.00927)."""
    return uniform_in(lambda t: sde.half_log_snr(t), lambda u: sde.time(u), sde, steps, t_start, t_end)


def karras(sde: SDE, steps: int, *, rho: float = 7.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in (sigma/alpha)^(1/rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5).

    Raises:
        ValueError: `rho` is not positive and finite.
    """
    rho = as_number("rho", rho, above=0.0)
    return uniform_in(lambda t: (-sde.half_log_snr(t) / rho).exp(), lambda u: sde.time(-rho * u.log()), sde, steps, t_start, t_end)


def power(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in tau^(1/power), where tau is the time of the classical VP SDE with the same signal-to-noise ratio.

    Power 1 is uniform in tau; a higher power takes more steps at small noise. The rule depends on lambda only, so that it is the same for every
    path. `quadratic` and `cubic` are powers with a name; for others take `functools.partial(grids.power, power=2.5)`.

    Raises:
        ValueError: `power` is not positive and finite.
    """
    return uniform_in(*_power_clock(sde, power), sde, steps, t_start, t_end)


def trailing(sde: SDE, steps: int, *, power: float = 2.0, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Uniform in the clock of `power` down to 0: u(t_n) = u(t_0) (1 - n/N), so that the last call is one step of N before the end.

    Other grids call the network at `sde.t_min`, which costs one of few steps. With power 1 this grid is the "trailing" spacing of Lin et al.
    2023, arXiv 2305.08891, in the time of the classical VP SDE. No call is below `sde.t_min`: with many steps the grid is that of `power`.

    Raises:
        ValueError: `power` is not positive and finite.
    """
    return down_to_zero(*_power_clock(sde, power), sde, steps, t_start, t_end)


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

    return down_to_zero(clock, inverse, sde, steps, t_start, t_end)


def _power_clock(sde: SDE, power: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """u = tau^(1/power) as a function of t, and its inverse."""
    power = as_number("power", power, above=0.0)
    tau, inverse = vp_clock(sde)
    return lambda t: tau(t) ** (1 / power), lambda u: inverse(u**power)


def vp_clock(sde: SDE) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """tau, the time of the classical VP SDE with the same signal-to-noise ratio, as a function of t, and its inverse."""
    vp = VPSDE()

    def half_log_snr_at(tau: Tensor) -> Tensor:
        # vp.half_log_snr, extended beyond tau = 1 for paths with less signal at t = 1.
        integral = tau * (vp.beta_min + 0.5 * tau * (vp.beta_max - vp.beta_min))
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    return lambda t: vp.time(sde.half_log_snr(t)), lambda tau: sde.time(half_log_snr_at(tau))


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
    return uniform_in(
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
    return uniform_in(
        lambda t: torch.as_tensor(betainc(a, b, t.numpy()), dtype=torch.float64, device="cpu"),
        lambda u: torch.as_tensor(betaincinv(a, b, u.numpy()), dtype=torch.float64, device="cpu"),
        sde,
        steps,
        t_start,
        t_end,
    )
