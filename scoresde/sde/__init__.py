"""Gaussian paths: the process that corrupts data into noise, and what a network on such a path may predict."""

from .base import SDE, as_time
from .bases import DCT, Basis, Fourier, Identity, Orthogonal
from .bridge import Bridge
from .custom import CoefficientsSDE, ScalesSDE
from .diagonal import DiagonalSDE, ScaledSDE
from .families import EDM, VESDE, RectifiedFlow, SubVPSDE
from .linear import LinearSDE
from .momentum import CLD, HOLD
from .own_matrices import CoefficientsLinearSDE
from .own_times import TimesSDE
from .prediction import PREDICTIONS, Direction, Preconditioned, Prediction, alpha_rate, conversion, direction, sigma_rate
from .spectral import OUSDE, BlurringSDE, ColouredSDE
from .vp import VPSDE, VPChain, zero_terminal_snr

__all__ = [
    "CLD",
    "DCT",
    "EDM",
    "HOLD",
    "OUSDE",
    "PREDICTIONS",
    "SDE",
    "VESDE",
    "VPSDE",
    "Basis",
    "BlurringSDE",
    "Bridge",
    "CoefficientsLinearSDE",
    "CoefficientsSDE",
    "ColouredSDE",
    "DiagonalSDE",
    "Direction",
    "Fourier",
    "Identity",
    "LinearSDE",
    "Orthogonal",
    "Preconditioned",
    "Prediction",
    "RectifiedFlow",
    "ScaledSDE",
    "ScalesSDE",
    "SubVPSDE",
    "TimesSDE",
    "VPChain",
    "alpha_rate",
    "as_time",
    "conversion",
    "direction",
    "sigma_rate",
    "zero_terminal_snr",
]
