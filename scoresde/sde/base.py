"""A Gaussian path from data (t = 0) to noise (t = 1), as a stochastic differential equation.

    dz = f(t) z dt + g(t) dw                                   drift and diffusion
    z_t | x ~ N(alpha(t) x, sigma(t)^2 I)                      marginal: alpha is the signal scale, sigma the noise scale
    lambda(t) = log(alpha(t) / sigma(t))                       half the log signal-to-noise ratio

The two descriptions determine each other (Song et al. 2021, arXiv 2011.13456, eq. 29; Kingma et al. 2021, arXiv 2107.00630):

    f = d log(alpha) / dt,        g^2 = d sigma^2 / dt - 2 f sigma^2.

With h = lambda(t) - lambda(s) <= 0 for s < t, the transition and the posterior are

    z_t | z_s     ~ N( alpha_t/alpha_s z_s,  sigma_t^2 (1 - e^{2h}) )
    z_s | z_t, x  ~ N( (sigma_s/sigma_t) e^h z_t + alpha_s (1 - e^{2h}) x,  sigma_s^2 (1 - e^{2h}) ).

For a DDPM chain these are Bishop's q(z_t | z_{t-1}) and q(z_{t-1} | z_t, x), sections 20.1 and 20.2.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from .. import deprecation
from ..numerics.arrays import Time, as_float64, expand, flatten_events, values_are_known
from ..numerics.inputs import as_device, as_dtype, as_number, as_numbers, as_shape, as_state, as_state_like, as_tensor
from ..numerics.random import randn
from .transitions import posterior_coefficients, variance_fraction

# A state with alpha <= NO_SIGNAL sqrt(alpha^2 + sigma^2) says nothing of the data in float32. Published paths have 4e-5 and more, or 0.
NO_SIGNAL = 1e-6
# With alpha(1) above this many prior_std, samples start from another distribution than that of the path. Published paths have 0.07 and less.
MOST_SIGNAL = 0.2

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def as_time(t: Time, name: str = "t") -> Tensor:
    """`t` in float64.

    Args:
        name: of the argument, for errors.

    Raises:
        TypeError: no real number and no tensor of them.
        ValueError: a time outside [0, 1], where the value is known (`values_are_known`).
    """
    # The first two need no look: solvers ask in every step.
    plain = isinstance(t, float) or (isinstance(t, Tensor) and t.is_floating_point())
    out = as_float64(t) if plain else as_numbers(name, t)
    if values_are_known(out) and not bool(((out >= 0) & (out <= 1 + 1e-6)).all()):
        raise ValueError(f"times run from 0 (data) to 1 (noise), got {name}={t}; step i = 0..T-1 of a chain is at t = (i + 1)/T")
    return out


class SDE(ABC):
    """A Gaussian path. A family defines `alpha` and `sigma`, and this class derives the rest. A family with closed forms overrides them.

    Times are floats or tensors, scalar or `(B,)`; schedule functions return float64 of the same shape.

    Attributes:
        t_min: the smallest time at which a grid calls the network; from there one last step goes to sigma = 0.
        t_max: 1, or a time just below 1 where alpha(1) = 0: there lambda is -inf, and grids in lambda are spaced from t_max instead.
        prior_std: standard deviation of the Gaussian that sampling starts from.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    prior_std: float = 1.0

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Signal scale alpha(t)."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Noise scale sigma(t)."""

    def time(self, half_log_snr: Time) -> Tensor:
        """The time t at which lambda(t) has the given value: the inverse of `half_log_snr`, here by bisection."""
        target = as_float64(half_log_snr)
        low, high = torch.zeros_like(target), torch.ones_like(target)
        # 80 halvings reach the last bit of every time down to 1e-8.
        for _ in range(80):
            middle = 0.5 * (low + high)
            early = self.half_log_snr(middle) > target
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return torch.where(target == torch.inf, 0.0, 0.5 * (low + high))

    def velocity_direction(self, t: Time) -> tuple[Tensor, Tensor]:
        """(a, b) with velocity = a x + b eps: the derivative of z = cos(phi) x + sin(phi) eps by its angle, (-sigma, alpha)."""
        return -self.sigma(t), self.alpha(t)

    def half_log_snr(self, t: Time) -> Tensor:
        """lambda(t) = log(alpha(t) / sigma(t)): inf at sigma = 0, and -inf at alpha = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    def drift_rate(self, t: Time) -> Tensor:
        """f(t) = d log(alpha) / dt, here by differentiating `alpha`."""
        t = as_time(t).detach().requires_grad_()
        with torch.enable_grad():
            (f,) = torch.autograd.grad((self.alpha(t).log() + 0 * t).sum(), t)  # 0 t: alpha may be constant
        return f

    def diffusion(self, t: Time) -> Tensor:
        """g(t) = sqrt(d sigma^2 / dt - 2 f sigma^2), here by differentiating `sigma`."""
        t = as_time(t).detach().requires_grad_()
        with torch.enable_grad():
            variance = self.sigma(t) ** 2
            (growth,) = torch.autograd.grad(variance.sum(), t)
        return (growth - 2 * self.drift_rate(t) * variance.detach()).sqrt()

    def drift(self, z: Tensor, t: Time) -> Tensor:
        """f(t) z, of the shape of `z`."""
        z = as_state("z", z)
        return expand(self.drift_rate(t), z) * z

    def perturb(self, x: Tensor, t: Time, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw z_t ~ q(z_t | x) = N(alpha x, sigma^2 I); returns `(z, noise)`, both of the shape of `x`.

        Raises:
            TypeError: `x` or `noise` holds no real numbers.
            ValueError: `noise` has another shape than `x`, or `t` is neither a scalar nor `(B,)`.
        """
        if noise is not None:
            noise, x = as_state("noise", noise), as_tensor("x", x)
            # Counts are exact in the dtype of the noise. Without noise their dtype says nothing of the state's.
            x = x.to(noise.dtype) if x.dtype in INTEGERS else x
        x = as_state("x", x)
        if noise is None:
            noise = randn(x.shape, generator, dtype=x.dtype, device=x.device)
        noise = as_state_like("noise", noise, x, "x")
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * noise, noise

    def transition(self, z: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean (of the shape of `z`) and standard deviation of q(z_t | z_s = z), for s < t."""
        z = as_state("z", z)
        s, t = _ordered(s, t)
        h = self.half_log_snr(t) - self.half_log_snr(s)
        mean = expand(self.alpha(t) / self.alpha(s), z) * z
        return mean, expand(self.sigma(t) * variance_fraction(h).sqrt(), z)

    def posterior(self, z: Tensor, x: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean (of the shape of `z`) and standard deviation of q(z_s | z_t = z, x), for s < t."""
        z = as_state("z", z)
        x = as_state_like("x", x, z, "z")
        s, t = _ordered(s, t)
        h = self.half_log_snr(t) - self.half_log_snr(s)
        a, b = posterior_coefficients(self.alpha(s), self.sigma(s), self.sigma(t), h)
        return expand(a, z) * z + expand(b, z) * x, expand(self.sigma(s) * variance_fraction(h).sqrt(), z)

    def prior(
        self,
        shape: Sequence[int],
        generator: Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A draw of N(0, prior_std^2 I), `(B, *event)`, from which sampling starts."""
        shape, device = as_shape("shape", shape), as_device("device", device)
        return self.prior_std * randn(shape, generator, dtype=as_dtype("dtype", dtype) or torch.float32, device=device)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, prior_std^2 I) of each sample in nats, shape `(B,)`."""
        z = flatten_events(as_state("z", z))
        return -0.5 * ((z / self.prior_std) ** 2 + math.log(2 * math.pi * self.prior_std**2)).sum(1)

    def reverse(self, model: Any, eta: float = 1.0) -> Any:
        """Deprecated: `models.ReverseSDE(model, eta)`."""
        deprecation.warn("SDE.reverse(model, eta)", "scoresde.models.ReverseSDE(model, eta)")
        return deprecation.load("models.reverse:ReverseSDE")(model, eta)


def end_time(sde: SDE, t_end: float | None) -> float:
    """The time towards the data at which a path ends, by default `sde.t_min`.

    Raises:
        TypeError: no number.
        ValueError: outside (0, 1), or by default on a chain of one step, whose smallest time is 1.
    """
    if t_end is None and not sde.t_min < 1:
        raise ValueError(f"the smallest time of {sde!r} is t_min = 1, which leaves no path down from 1: give t_end=")
    return as_number("t_end", sde.t_min if t_end is None else t_end, above=0.0, below=1.0)


def _ordered(s: Time, t: Time) -> tuple[Tensor, Tensor]:
    s, t = as_time(s, "s"), as_time(t)
    if values_are_known(s, t) and bool((s >= t).any()):
        raise ValueError(f"s must be smaller than t (time runs from data at 0 to noise at 1): got s={s} and t={t}")
    return s, t
