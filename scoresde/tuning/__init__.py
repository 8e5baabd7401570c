"""Solvers made for one model: selected in a pilot run, fitted by regression, or calibrated to a tolerance."""

from .calibration import calibrate
from .cascade import Cascade, CascadeSolver, Level
from .fitting import FittedSolver, fit
from .ranking import Ranked
from .reference import ReferenceSolution, solve_reference
from .selection import Selected, select
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
