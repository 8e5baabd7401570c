"""Diagnostics of score models and of their losses.

`check` asks whether a network is what it is said to be. `score_error` and `loss_by_time` are functions of t (`by_time`).
`fokker_planck_residual` and `divergence_free_part` check necessary conditions of a score, without the exact score (`field`). `sample_range`
compares samples with data (`range`). `estimator_variance` compares losses at equal compute (`estimators`). `c2st` and `sliced_wasserstein`
compare two sets of samples (`two_samples`), and `sbc_ranks`, `coverage` and `tarp` look at posteriors over many observations (`posteriors`).
"""

from .by_time import Curve, LossByTime, loss_by_time, score_error
from .check import Check, check
from .estimators import Estimator, EstimatorVariance, estimator_variance, forms, time_samplers
from .field import DivergenceFreePart, FokkerPlanck, divergence_free_part, fokker_planck_residual
from .path_density import path_log_density
from .posteriors import Coverage, Ranks, coverage, sbc_ranks, tarp
from .range import SampleRange, sample_range
from .two_samples import Estimate, c2st, sliced_wasserstein

__all__ = [
    "Check",
    "Coverage",
    "Curve",
    "DivergenceFreePart",
    "Estimate",
    "Estimator",
    "EstimatorVariance",
    "FokkerPlanck",
    "LossByTime",
    "Ranks",
    "SampleRange",
    "c2st",
    "check",
    "coverage",
    "divergence_free_part",
    "estimator_variance",
    "fokker_planck_residual",
    "forms",
    "loss_by_time",
    "path_log_density",
    "sample_range",
    "sbc_ranks",
    "score_error",
    "sliced_wasserstein",
    "tarp",
    "time_samplers",
]
