"""Published posterior methods by their names: each is a `Posterior` with one choice of V and C.

method     V in K                    C          exact when                                           source
mmps       (sigma^2/alpha) dD/dz     dD/dz      Gaussian prior, linear A                             Rozet et al. 2024, arXiv 2405.13712
jfps       (S^-1 + 1/r^2)^-1         V          the same with the right S; no backward pass          Rozet et al. 2024, Gaussian prior
tmpd       diagonal of row sums      dD/dz      as mmps where A V A^T is diagonal                    Boys et al. 2023, arXiv 2310.06721
pigdm      r_t^2 I                   dD/dz      prior of covariance s I                              Song et al. 2023, ICLR
sda        A V A^T -> gamma r^2      dD/dz      never                                                Rozet and Louppe 2023, 2306.10574
diffpir    r^2/lambda I              V          a flat prior                                         Zhu et al. 2023, arXiv 2305.08995
ddnm       A^+ for all               -          a flat prior, no noise                               Wang et al. 2022, arXiv 2212.00490
dps        0                         dD/dz      sigma -> 0; not bounded where sigma_y is small       Chung et al. 2023, arXiv 2209.14687
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..models.base import Model
from .covariances import Flat, Isotropic, Prior, Ratio, RowSums, Tweedie, Zero
from .likelihoods import Gaussian, Likelihood
from .posterior import Posterior

Likelihoods = Likelihood | Sequence[Likelihood]


def mmps(model: Model, likelihood: Likelihoods, iterations: int | None = None, **options: Any) -> Posterior:
    """Moment matching: Tweedie's covariance, `iterations` backward passes for K and one more. The paper uses 1 to 5."""
    return Posterior(model, likelihood, Tweedie(), iterations=iterations, **options)


def jfps(model: Model, likelihood: Likelihoods, covariance: float | Tensor, **options: Any) -> Posterior:
    """The covariance of a Gaussian prior of this `covariance` (see `covariances.Prior`), with C = V: no backward pass."""
    return Posterior(model, likelihood, Prior(covariance), jacobian=False, **options)


def tmpd(model: Model, likelihood: Likelihoods) -> Posterior:
    """Tweedie moment projection: the row sums of A V A^T for its diagonal, two backward passes."""
    return Posterior(model, likelihood, RowSums())


def pigdm(model: Model, likelihood: Likelihoods, variance: float = 1.0, **options: Any) -> Posterior:
    """Pseudo-inverse guidance with r_t^2 = s sigma^2/(s alpha^2 + sigma^2), where s is the `variance` of the data, 1 in the paper."""
    return Posterior(model, likelihood, Isotropic(variance), **options)


def sda(model: Model, likelihood: Likelihoods, gamma: float = 0.01) -> Posterior:
    """Score-based data assimilation: Sigma_y + gamma r^2."""
    return Posterior(model, likelihood, Ratio(gamma))


def diffpir(model: Model, likelihood: Likelihoods, weight: float = 1.0, **options: Any) -> Posterior:
    """The proximal step of DiffPIR, whose lambda is `weight`; no backward pass."""
    return Posterior(model, likelihood, Flat(weight), jacobian=False, **options)


def ddnm(model: Model, likelihood: Gaussian) -> Posterior:
    """The null-space method: D + A^+ (y - A D), as if y had no noise; no backward pass."""
    return Posterior(model, likelihood.noiseless(), Flat(), jacobian=False)


def dps(model: Model, likelihood: Likelihoods) -> Posterior:
    """The likelihood of DPS, p(y | D). The published sampler, with another step size, is the loop `DPS`."""
    return Posterior(model, likelihood, Zero())
