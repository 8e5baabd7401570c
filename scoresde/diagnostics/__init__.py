"""Diagnostics of score models and of their losses.

`score_error` and `loss_by_time` are functions of t (`by_time`). `fokker_planck_residual` and `divergence_free_part` check necessary conditions
of a score, without the exact score (`field`). `sample_range` compares samples with data (`range`). `estimator_variance` compares losses at
equal compute (`estimators`).
"""

from .by_time import Curve, LossByTime, loss_by_time, score_error
from .estimators import Estimator, EstimatorVariance, estimator_variance, forms, time_samplers
from .field import DivergenceFreePart, FokkerPlanck, divergence_free_part, fokker_planck_residual
from .range import SampleRange, sample_range

__all__ = [
    "Curve",
    "DivergenceFreePart",
    "Estimator",
    "EstimatorVariance",
    "FokkerPlanck",
    "LossByTime",
    "SampleRange",
    "divergence_free_part",
    "estimator_variance",
    "fokker_planck_residual",
    "forms",
    "loss_by_time",
    "sample_range",
    "score_error",
    "time_samplers",
]
