"""Inverse problems: the data given an observation of it. Posteriors that are models, and methods with loops of their own."""

from . import covariances, operators
from .covariances import Covariance
from .denoising import Denoising, denoising
from .likelihoods import Gaussian, Likelihood, Poisson, from_deepinv
from .methods import ddnm, diffpir, dps, jfps, mmps, pigdm, sda, tmpd
from .operators import Operator
from .posterior import Posterior

__all__ = [
    "Covariance",
    "Denoising",
    "Gaussian",
    "Likelihood",
    "Operator",
    "Poisson",
    "Posterior",
    "covariances",
    "ddnm",
    "denoising",
    "diffpir",
    "dps",
    "from_deepinv",
    "jfps",
    "mmps",
    "operators",
    "pigdm",
    "sda",
    "tmpd",
]
