"""Inverse problems: the data given an observation of it. Posteriors that are models, and methods with loops of their own."""

from . import covariances, operators
from .covariances import Covariance
from .denoising import Denoising, denoising
from .likelihoods import Gaussian, Likelihood, Poisson, from_deepinv
from .loops import DAPS, DPS, Replacement, SplitGibbs
from .methods import ddnm, diffpir, dps, jfps, mmps, pigdm, sda, tmpd
from .operators import Operator
from .posterior import Posterior
from .twisted import TwistedSMC

__all__ = [
    "DAPS",
    "DPS",
    "Covariance",
    "Denoising",
    "Gaussian",
    "Likelihood",
    "Operator",
    "Poisson",
    "Posterior",
    "Replacement",
    "SplitGibbs",
    "TwistedSMC",
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
