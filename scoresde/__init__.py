"""scoresde: score-based generative models, with DDPM as an exactly discretised SDE and the solver as an argument."""

from . import (
    deprecation,
    diagnostics,
    grids,
    guidance,
    inverse,
    loops,
    losses,
    models,
    networks,
    sampling,
    sbi,
    solvers,
    tableau,
    tuning,
)
from .likelihood import Dequantised, Likelihood, bits_per_dim, decode, dequantise, encode, log_likelihood, prior_mismatch
from .models import LearnedVariance, Model, ScoreModel, analytic
from .sampling import plan, sample, unroll
from .sde import EDM, SDE, VESDE, VPSDE, CoefficientsSDE, Preconditioned, RectifiedFlow, ScalesSDE, SubVPSDE, zero_terminal_snr
from .sharing.pretrained import from_pretrained, save_pretrained

__version__ = "0.1.0"

deprecation.install()
__getattr__ = deprecation.moved_names(__name__)

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
    "from_pretrained",
    "grids",
    "guidance",
    "inverse",
    "log_likelihood",
    "loops",
    "losses",
    "models",
    "networks",
    "plan",
    "prior_mismatch",
    "sample",
    "sampling",
    "save_pretrained",
    "sbi",
    "solvers",
    "tableau",
    "tuning",
    "unroll",
    "zero_terminal_snr",
]
