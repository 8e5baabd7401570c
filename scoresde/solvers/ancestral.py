"""Ancestral sampling and DDIM: sample z_t from a Gaussian q(z_t | z_s, x) with x replaced by the data prediction.

For a step from s down to t with h = lambda_t - lambda_s > 0, every variance v <= sigma_t^2 gives a Gaussian with the right marginal at t
(Song et al. 2021, arXiv 2010.02502, eq. 7):

    z_t = alpha_t D + sqrt(sigma_t^2 - v) (z_s - alpha_s D)/sigma_s + sqrt(v) xi.

v = sigma_t^2 (1 - e^{-2h}) is the posterior q(z_t | z_s, x) of the forward process.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..models.base import Model
from ..sde.base import SDE
from ..sde.transitions import VarianceName, variance_exponent
from ..tableau.builder import GridPoint
from ..tableau.tableau import Tableau
from .base import Solver, one_step


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM with v = eta^2 sigma_t^2 (1 - e^{-2h}) (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16).

    eta = 0 is deterministic, a first-order solver of the probability-flow ODE; eta = 1 is ancestral sampling with the posterior variance.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return one_step(sde, grid, self._step)

    def _step(self, s: GridPoint, t: GridPoint) -> tuple[float, float, float]:
        h = t.half_log_snr - s.half_log_snr
        v = self.eta**2 * -math.expm1(-2 * h)  # in units of sigma_t^2
        a = t.sigma / s.sigma * math.sqrt(1 - v)
        # alpha_t - a alpha_s, with alpha_s/sigma_s = e^{-h} alpha_t/sigma_t.
        b = t.alpha * (-math.expm1(-h) if v == 0 else 1 - math.sqrt(1 - v) * math.exp(-h))
        return a, b, t.sigma * math.sqrt(v)


@dataclass(frozen=True)
class NoisePower:
    """Gamma(t) = E|noise prediction|^2 / d at some times, interpolated linearly in lambda in between.

    On average Var(x | z_t) per coordinate is sigma^2/alpha^2 (1 - Gamma). It is at most that of the best linear guess from z_t, for data of
    variance s^2 in the mean of the coordinates: Gamma >= sigma^2/(alpha^2 s^2 + sigma^2).
    """

    half_log_snr: tuple[float, ...]
    values: tuple[float, ...]

    def __repr__(self) -> str:
        # The values by their hash: a solver's text says whether another one is the same.
        return f"NoisePower({len(self.values)} times, {hash((self.half_log_snr, self.values)) % 16**8:08x})"

    @classmethod
    def of(cls, model: Model, x: Tensor, times: Tensor, generator: Generator | None = None, **cond: object) -> NoisePower:
        """Estimate Gamma from data `x` `(B, *event)` at decreasing `times`, one draw of noise for each, and hold it to its bound.

        The factor sigma^2/alpha^2 is 1e4 and more at large noise, where an error of the estimate would be a variance of 100.
        """
        values = []
        variance = float(x.double().var(0, correction=0).mean())
        with torch.no_grad():
            for t in times.tolist():
                z, _ = model.sde.perturb(x, t, generator)
                alpha, sigma = float(model.sde.alpha(t)), float(model.sde.sigma(t))
                least = sigma**2 / (alpha**2 * variance + sigma**2)
                values.append(max(least, float(model.noise(z, t, **cond).double().square().mean())))
        return cls(tuple(model.sde.half_log_snr(times).tolist()), tuple(values))

    def __call__(self, half_log_snr: float) -> float:
        """Gamma at a lambda; constant beyond the ends."""
        at = self.half_log_snr
        i = min(max(bisect(at, half_log_snr), 1), len(at) - 1) if len(at) > 1 else 0
        if i == 0:
            return self.values[0]
        u = min(max((half_log_snr - at[i - 1]) / (at[i] - at[i - 1]), 0.0), 1.0)
        return (1 - u) * self.values[i - 1] + u * self.values[i]


@dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling of DDPM: the posterior mean m_t(D, z_s) plus noise (Ho et al. 2020, arXiv 2006.11239; Bishop, section 20.2.5).

    Args:
        variance: "beta", that of the forward transition, sigma_s^2 (1 - e^{-2h}) = beta_t on the full chain, right for unit-variance
            data; "posterior", sigma_t^2 (1 - e^{-2h}), right for a point mass; a number u between, beta^u posterior^{1-u} (Nichol and
            Dhariwal 2021, arXiv 2102.09672, eq. 15); or a `NoisePower`: the optimal variance of a Gaussian step (Bao et al. 2022, arXiv
            2201.06503, theorem 1), sigma_t^2 [ 1 - e^{-2h} + (e^h - e^{-h})^2 (1 - Gamma_s) ].
    """

    variance: VarianceName | NoisePower = "beta"
    default_grid = "uniform"

    def __post_init__(self) -> None:
        if not isinstance(self.variance, NoisePower):
            variance_exponent(self.variance, "a NoisePower")

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        return one_step(sde, grid, self._step)

    def _step(self, s: GridPoint, t: GridPoint) -> tuple[float, float, float]:
        h = t.half_log_snr - s.half_log_snr
        shrink = -math.expm1(-2 * h)
        return t.sigma / s.sigma * math.exp(-h), t.alpha * shrink, math.sqrt(shrink) * self._scale(s, t, h)

    def _scale(self, s: GridPoint, t: GridPoint, h: float) -> float:
        """The standard deviation in units of sqrt(1 - e^{-2h})."""
        if isinstance(self.variance, NoisePower):
            if s.alpha == 0:  # Gamma is 1 for data of any variance
                return t.sigma
            # (e^h - e^{-h})^2 / (1 - e^{-2h}) = e^{2h} - 1
            return t.sigma * math.sqrt(1 + math.expm1(2 * h) * max(0.0, 1 - self.variance(s.half_log_snr)))
        u = variance_exponent(self.variance, "a NoisePower")
        return s.sigma**u * t.sigma ** (1 - u)
