"""Solvers that are no table, because what they do next depends on the state."""

from ..numerics.dormand_prince import StepLimitError
from .adaptive_ode import AdaptiveODE
from .adaptive_sde import GottaGoFast
from .base import AdaptiveLoop, GridLoop, LoopSolver
from .learned_ancestral import LearnedAncestral
from .predictor_corrector import PredictorCorrector
from .torchsde_adapter import TorchSDE

__all__ = [
    "AdaptiveLoop",
    "AdaptiveODE",
    "GottaGoFast",
    "GridLoop",
    "LearnedAncestral",
    "LoopSolver",
    "PredictorCorrector",
    "StepLimitError",
    "TorchSDE",
]
