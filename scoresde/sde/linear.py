"""Every linear SDE whose matrices are block-diagonal in one orthogonal basis: a Gaussian path with matrices in the place of numbers.

    dz = F(t) z dt + G(t) dw,       z_t | x ~ N(A(t) x, Sigma(t)),       Sigma = R R^T,

    A' = F A,       Sigma' = F Sigma + Sigma F^T + G G^T,       score = -Sigma^{-1} (z - A D),       D = E[x | z_t = z].

With Phi(t, s) of the forward equation, Phi' = F Phi, the transition from s up to t and the posterior are

    z_t | z_s     ~ N( Phi z_s,  Sigma_t - Phi Sigma_s Phi^T )
    z_s | z_t, x  ~ N( A_s x + Psi (z_t - A_t x),  Sigma_s - Psi Sigma_t Psi^T ),       Psi = Sigma_s Phi^T Sigma_t^{-1}.

Backwards, every eta >= 0 gives an SDE with the marginals of the path, eta = 0 the probability flow and eta = 1 the time reversal,

    dz = [F z - (1 + eta^2)/2 G G^T score] dt + eta G dw
       = [P z + (F - P) A D] dt + eta G dw,       P = F + (1 + eta^2)/2 G G^T Sigma^{-1},

and Psi_eta(t, s) with Psi' = P Psi carries z - A D from s down to t where D is constant (Zhang et al. 2022, arXiv 2206.05564). For eta = 0 it
is R_t R_s^{-1} with R' = P R: with y = R^{-1} z and M = R^{-1} A the flow is dy = dM D, for numbers d(z/sigma) = d(alpha/sigma) D. For eta = 1
it is the posterior's Psi.

In the basis everything is a coefficient (`numerics.coefficients`): `(n, K)` where a block has one channel, `(n, K, m, m)` where it has m, at n
times; K is 1 where all blocks are alike. States are `(B, *event)` or `(B, m, *event)`, data are `(B, *event)`.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor

from ..numerics.arrays import Time, as_float64, event_sum, to_device
from ..numerics.coefficients import apply, congruent, inverse, is_matrix, log_det, product, root, transposed
from ..numerics.inputs import as_device, as_dtype, as_shape, as_state, as_state_like
from ..numerics.random import randn
from .base import SDE, _ordered, as_time
from .bases import Basis, Identity

# Times at which the clock is stored, and steps of its inversion: both ends of a bracket then agree to rounding.
STORED, SECANTS = 512, 12


class LinearSDE(SDE):
    """A Gaussian path with a coefficient for each block of an orthogonal basis.

    A family gives `signal`, `covariance`, `drift_rates`, `noise_rates`, `forward` and `backward`. It has no single alpha(t) or sigma(t): what
    needs these refuses it by name.

    Times of the six are `(n,)` float64; results `(n, K)`, or `(n, K, m, m)` with m channels, K or 1 blocks.

    Attributes:
        basis: the orthogonal basis of the blocks.
        coordinates: the basis in which `in_basis` left the process; None elsewhere.
        channels: m. With more than one, data are the first channel and the noise enters at the last.
    """

    basis: Basis = Identity()
    channels: int = 1
    coordinates: Basis | None = None
    _clock: Tensor | None = None

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """A(t), `(n, K)` or `(n, K, m, 1)`."""

    @abstractmethod
    def covariance(self, t: Tensor) -> Tensor:
        """Sigma(t)."""

    @abstractmethod
    def drift_rates(self, t: Tensor) -> Tensor:
        """F(t)."""

    @abstractmethod
    def noise_rates(self, t: Tensor) -> Tensor:
        """G(t) G(t)^T."""

    @abstractmethod
    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        """Phi(t, s) for s < t, entry by entry."""

    @abstractmethod
    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        """Psi_eta(t, s) for t < s, entry by entry."""

    def reverse_rates(self, t: Tensor, eta: float = 0.0) -> Tensor:
        """P = F + (1 + eta^2)/2 G G^T Sigma^{-1}."""
        noise, covariance = self.noise_rates(t), self.covariance(t)
        pull = torch.linalg.solve(covariance, noise.mT).mT if is_matrix(noise) else noise / covariance
        return self.drift_rates(t) + 0.5 * (1 + eta**2) * pull

    def flow_rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """P and (F - P) A at eta = 0, what multiplies the state and D in the probability flow dz/dt."""
        p = self.reverse_rates(t)
        return p, product(self.drift_rates(t) - p, self.signal(t))

    def half_log_snr(self, t: Time) -> Tensor:
        """The clock of the path: the mean over blocks of log(A^T Sigma^{-1} A)/2, which for numbers is lambda = log(alpha/sigma).

        A^T Sigma^{-1} A is the precision of what a state says of the data of its block. No transition can raise it.
        """
        t = as_time(t)
        return -self.spread(t.reshape(-1)).log().mean(-1).reshape(t.shape)

    def time(self, half_log_snr: Time) -> Tensor:
        """The inverse of the clock: by its values at stored times, and in between by the secant method in log t within a bracket."""
        target = as_float64(half_log_snr)
        wanted = target.detach().reshape(-1).cpu()
        knots = (torch.arange(1, STORED + 1, dtype=torch.float64, device="cpu") / STORED) ** 2
        if self._clock is None:
            self._clock = self.half_log_snr(knots)
        # No time is after 1, where the clock is lowest.
        wanted = wanted.clamp(min=float(self._clock[-1]))
        k = torch.searchsorted(-self._clock, -wanted).clamp(1, STORED - 1)
        low, high = knots[k - 1].log(), knots[k].log()
        f_low, f_high = self._clock[k - 1] - wanted, self._clock[k] - wanted
        middle = low
        for _ in range(SECANTS):
            middle = torch.where(f_low == f_high, low, low + (high - low) * f_low / (f_low - f_high))
            f = self.half_log_snr(middle.exp()) - wanted
            early = f > 0
            # Illinois: the end that stays counts half, so that both ends move.
            f_low, f_high = torch.where(early, f, 0.5 * f_low), torch.where(early, 0.5 * f_high, f)
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        inside = middle.exp().clamp(0, 1)
        before = wanted > self._clock[0]
        if bool(before.any()):
            inside = torch.where(before, super().time(torch.where(before, wanted, self._clock[0])), inside)
        return inside.reshape(target.shape).to(target.device)

    def spread(self, t: Tensor) -> Tensor:
        """r = (A^T Sigma^{-1} A)^{-1/2}, `(n, K)`: the standard deviation of the best estimate of the data that is linear in the state."""
        a, covariance = self.signal(t), self.covariance(t)
        if not is_matrix(a):
            return covariance.sqrt() / a.abs()
        solution, singular = torch.linalg.solve_ex(covariance, a)
        # Only where no time has passed a channel has no noise, and the state holds the data.
        return torch.where(singular > 0, 0.0, (a.mT @ solution)[..., 0, 0].rsqrt())

    def drift(self, z: Tensor, t: Time) -> Tensor:
        """F(t) z, of the shape of `z`."""
        z = self.as_state("z", z)
        return self.times(self.drift_rates(_each(t, z)), z)

    def times(self, c: Tensor, z: Tensor) -> Tensor:
        """The coefficient `c` of the basis times a state or data in the event's own coordinates."""
        return self.basis.back(apply(at_state(c, z), self.basis.to(z)))

    def as_state(self, name: str, z: Any) -> Tensor:
        """A state: with m channels, `(B, m, *event)`.

        Raises:
            TypeError: no real numbers.
            ValueError: another number of channels.
        """
        z = as_state(name, z)
        if self.channels > 1 and z.shape[1:2] != (self.channels,):
            raise ValueError(f"{name} must have shape (B, {self.channels}, *event) on {self!r}, got {tuple(z.shape)}")
        return z

    def state_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a state for data of the shape `(B, *event)`."""
        return tuple(shape) if self.channels == 1 else (shape[0], self.channels, *shape[1:])

    def data_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of data for a state of the shape `(B, *event)` or `(B, m, *event)`."""
        return tuple(shape) if self.channels == 1 else (shape[0], *shape[2:])

    def perturb(self, x: Tensor, t: Time, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw z_t = A x + R eps, with R the Cholesky factor of Sigma; returns `(z, noise)`, both states.

        Raises:
            TypeError: `x` or `noise` holds no real numbers.
            ValueError: `noise` is no state for data of the shape of `x`, or `t` is neither a scalar nor `(B,)`.
        """
        x = as_state("x", x)
        shape = self.state_shape(x.shape)
        if noise is None:
            noise = randn(shape, generator, dtype=x.dtype, device=x.device)
        noise = as_state_like("noise", noise, x.new_zeros(()).expand(shape), "a state for x")
        at = _each(t, x)
        return self.times(self.signal(at), x) + self.times(root(self.covariance(at)), noise), noise

    def transition(self, z: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean, of the shape of `z`, and root C of the covariance of q(z_t | z_s = z), for s < t; a draw is mean + `times(C, eps)`."""
        z = self.as_state("z", z)
        s, t = (_each(at, z) for at in _ordered(s, t))
        phi = self.forward(s, t)
        return self.times(phi, z), root(self.covariance(t) - congruent(phi, self.covariance(s)))

    def posterior(self, z: Tensor, x: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
        """Mean, of the shape of `z`, and root C of the covariance of q(z_s | z_t = z, x), for s < t."""
        z, x = self.as_state("z", z), as_state("x", x)
        s, t = (_each(at, z) for at in _ordered(s, t))
        before, after = self.covariance(s), self.covariance(t)
        psi = product(product(before, transposed(self.forward(s, t))), inverse(_without_zeros(after)))
        mean = self.times(self.signal(s), x) + self.times(psi, z - self.times(self.signal(t), x))
        return mean, root(before - congruent(psi, after))

    def prior(
        self,
        shape: Sequence[int],
        generator: Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A draw of N(0, Sigma(1)), a state for data of the shape `(B, *event)`.

        Raises:
            ValueError: coordinates that are known at t = 1 have no law there.
        """
        if not bool((self.spread(_end()) > 0).all()):
            raise ValueError(f"{self!r} leaves some coordinates without noise at t = 1: a state is sde.perturb(x, 1.0)[0]")
        shape, device = self.state_shape(as_shape("shape", shape)), as_device("device", device)
        noise = randn(shape, generator, dtype=as_dtype("dtype", dtype) or torch.float32, device=device)
        return self.times(root(self.covariance(_end())), noise)

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """log N(z; 0, Sigma(1)) of each sample in nats, shape `(B,)`.

        Raises:
            ValueError: coordinates that are known at t = 1 have no density.
        """
        z = self.as_state("z", z)
        factor = root(self.covariance(_end()))
        if not bool(log_det(factor).isfinite().all()):
            raise ValueError(f"{self!r} leaves some coordinates without noise at t = 1, so that its states have no density there")
        white = apply(at_state(inverse(factor), z), self.basis.to(z))
        d = z.shape[1:].numel()
        return -0.5 * event_sum(white**2) - 0.5 * d * math.log(2 * math.pi) - self.summed(log_det(factor), z)

    def summed(self, values: Tensor, z: Tensor) -> float:
        """The sum of `values` `(1, K)`, one for each block, over the blocks of an event of the states `z`."""
        blocks = z.shape[1:].numel() // self.channels
        return float(values.mean()) * blocks

    def in_basis(self) -> LinearSDE:
        """The same process with the coordinates of the basis for those of the event."""
        twin = copy.copy(self)
        twin.basis, twin.coordinates = Identity(), self.coordinates or self.basis
        return twin

    @property
    def prior_std(self) -> float:  # type: ignore[override]
        """Refused: the prior has the covariance Sigma(1)."""
        self._scalar("prior_std")

    def _scalar(self, name: str) -> NoReturn:
        raise TypeError(
            f"{self!r} has no single {name}, as its blocks have coefficients of their own: this is for paths of one alpha(t) and one "
            "sigma(t) (the page Processes of the documentation says what works on every linear SDE)"
        )

    def alpha(self, t: Time) -> Tensor:
        """Refused: `signal` has a coefficient for each block."""
        self._scalar("alpha")

    def sigma(self, t: Time) -> Tensor:
        """Refused: `covariance` has a coefficient for each block."""
        self._scalar("sigma")

    def drift_rate(self, t: Time) -> Tensor:
        """Refused: see `drift_rates`."""
        self._scalar("drift_rate")

    def diffusion(self, t: Time) -> Tensor:
        """Refused: see `noise_rates`."""
        self._scalar("diffusion")

    def velocity_direction(self, t: Time) -> tuple[Tensor, Tensor]:
        """Refused: there is no one angle."""
        self._scalar("velocity")


def _without_zeros(covariance: Tensor) -> Tensor:
    """1 for the variance of what is known: its multiples of 0 are then 0."""
    return covariance if is_matrix(covariance) else torch.where(covariance == 0, 1.0, covariance)


def at_state(c: Tensor, z: Tensor) -> Tensor:
    """A float64 coefficient, cast last, in the dtype and on the device of a state."""
    return to_device(c.to(z.dtype), z.device)


def _each(t: Time, z: Tensor) -> Tensor:
    """The times as `(1,)`, or `(B,)` with one for each sample of `z`.

    Raises:
        ValueError: another shape.
    """
    t = as_time(t)
    if t.ndim and t.shape != z.shape[:1]:
        raise ValueError(
            f"a time t must be a scalar or have shape (B,): got {tuple(t.shape)} for a batch of shape {tuple(z.shape)}"
        )
    return t.reshape(-1)


def _end() -> Tensor:
    return torch.ones(1, dtype=torch.float64, device="cpu")
