"""Gaussian paths: the process that corrupts data into noise, and what a network on such a path may predict."""

from .base import SDE, as_time
from .custom import CoefficientsSDE, ScalesSDE
from .families import EDM, VESDE, RectifiedFlow, SubVPSDE
from .prediction import PREDICTIONS, Direction, Preconditioned, Prediction, alpha_rate, conversion, direction, sigma_rate
from .vp import VPSDE, VPChain, zero_terminal_snr

__all__ = [
    "EDM",
    "PREDICTIONS",
    "SDE",
    "VESDE",
    "VPSDE",
    "CoefficientsSDE",
    "Direction",
    "Preconditioned",
    "Prediction",
    "RectifiedFlow",
    "ScalesSDE",
    "SubVPSDE",
    "VPChain",
    "alpha_rate",
    "as_time",
    "conversion",
    "direction",
    "sigma_rate",
    "zero_terminal_snr",
]
