"""Processes with m channels in a block: momentum, and higher orders of it. Noise enters at the last channel and reaches the data smoothed.

Constant matrices run on the clock B(t) = int_0^t beta:

    dz = beta F z dt + sqrt(beta) G dw,       Phi(t, s) = e^{F (B_t - B_s)},

    A = Phi(t, 0) e_1,       Sigma = Phi Sigma_0 Phi^T + int_0^B e^{F u} G G^T e^{F^T u} du,

with the other channels of variance Sigma_0 at t = 0, independent of the data. The integral is a sum of positive terms (Gauss-Legendre), so that
the smallest entries of Sigma near t = 0 keep their digits.

Psi' = P Psi with P = F + (1 + eta^2)/2 G G^T Sigma^{-1} is solved by Magnus's method of order 4 in log t, where P t is bounded.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..numerics.coefficients import congruent, times
from ..numerics.inputs import as_count, as_number
from ..numerics.quadrature import gauss_legendre
from .linear import LinearSDE

# Nodes of the integral in Sigma: e^{-40 u} times a polynomial over [0, 1] is exact to rounding.
NODES = 48
# Magnus steps for a factor e in t.
STEPS_PER_E = 128


def propagators(rates, start: Tensor, end: Tensor, steps: int) -> Tensor:  # type: ignore[no-untyped-def]
    """e^{...} of C' = rates(u) C from `start` to `end`, entry by entry, `(n, K, m, m)`, by `steps` steps of Magnus's method of order 4.

    With the Gauss nodes u_1 and u_2 of a step of length h and A_i = rates(u_i) (Blanes et al. 2009, Physics Reports 470, eq. 253),

        C  ->  exp( h/2 (A_1 + A_2) + sqrt(3)/12 h^2 (A_2 A_1 - A_1 A_2) ) C.

    Args:
        rates: times `(n,)` -> `(n, K, m, m)`, or `(n, K)` for blocks of one channel.
    """
    h = (end - start) / steps
    left = start[:, None] + h[:, None] * torch.arange(steps, dtype=torch.float64, device=start.device)
    node = math.sqrt(3) / 6
    one, two = (rates((left + (0.5 + sign * node) * h[:, None]).reshape(-1)) for sign in (-1, 1))
    scale = h.repeat_interleave(steps).reshape(-1, *(1,) * (one.ndim - 1))
    exponent = 0.5 * scale * (one + two)
    if one.ndim == 2:
        return exponent.reshape(len(start), steps, -1).sum(1).exp()
    exponent = exponent + math.sqrt(3) / 12 * scale**2 * (two @ one - one @ two)
    parts = torch.linalg.matrix_exp(exponent).reshape(len(start), steps, *one.shape[1:])
    product = parts[:, 0]
    for k in range(1, steps):
        product = parts[:, k] @ product
    return product


class BackwardByMagnus(LinearSDE):
    """A path whose Psi is solved for."""

    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        def rates(u: Tensor) -> Tensor:
            at = u.exp()
            p = self.reverse_rates(at, eta)
            return at.reshape(-1, *(1,) * (p.ndim - 1)) * p

        start, end = s.log(), t.log()
        steps = max(2, math.ceil(STEPS_PER_E * float((start - end).max())))
        return propagators(rates, start, end, steps)


class MomentumSDE(BackwardByMagnus):
    """Constant matrices on the clock B(t) = beta t, alike for every coordinate of the event. A family gives `matrices`.

    Args:
        beta: the speed.
        start: the variances of the channels after the data at t = 0, as shares of their stationary ones.
        t_min: the smallest time at which a grid calls the network.
    """

    def __init__(self, beta: float, start: float, t_min: float) -> None:
        self.beta, self.start = as_number("beta", beta, above=0.0), as_number("start", start, above=0.0)
        self.t_min = as_number("t_min", t_min, above=0.0, below=1.0)

    @property
    @abstractmethod
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """F and G G^T, `(m, m)`, and the stationary covariance, which is diagonal, `(m,)`."""

    def clock(self, t: Tensor) -> Tensor:
        """B(t)."""
        return self.beta * t

    def _phi(self, b: Tensor) -> Tensor:
        """e^{F b}, `(n, 1, m, m)`."""
        return torch.linalg.matrix_exp(b[..., None, None] * self.matrices[0].to(b.device))[:, None]

    def signal(self, t: Tensor) -> Tensor:
        return self._phi(self.clock(t))[..., :1]

    def covariance(self, t: Tensor) -> Tensor:
        b, (_, noise, stationary) = self.clock(t), self.matrices
        first = torch.diag(self.start * stationary).to(t.device)
        first[0, 0] = 0
        nodes, weights = (part.to(t.device) for part in gauss_legendre(NODES))
        inner = congruent(self._phi((b[:, None] * nodes).reshape(-1)), noise.to(t.device)).reshape(len(t), NODES, *noise.shape)
        integral = (inner * (b[:, None] * weights)[..., None, None]).sum(1)
        return congruent(self._phi(b), first) + integral[:, None]

    def drift_rates(self, t: Tensor) -> Tensor:
        return (self.beta * self.matrices[0].to(t.device)).expand(len(t), 1, -1, -1)

    def noise_rates(self, t: Tensor) -> Tensor:
        return (self.beta * self.matrices[1].to(t.device)).expand(len(t), 1, -1, -1)

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return self._phi(self.clock(t) - self.clock(s))


class CLD(MomentumSDE):
    """Critically damped Langevin diffusion (Dockhorn et al. 2022, arXiv 2112.07068, eq. 5): position x and velocity v of mass M,

        dx = beta/M v dt,       dv = -beta x dt - Gamma beta/M v dt + sqrt(2 Gamma beta) dw,       Gamma^2 = 4 M.

    It runs towards N(0, 1) in x and N(0, M) in v, with v ~ N(0, gamma M) at t = 0.

    Args:
        beta: the speed; 4 in the paper.
        mass: M; 1/4 in the paper.
        gamma: the share of the stationary variance of v at t = 0; 0.04 in the paper.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        ValueError: a number that is not positive.
    """

    channels = 2

    def __init__(self, beta: float = 4.0, mass: float = 0.25, gamma: float = 0.04, *, t_min: float = 1e-3) -> None:
        super().__init__(beta, gamma, t_min)
        self.mass = as_number("mass", mass, above=0.0)

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        damping = 2 * math.sqrt(self.mass)
        f = torch.tensor([[0.0, 1 / self.mass], [-1.0, -damping / self.mass]], dtype=torch.float64, device="cpu")
        noise, stationary = torch.zeros_like(f), torch.tensor([1.0, self.mass], dtype=torch.float64, device="cpu")
        noise[1, 1] = 2 * damping
        return f, noise, stationary

    def __repr__(self) -> str:
        return f"CLD(beta={self.beta:g}, mass={self.mass:g}, gamma={self.start:g})"


class HOLD(MomentumSDE):
    """Higher-order Langevin dynamics, critically damped in any order m (Shi and Liu 2024, arXiv 2404.12814; Sterling and Bugallo 2025, arXiv
    2506.21741): a chain of m channels, each coupled to the next, with friction and noise at the last,

        dz_i = beta (g_i z_{i+1} - g_{i-1} z_{i-1}) dt,       dz_m = -beta (g_{m-1} z_{m-1} + xi z_m) dt + sqrt(2 xi beta) dw.

    Every choice of g and xi runs towards N(0, I). Critical damping makes all m eigenvalues of the drift equal, -rate beta: the characteristic
    polynomial of the chain is then (s + rate)^m, and g and xi are its Routh coefficients. m = 2 is `CLD` with v in units of sqrt(M).

    Args:
        order: m, 2 or more.
        beta: the speed.
        rate: of the decay; 2 by default, as in `CLD`.
        gamma: the variance of the channels after the data at t = 0.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        ValueError: an order below 2, or a number that is not positive.
    """

    def __init__(self, order: int = 3, beta: float = 4.0, rate: float = 2.0, gamma: float = 0.04, *, t_min: float = 1e-2) -> None:
        super().__init__(beta, gamma, t_min)
        self.channels, self.rate = as_count("order", order, 2), as_number("rate", rate, above=0.0)

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        m = self.channels
        couplings = routh(m, self.rate)
        f = torch.zeros(m, m, dtype=torch.float64, device="cpu")
        for i, squared in enumerate(reversed(couplings[1:])):
            f[i, i + 1], f[i + 1, i] = math.sqrt(squared), -math.sqrt(squared)
        f[-1, -1] = -couplings[0]
        noise = torch.zeros_like(f)
        noise[-1, -1] = 2 * couplings[0]
        return f, noise, torch.ones(m, dtype=torch.float64, device="cpu")

    def __repr__(self) -> str:
        return f"HOLD(order={self.channels}, beta={self.beta:g}, rate={self.rate:g}, gamma={self.start:g})"


def routh(m: int, rate: float) -> list[float]:
    """The friction xi, and g_{m-1}^2, ..., g_1^2, of the chain of m channels whose characteristic polynomial is (s + rate)^m.

    The chain is a Schwarz matrix, so that they are the ratios of the first column of Routh's array (Barnett 1983, chapter 3).
    """
    polynomial = [math.comb(m, k) * rate**k for k in range(m + 1)]
    above, below = polynomial[0::2], polynomial[1::2]
    column = [above[0], below[0]]
    while len(column) <= m:
        factor = above[0] / below[0]
        padded = [*below, 0.0]
        above, below = below, [a - factor * b for a, b in zip(above[1:], padded[1:], strict=False)]
        column.append(below[0])
    return [column[1], *(column[k + 1] / column[k - 1] for k in range(1, m))]


class CoefficientsLinearSDE(BackwardByMagnus):
    """A path from F(t) and G(t) G(t)^T of one's own. A and Sigma follow by Magnus's method and Gauss-Legendre quadrature.

    Args:
        drift: F, the times `(n,)` in float64 -> `(n, K)`, or `(n, K, m, m)` for m channels.
        noise: G G^T, likewise.
        start: the variances of the channels after the data at t = 0, `(m - 1,)` numbers; without further channels nothing.
        basis: of the blocks.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        TypeError: `drift` or `noise` is no function.
        ValueError: they return other shapes or values that are not finite on [0, 1], or `start` does not fit.
    """

    # Intervals of the stored path, shorter towards t = 0.
    INTERVALS = 512

    def __init__(self, drift, noise, start=(), basis=None, *, t_min: float = 1e-3) -> None:  # type: ignore[no-untyped-def]
        from ..numerics.inputs import as_function
        from .bases import Identity

        self._drift, self._noise = as_function("drift", drift, 1), as_function("noise", noise, 1)
        self.basis, self.t_min = basis or Identity(), as_number("t_min", t_min, above=0.0, below=1.0)
        nodes = torch.linspace(0, 1, self.INTERVALS + 1, dtype=torch.float64, device="cpu") ** 2
        f, q = self.drift_rates(nodes), self.noise_rates(nodes)
        matrix = f.ndim == 4 and f.shape[-1] == f.shape[-2]
        if f.shape != q.shape or len(f) != len(nodes) or not (f.ndim == 2 or matrix) or not bool((f + q).isfinite().all()):
            raise ValueError(
                f"drift and noise must return finite tensors of one shape, (n, K) or (n, K, m, m), got {tuple(f.shape)} and {tuple(q.shape)}"
            )
        self.channels = f.shape[-1] if matrix else 1
        first = torch.zeros(f.shape[1:], dtype=torch.float64, device="cpu")
        if len(start) != self.channels - 1 or any(v <= 0 for v in start):
            raise ValueError(f"start must hold {self.channels - 1} positive variances, got {start}")
        for i, variance in enumerate(start):
            first[..., i + 1, i + 1] = variance
        unit = torch.eye(self.channels, dtype=torch.float64, device="cpu").expand(f.shape[1:]) if matrix else torch.ones_like(first)
        phis, covariances = [unit], [first]
        for phi, growth in zip(self._phi(nodes[:-1], nodes[1:]), self._growth(nodes[:-1], nodes[1:]), strict=True):
            phis.append(times(phi[None], phis[-1][None])[0])
            covariances.append(congruent(phi[None], covariances[-1][None])[0] + growth)
        self._nodes, self._phis, self._covariances = nodes, torch.stack(phis), torch.stack(covariances)

    def _phi(self, s: Tensor, t: Tensor) -> Tensor:
        """Phi from s to t within an interval."""
        return propagators(self.drift_rates, s, t, 2)

    def _growth(self, s: Tensor, t: Tensor) -> Tensor:
        """int_s^t Phi(t, u) G G^T Phi(t, u)^T du within an interval."""
        nodes, weights = (part.to(s.device) for part in gauss_legendre(4))
        total = torch.zeros(())
        for node, weight in zip(nodes, weights, strict=True):
            at = s + (t - s) * node
            part = congruent(self._phi(at, t), self.noise_rates(at))
            total = total + ((t - s) * weight).reshape(-1, *(1,) * (part.ndim - 1)) * part
        return total

    def _before(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last stored time before each of `t`, with Phi and Sigma there."""
        k = (torch.searchsorted(self._nodes.to(t.device), t.contiguous(), right=True) - 1).clamp(0, self.INTERVALS - 1)
        return self._nodes.to(t.device)[k], self._phis.to(t.device)[k], self._covariances.to(t.device)[k]

    def signal(self, t: Tensor) -> Tensor:
        at, phi, _ = self._before(t)
        whole = times(self._phi(at, t), phi)
        return whole if self.channels == 1 else whole[..., :1]

    def covariance(self, t: Tensor) -> Tensor:
        at, _, covariance = self._before(t)
        return congruent(self._phi(at, t), covariance) + self._growth(at, t)

    def drift_rates(self, t: Tensor) -> Tensor:
        return self._drift(t).double()

    def noise_rates(self, t: Tensor) -> Tensor:
        return self._noise(t).double()

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        (at_s, phi_s, _), (at_t, phi_t, _) = self._before(s), self._before(t)
        phi_s, phi_t = times(self._phi(at_s, s), phi_s), times(self._phi(at_t, t), phi_t)
        return phi_t / phi_s if self.channels == 1 else torch.linalg.solve(phi_s.mT, phi_t.mT).mT

    def __repr__(self) -> str:
        return f"CoefficientsLinearSDE(K={self._phis.shape[1]}, m={self.channels}, basis={self.basis!r})"
