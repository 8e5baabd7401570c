"""Bridges: paths from data x at t = 0 to something known, y, at t = 1, such as a blurred image.

    z = a(t) x + b(t) y + c(t) eps,       a(0) = b(1) = 1,       b(0) = c(0) = a(1) = c(1) = 0.

Given y, the state less its share of y is a Gaussian path with alpha = a and sigma = c,

    u = z - b y = a x + c eps,

so that every loss and every solver holds for u as it is. At t = 1 the state is y itself, u = 0. From there the only Gaussian step is the
transition u_t = a_t D + c_t xi, as in the first step of DBIM (Zheng et al. 2025, arXiv 2405.15885).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..numerics.arrays import Time, as_float64, expand
from ..numerics.inputs import as_function, as_number, as_state_like, as_values
from .base import SDE, as_time
from .diagonal import scalar_path
from .families import VESDE

Scale = Callable[[Tensor], Tensor]


class Bridge(SDE):
    """The path of u, with b(t) for the share of y.

        Bridge.pinned(sde)        a diffusion that is conditioned to end at y: DDBM (Zhou et al. 2024, arXiv 2309.16948, eq. 8), and I2SB for a
                                  variance-exploding path (Liu et al. 2023, arXiv 2302.05872, eq. 11)
        Bridge.interpolant(g)     a stochastic interpolant, (1 - t) x + t y + g sqrt(t (1 - t)) eps (Albergo et al. 2023, arXiv 2303.08797)

    Args:
        a, b, c: the scales as functions of times `(n,)` in float64, written with torch.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        TypeError: a scale is no function, or returns no real numbers.
        ValueError: the path does not run from x to y, or a/c rises somewhere.
    """

    prior_std = 0.0
    t_max = 0.999

    def __init__(self, a: Scale, b: Scale, c: Scale, *, t_min: float = 1e-3) -> None:
        self._a, self._b, self._c = (as_function(name, scale, 1) for name, scale in (("a", a), ("b", b), ("c", c)))
        self.t_min = as_number("t_min", t_min, above=0.0, below=1.0)
        t = torch.linspace(0, 1, 1001, dtype=torch.float64, device="cpu")
        values_a, values_b, values_c = (as_values(name, scale(t.clone()), t) for name, scale in (("a", a), ("b", b), ("c", c)))
        for name, values, first, last in (("a", values_a, 1, 0), ("b", values_b, 0, 1), ("c", values_c, 0, 0)):
            if abs(float(values[0]) - first) > 1e-6 or abs(float(values[-1]) - last) > 1e-6:
                raise ValueError(f"{name} must run from {first} to {last}, got {float(values[0]):g} and {float(values[-1]):g}")
        inside_a, inside_c = values_a[1:-1], values_c[1:-1]
        rising = (inside_a[1:] * inside_c[:-1] > inside_a[:-1] * inside_c[1:] * (1 + 1e-12)).nonzero().flatten()
        if not bool((inside_c > 0).all()) or len(rising):
            at = f", but it does at t = {float(t[1 + rising[0]]):g}" if len(rising) else ""
            raise ValueError(f"c must be positive inside the path, and a/c must not rise with time{at}")

    @classmethod
    def pinned(cls, sde: SDE | None = None) -> Bridge:
        """A diffusion conditioned to end at y. With rho = SNR(1)/SNR(t) of the path `sde`, a VE SDE by default,

            a = alpha_t (1 - rho),       b = rho alpha_t/alpha_1,       c^2 = sigma_t^2 (1 - rho).

        Raises:
            TypeError: `sde` is no path of numbers.
            ValueError: it has no signal left at t = 1.
        """
        sde = scalar_path(VESDE(0.02, 1.0) if sde is None else sde)
        if not math.isfinite(float(sde.half_log_snr(1.0))):
            raise ValueError(f"{sde!r} has no signal left at t = 1, where a bridge ends at y: take one that has")
        return cls(partial(_pinned_a, sde), partial(_pinned_b, sde), partial(_pinned_c, sde), t_min=sde.t_min)

    @classmethod
    def interpolant(cls, noise: float = 1.0, *, t_min: float = 1e-3) -> Bridge:
        """a = 1 - t, b = t, c = noise sqrt(t (1 - t)): a Brownian bridge of that standard deviation."""
        return cls(_one_minus, _same, partial(_arch, as_number("noise", noise, above=0.0)), t_min=t_min)

    def alpha(self, t: Time) -> Tensor:
        """a(t)."""
        t = as_time(t)
        # Nothing of x is left at t = 1, also where rounding leaves cos(pi/2) = 6e-17.
        return torch.where(t < 1, as_values("a", self._a(t.clone()), t), 0.0)

    def sigma(self, t: Time) -> Tensor:
        """c(t)."""
        t = as_time(t)
        return torch.where(t < 1, as_values("c", self._c(t.clone()), t), 0.0)

    def half_log_snr(self, t: Time) -> Tensor:
        # At t = 1 both scales are 0; their ratio falls to 0.
        t = as_time(t)
        return torch.where(t < 1, super().half_log_snr(torch.where(t < 1, t, 0.5)), -torch.inf)

    def time(self, half_log_snr: Time) -> Tensor:
        lam = as_float64(half_log_snr)
        return torch.where(lam == -torch.inf, 1.0, super().time(torch.where(lam == -torch.inf, 0.0, lam)))

    def share(self, t: Time) -> Tensor:
        """b(t)."""
        t = as_time(t)
        return as_values("b", self._b(t.clone()), t)

    def with_end(self, u: Tensor, y: Tensor, t: Time) -> Tensor:
        """z = u + b(t) y.

        Raises:
            ValueError: `y` has another shape than `u`.
        """
        y = as_state_like("y", y, u, "the state")
        return u + expand(self.share(t), u) * y.to(u.dtype)

    def without_end(self, z: Tensor, y: Tensor, t: Time) -> Tensor:
        """u = z - b(t) y.

        Raises:
            ValueError: `y` has another shape than `z`.
        """
        y = as_state_like("y", y, z, "the state")
        return z - expand(self.share(t), z) * y.to(z.dtype)

    def __repr__(self) -> str:
        return f"Bridge(c(1/2)={float(self.sigma(0.5)):.3g})"


def _fraction(sde: SDE, t: Tensor) -> Tensor:
    """1 - SNR(1)/SNR(t)."""
    return -torch.expm1(2 * (sde.half_log_snr(1.0).to(t.device) - sde.half_log_snr(t)))


def _pinned_a(sde: SDE, t: Tensor) -> Tensor:
    return sde.alpha(t) * _fraction(sde, t)


def _pinned_b(sde: SDE, t: Tensor) -> Tensor:
    return (1 - _fraction(sde, t)) * sde.alpha(t) / sde.alpha(1.0).to(t.device)


def _pinned_c(sde: SDE, t: Tensor) -> Tensor:
    return sde.sigma(t) * _fraction(sde, t).clamp(min=0).sqrt()


def _one_minus(t: Tensor) -> Tensor:
    return 1 - t


def _same(t: Tensor) -> Tensor:
    return t


def _arch(noise: float, t: Tensor) -> Tensor:
    return noise * (t * (1 - t)).clamp(min=0).sqrt()
