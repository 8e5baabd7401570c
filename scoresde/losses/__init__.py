"""Score-matching losses and variational bounds: `(model, x) -> one value per sample`.

`denoising` is what score models are trained with. `explicit`, `implicit`, `sliced` and `finite_difference` are the other forms of score
matching, `elbo` and `elbo_continuous` bounds on the likelihood, `hybrid` the loss for learned variances.
"""

from .denoising import denoising, denoising_at
from .elbo import (
    ELBO,
    ContinuousELBO,
    DiscretisedDecoder,
    elbo,
    elbo_continuous,
    gaussian_decoder,
    gaussian_kl,
    optimal_variance,
    posterior_terms,
    variance_rule,
)
from .hybrid import hybrid
from .score_matching import explicit, finite_difference, implicit, sliced
from .times import (
    TIME_SAMPLERS,
    Adaptive,
    Corrected,
    Density,
    LogNormal,
    Times,
    TimeSampler,
    UniformHalfLogSNR,
    discrete,
    draw_times,
    low_discrepancy,
    sample_times,
    stratified,
    uniform,
)
from .weightings import WEIGHTINGS, Weighting, WeightingLike, debiased, edm, min_snr, output_weight, p2

__all__ = [
    "ELBO",
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "Adaptive",
    "ContinuousELBO",
    "Corrected",
    "Density",
    "DiscretisedDecoder",
    "LogNormal",
    "TimeSampler",
    "Times",
    "UniformHalfLogSNR",
    "Weighting",
    "WeightingLike",
    "debiased",
    "denoising",
    "denoising_at",
    "discrete",
    "draw_times",
    "edm",
    "elbo",
    "elbo_continuous",
    "explicit",
    "finite_difference",
    "gaussian_decoder",
    "gaussian_kl",
    "hybrid",
    "implicit",
    "low_discrepancy",
    "min_snr",
    "optimal_variance",
    "output_weight",
    "p2",
    "posterior_terms",
    "sample_times",
    "sliced",
    "stratified",
    "uniform",
    "variance_rule",
]
