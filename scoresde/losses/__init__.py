"""Score-matching losses and variational bounds: `(model, x) -> one value per sample`.

`denoising` trains score models. `explicit`, `implicit`, `sliced` and `finite_difference` are the other forms of score matching, `elbo` and
`elbo_continuous` bounds on the likelihood, and `hybrid` the loss for learned variances.
"""

from .decoder import DiscretisedDecoder
from .denoising import denoising, denoising_at
from .elbo import ELBO, ContinuousELBO, elbo, elbo_continuous, optimal_variance
from .hybrid import hybrid
from .score_matching import explicit, finite_difference, implicit, sliced
from .times import Adaptive, Corrected, LogNormal, Times, draw_times
from .weightings import Weighting, edm, min_snr, output_weight, p2

__all__ = [
    "ELBO",
    "Adaptive",
    "ContinuousELBO",
    "Corrected",
    "DiscretisedDecoder",
    "LogNormal",
    "Times",
    "Weighting",
    "denoising",
    "denoising_at",
    "draw_times",
    "edm",
    "elbo",
    "elbo_continuous",
    "explicit",
    "finite_difference",
    "hybrid",
    "implicit",
    "min_snr",
    "optimal_variance",
    "output_weight",
    "p2",
    "sliced",
]
