"""Gaussian paths: the process that corrupts data into noise, and its reverse."""

from .base import SDE, ReverseSDE, Time, as_float64, as_time, expand, to_device
from .custom import CoefficientsSDE, ScalesSDE
from .families import EDM, VESDE, RectifiedFlow, SubVPSDE, schedule_values
from .vp import VPSDE, VPChain, zero_terminal_snr

__all__ = [
    "EDM",
    "SDE",
    "VESDE",
    "VPSDE",
    "CoefficientsSDE",
    "RectifiedFlow",
    "ReverseSDE",
    "ScalesSDE",
    "SubVPSDE",
    "Time",
    "VPChain",
    "as_float64",
    "as_time",
    "expand",
    "schedule_values",
    "to_device",
    "zero_terminal_snr",
]
