"""Gaussian paths: the process that corrupts data into noise, and its reverse."""

from .base import SDE, ReverseSDE, Time, as_float64, as_time, expand, to_device
from .vp import VPSDE, VPChain

__all__ = ["SDE", "VPSDE", "ReverseSDE", "Time", "VPChain", "as_float64", "as_time", "expand", "to_device"]
