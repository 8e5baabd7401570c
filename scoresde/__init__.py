"""scoresde: score-based generative models, with DDPM as an exactly discretised SDE and the solver as an argument."""

from . import analytic, grids, losses, networks, solvers
from .learned_variance import LearnedVariance
from .model import ScoreModel
from .prediction import Model, Preconditioned
from .sampling import sample
from .sde import EDM, SDE, VESDE, VPSDE, CoefficientsSDE, RectifiedFlow, ScalesSDE, SubVPSDE, zero_terminal_snr

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "SDE",
    "VESDE",
    "VPSDE",
    "CoefficientsSDE",
    "LearnedVariance",
    "Model",
    "Preconditioned",
    "RectifiedFlow",
    "ScalesSDE",
    "ScoreModel",
    "SubVPSDE",
    "analytic",
    "grids",
    "losses",
    "networks",
    "sample",
    "solvers",
    "zero_terminal_snr",
]
