"""Processes with m channels in a block: momentum, and higher orders of it. Noise enters at the last channel and reaches the data smoothed.

Constant matrices run on the clock B(t) = int_0^t beta:

    dz = beta F z dt + sqrt(beta) G dw,       Phi(t, s) = e^{F (B_t - B_s)},

    A = Phi(t, 0) e_1,       Sigma = Phi Sigma_0 Phi^T + int_0^B e^{F u} G G^T e^{F^T u} du,

with the other channels of variance Sigma_0 at t = 0, independent of the data. Late on it is S - Phi (S - Sigma_0) Phi^T, with S the stationary
covariance. Early, where that would cancel, the integral is a Gauss-Legendre sum of positive terms, and the smallest entries keep their digits.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..numerics.coefficients import congruent
from ..numerics.inputs import as_count, as_number
from ..numerics.quadrature import gauss_legendre
from .magnus import BackwardByMagnus

# The clock up to which Sigma is the sum, and its nodes: matrices of norm 10 and less are then integrated to rounding.
EARLY, NODES = 0.5, 20


class MomentumSDE(BackwardByMagnus):
    """Constant matrices on the clock B(t) = beta t, alike for every coordinate of the event. A family gives `matrices`.

    Args:
        beta: the speed.
        gamma: the variances of the channels after the data at t = 0, as shares of their stationary ones.
        t_min: the smallest time at which a grid calls the network.
    """

    def __init__(self, beta: float, gamma: float, t_min: float) -> None:
        self.beta, self.gamma = as_number("beta", beta, above=0.0), as_number("gamma", gamma, above=0.0)
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
        b, (_, noise, stationary) = self.clock(t), (part.to(t.device) for part in self.matrices)
        last, first = torch.diag(stationary), torch.diag(self.gamma * stationary)
        first[0, 0] = 0
        phi = self._phi(b)
        late = last - congruent(phi, last - first)
        early = b < EARLY
        if not bool(early.any()):
            return late
        nodes, weights = (part.to(t.device) for part in gauss_legendre(NODES))
        small = torch.where(early, b, 0.0)
        inner = congruent(self._phi((small[:, None] * nodes).reshape(-1)), noise).reshape(len(t), NODES, *noise.shape)
        integral = (inner * (small[:, None] * weights)[..., None, None]).sum(1)
        return torch.where(early[:, None, None, None], congruent(phi, first) + integral[:, None], late)

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

    def __init__(self, beta: float = 4.0, mass: float = 0.25, gamma: float = 0.04, t_min: float = 1e-3) -> None:
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
        return f"CLD(beta={self.beta:g}, mass={self.mass:g}, gamma={self.gamma:g})"


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

    def __init__(self, order: int = 3, beta: float = 4.0, rate: float = 2.0, gamma: float = 0.04, t_min: float = 1e-2) -> None:
        super().__init__(beta, gamma, t_min)
        self.order, self.rate = as_count("order", order, 2), as_number("rate", rate, above=0.0)
        self.channels = self.order

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
        return f"HOLD(order={self.channels}, beta={self.beta:g}, rate={self.rate:g}, gamma={self.gamma:g})"


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
