"""scoresde: score-based generative models, with DDPM as an exactly discretised SDE and the solver as an argument."""

from . import analytic, diagnostics, grids, losses, networks, solvers
from .learned_variance import LearnedVariance
from .likelihood import Dequantised, Likelihood, bits_per_dim, decode, dequantise, encode, log_likelihood, prior_mismatch
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
    "Dequantised",
    "LearnedVariance",
    "Likelihood",
    "Model",
    "Preconditioned",
    "RectifiedFlow",
    "ScalesSDE",
    "ScoreModel",
    "SubVPSDE",
    "analytic",
    "bits_per_dim",
    "decode",
    "dequantise",
    "diagnostics",
    "encode",
    "grids",
    "log_likelihood",
    "losses",
    "networks",
    "prior_mismatch",
    "sample",
    "solvers",
    "zero_terminal_snr",
]
