"""Solvers made for one model: selected in a pilot run, fitted by regression, or calibrated to a tolerance."""

from .calibration import Cascade, CascadeSolver, Level, calibrate
from .fitting import FittedSolver, fit
from .reference import ReferenceSolution, solve_reference
from .selection import Ranked, Selected, select
from .storage import load, load_solver

__all__ = [
    "Cascade",
    "CascadeSolver",
    "FittedSolver",
    "Level",
    "Ranked",
    "ReferenceSolution",
    "Selected",
    "calibrate",
    "fit",
    "load",
    "load_solver",
    "select",
    "solve_reference",
]
