"""User-defined paths, from the scales alpha and sigma or from the coefficients f and g. The other pair follows; the arguments are checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..numerics.arrays import Time
from ..numerics.brief import line, shown
from ..numerics.inputs import as_function, as_number, as_values
from ..numerics.keywords import explained_keywords
from .base import NO_SIGNAL, SDE, as_time

# A float64 tensor of times -> values of its shape, or one number for all of them.
ScalarFunction = Callable[[Tensor], Tensor | float]


def values(name: str, function: ScalarFunction, t: Tensor) -> Tensor:
    """`function(t)` in float64, of the shape of `t`.

    Raises:
        TypeError: no real numbers came back.
        ValueError: they have another shape, or the function cannot be computed at these times.
    """
    try:
        # A copy: the function may work in place or return its argument.
        out = function(t.clone())
    except Exception as error:
        raise ValueError(
            f"{name} must be a function of a float64 tensor of times, written with torch; at t of shape {tuple(t.shape)}: {error}"
        ) from error
    return as_values(name, out, t)


class ScalesSDE(SDE):
    """A path from alpha(t) and sigma(t). Drift and diffusion follow by automatic differentiation.

    A path without signal at t = 1, such as alpha = cos(pi t/2), needs a network that predicts "velocity", "data" or "edm". There alpha(1) is
    exactly 0, also where rounding leaves 6e-17: at most 1e-6 sqrt(alpha^2 + sigma^2) counts as 0.

    Args:
        alpha: signal scale, a differentiable function of a float64 tensor of times in [0, 1]. It returns a tensor of their shape, or a number
            for a constant.
        sigma: noise scale, likewise; 0 at t = 0.
        t_min: the smallest time at which a grid calls the network.
        prior_std: standard deviation to start from at t = 1; by default sqrt(alpha^2 + sigma^2), right for unit-variance data.

    Raises:
        TypeError: a scale is no function, or returns no real numbers.
        ValueError: a scale is negative or not finite or has no gradient, the path does not start at the data, alpha/sigma rises somewhere,
            `t_min` lies outside (0, 1), or `prior_std` is not positive.
    """

    _ends_without_signal = False

    def __init__(
        self, alpha: ScalarFunction, sigma: ScalarFunction, *, t_min: float = 1e-3, prior_std: float | None = None
    ) -> None:
        self._alpha, self._sigma = as_function("alpha", alpha, 1), as_function("sigma", sigma, 1)
        self.t_min = as_number("t_min", t_min, above=0.0, below=1.0)
        t = torch.linspace(0, 1, 1001, dtype=torch.float64, device="cpu")
        a, s = (differentiable(name, function, t) for name, function in (("alpha", alpha), ("sigma", sigma)))
        if not bool(((a >= 0) & (s >= 0) & (a + s).isfinite()).all()):
            raise ValueError("alpha and sigma must be finite and not negative on [0, 1]")
        if float(s[0]) != 0 or float(a[0]) == 0:
            raise ValueError(f"a path starts at the data, but alpha(0) = {float(a[0]):g} and sigma(0) = {float(s[0]):g}")
        rising = (a[1:] * s[:-1] >= a[:-1] * s[1:]).nonzero().flatten()
        if len(rising):
            raise ValueError(f"alpha/sigma must fall with time, but it does not at t = {float(t[rising[0]]):g}")
        if float(a[-1]) <= NO_SIGNAL * math.hypot(float(a[-1]), float(s[-1])):
            self.t_max, self._ends_without_signal = 0.999, True
        self.prior_std = as_number(
            "prior_std", float((a[-1] ** 2 + s[-1] ** 2).sqrt()) if prior_std is None else prior_std, above=0.0
        )

    def __repr__(self) -> str:
        return line("ScalesSDE", f"alpha={shown(self._alpha)}", f"sigma={shown(self._sigma)}")

    def alpha(self, t: Time) -> Tensor:
        t = as_time(t)
        alpha = values("alpha", self._alpha, t)
        # Solvers ask for alpha = 0. The derivative at t = 1 stays.
        return torch.where(t >= 1, alpha - alpha.detach(), alpha) if self._ends_without_signal else alpha

    def sigma(self, t: Time) -> Tensor:
        return values("sigma", self._sigma, as_time(t))


def differentiable(name: str, function: ScalarFunction, t: Tensor) -> Tensor:
    """The values of a scale at the times `t`, detached.

    Raises:
        ValueError: they vary, but carry no gradient: drift and diffusion, their derivatives by time, would silently be 0.
    """
    with torch.enable_grad():
        out = values(name, function, t.detach().requires_grad_())
    if not out.requires_grad and bool((out != out[:1]).any()):
        raise ValueError(
            f"{name} must be written with torch, so that it can be differentiated: its tensor has no gradient by the times"
        )
    return out.detach()


class CoefficientsSDE(SDE):
    """A path from f(t) and g(t) of dz = f z dt + g dw. The scales follow by quadrature (scipy, relative error 1e-9 above t_min).

    log alpha = int_0^t f,     (sigma/alpha)^2 = int_0^t (g/alpha)^2.

    Args:
        drift_rate: f, a function of a float64 tensor of times in [0, 1]. It returns a tensor or an array of their shape, or a number for a
            constant.
        diffusion: g, likewise; positive for t > 0.
        t_min: the smallest time at which a grid calls the network.
        prior_std: standard deviation to start from at t = 1; by default sqrt(alpha^2 + sigma^2), right for unit-variance data.

    Raises:
        TypeError: f or g is no function, or returns no real numbers.
        ValueError: f or g is not finite on (0, 1], g is not positive there, `t_min` lies outside (0, 1), or `prior_std` is not positive.
    """

    @explained_keywords(f="f is drift_rate=", drift="f is drift_rate=", g="g is diffusion=")
    def __init__(
        self, drift_rate: ScalarFunction, diffusion: ScalarFunction, *, t_min: float = 1e-3, prior_std: float | None = None
    ) -> None:
        from scipy.integrate import solve_ivp

        self._drift_rate, self._diffusion = (
            as_function(name, function, 1, of="t, as drift and diffusion are f(t) z and g(t)")
            for name, function in (("drift_rate", drift_rate), ("diffusion", diffusion))
        )
        self.t_min = as_number("t_min", t_min, above=0.0, below=1.0)
        inside = torch.linspace(0, 1, 1001, dtype=torch.float64, device="cpu")[1:]
        f, g = values("drift_rate", drift_rate, inside).detach(), values("diffusion", diffusion, inside).detach()
        if not bool((f.isfinite() & g.isfinite() & (g > 0)).all()):
            raise ValueError(
                "f and g must be finite, and g positive, for 0 < t <= 1: a path whose signal vanishes at t = 1 is a ScalesSDE(alpha, sigma)"
            )

        def slopes(t: float, y: Any) -> list[float]:
            at = as_time(t)
            return [float(self.drift_rate(at)), float(self.diffusion(at) ** 2 * math.exp(-2 * y[0]))]

        # f and g may be undefined at 0, so the integrals start at 1e-12. Their values there are far below the tolerance.
        tiny = 1e-12
        begin = slopes(tiny, [0.0])
        solution: Any = solve_ivp(
            slopes,
            (tiny, 1.0),
            [tiny * begin[0], tiny * begin[1]],
            method="DOP853",
            rtol=1e-12,
            atol=1e-15,
            dense_output=True,
        )
        if not solution.success:
            raise ValueError(f"f and g cannot be integrated over [0, 1]: {solution.message}")
        self._solution = solution.sol
        end = float((self.alpha(1.0) ** 2 + self.sigma(1.0) ** 2).sqrt())
        self.prior_std = as_number("prior_std", end if prior_std is None else prior_std, above=0.0)

    def __repr__(self) -> str:
        return line("CoefficientsSDE", f"drift_rate={shown(self._drift_rate)}", f"diffusion={shown(self._diffusion)}")

    def _integrals(self, t: Time) -> tuple[Tensor, Tensor]:
        """log alpha and (sigma/alpha)^2."""
        t = as_time(t)
        if t.numel() == 0:
            return t, t
        flat = t.detach().cpu().reshape(-1)
        log_alpha, ratio = (
            torch.from_numpy(row).reshape(t.shape).to(t.device) for row in self._solution(flat.clamp(min=1e-12).numpy())
        )
        return torch.where(t > 0, log_alpha, 0.0), torch.where(t > 0, ratio, 0.0)

    def alpha(self, t: Time) -> Tensor:
        return self._integrals(t)[0].exp()

    def sigma(self, t: Time) -> Tensor:
        log_alpha, ratio = self._integrals(t)
        return log_alpha.exp() * ratio.sqrt()

    def half_log_snr(self, t: Time) -> Tensor:
        return -0.5 * self._integrals(t)[1].log()

    def drift_rate(self, t: Time) -> Tensor:
        return values("drift_rate", self._drift_rate, as_time(t))

    def diffusion(self, t: Time) -> Tensor:
        return values("diffusion", self._diffusion, as_time(t))
