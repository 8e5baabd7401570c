"""Things that know the score of a diffused distribution: networks, exact mixtures, and wrappers around either."""

from .analytic import GaussianMixture, MixtureModel, ZeroModel
from .base import Model
from .bridge_model import BridgeModel
from .learned_variance import LearnedVariance
from .reverse import ReverseSDE
from .score_model import ScoreModel
from .thresholding import ThresholdedModel, thresholded
from .time_warped import TimeWarped
from .wrapper import Wrapper
from .wrappers import GraphedModel, compiled, graphed

__all__ = [
    "BridgeModel",
    "GaussianMixture",
    "GraphedModel",
    "LearnedVariance",
    "MixtureModel",
    "Model",
    "ReverseSDE",
    "ScoreModel",
    "ThresholdedModel",
    "TimeWarped",
    "Wrapper",
    "ZeroModel",
    "compiled",
    "graphed",
    "thresholded",
]
