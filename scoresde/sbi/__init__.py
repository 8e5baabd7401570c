"""Simulation-based inference: posteriors of several observations, joint networks under masks, and priors whose diffused score is known."""

from .composed import Composed, composed, posterior_precision
from .masked import Masked, masked
from .priors import BoxModel, uniform_prior

__all__ = ["BoxModel", "Composed", "Masked", "composed", "masked", "posterior_precision", "uniform_prior"]
