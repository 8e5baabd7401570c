"""The best linear guess of the noise, from the mean and the covariance of data: what a network has to beat.

With z = alpha x + sigma eps, x of mean m and covariance C,

    E*[eps | z] = sigma (alpha^2 C + sigma^2)^-1 (z - alpha m)

C is the sample covariance S, shrunk as Ledoit and Wolf 2004 (J. Multivariate Anal. 88, 365) do, so that it serves at n < d:

    C = (1 - rho) S + rho tr(S)/d,    rho = min(1, sum_k |x_k x_k^T - S|^2 / n^2 / |S - tr(S)/d|^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearGuess:
    """The linear guess for data of one mean and covariance, in float64.

    Attributes:
        mean: `(d,)`.
        basis: `(k, d)` orthonormal rows: the directions in which the covariance differs from `rest`.
        variances: `(k,)` those of these directions.
        rest: the variance of every other direction.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def of(cls, x: Tensor) -> LinearGuess:
        """The guess for the distribution of `x`, `(n, *event)`."""
        x = x.flatten(1).double()
        n, d = x.shape
        mean = x.mean(0)
        centred = x - mean
        _, singular, basis = torch.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / n
        average = float(variances.sum()) / d
        distance = float(variances.square().sum()) - d * average**2
        noise = (float(centred.square().sum(1).square().sum()) / n - float(variances.square().sum())) / n
        rho = min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0
        return cls(mean, basis, (1 - rho) * variances + rho * average, rho * average)

    def of_affine(self, scale: float, shift: float) -> LinearGuess:
        """The guess for scale x + shift."""
        return replace(self, mean=scale * self.mean + shift, variances=scale**2 * self.variances, rest=scale**2 * self.rest)

    def entries(self) -> tuple[float, float]:
        """The mean and the standard deviation of an entry, all entries taken together."""
        d = len(self.mean)
        within = (float(self.variances.sum()) + (d - len(self.variances)) * self.rest) / d
        return float(self.mean.mean()), math.sqrt(within + float(self.mean.var(correction=0)))

    def noise(self, z: Tensor, alpha: float, sigma: float) -> Tensor:
        """E*[eps | z], of the shape of `z` `(B, *event)`, float64."""
        y = z.flatten(1).double() - alpha * self.mean.to(z.device)
        basis, variances = self.basis.to(z.device), self.variances.to(z.device)
        along = y @ basis.T
        weights = sigma / (alpha**2 * variances + sigma**2)
        outside = sigma / (alpha**2 * self.rest + sigma**2)
        return (outside * (y - along @ basis) + (weights * along) @ basis).reshape(z.shape)

    def error(self, half_log_snr: float) -> float:
        """E|E*[eps | z] - eps|^2 / d at a level lambda = log(alpha/sigma), from 1 without noise to 0 without data."""
        signal = math.exp(2 * half_log_snr)
        of_basis = signal * self.variances.cpu()
        left = (of_basis / (of_basis + 1)).sum()
        others = len(self.mean) - len(self.variances)
        return float(left + others * self.rest * signal / (self.rest * signal + 1)) / len(self.mean)

    def level(self, error: float) -> float:
        """The level lambda in [-20, 20] at which `error` is that of the guess: the inverse of `error`."""
        from scipy.optimize import brentq  # half a second, in every import of scoresde

        low, high = -20.0, 20.0
        if self.error(low) >= error:
            return low
        return high if self.error(high) <= error else float(brentq(lambda level: self.error(level) - error, low, high, xtol=1e-12))
