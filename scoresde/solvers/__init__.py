"""Solvers that are tables of coefficients. Each is a pure function of a path and a grid; `scoresde.tableau` holds the loop that runs them.

What stands on higher floors and is asked for here all the same is handed on: `names` and `get` (`scoresde.sampling`), `fit`, `select`,
`calibrate` and `load` (`scoresde.tuning`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .. import deprecation
from .adams import DEIS, IPNDM, PLMS
from .ancestral import DDIM, Ancestral, NoisePower
from .annealed_langevin import AnnealedLangevin
from .base import Solver
from .composed import FreeFirstStep, LangevinCorrected, LateFirstCall, StepDown
from .er_sde import ERSDE
from .euler_maruyama import EulerMaruyama
from .exponential import DPMSolverPP, ExponentialAdams, SASolver, SDEDPMSolverPP, UniPC
from .gddim import GDDIM
from .heun import EDMSampler, ProbabilityFlow, Restart
from .reverse_diffusion import ReverseDiffusion
from .single_step import SEEDS, DPMSolver, DPMSolverPP2S
from .velocity import VelocityAdams

if TYPE_CHECKING:
    from ..sampling.registry import get, names
    from ..tuning.calibration import calibrate
    from ..tuning.fitting import fit
    from ..tuning.selection import select
    from ..tuning.storage import load

__all__ = [
    "DDIM",
    "DEIS",
    "ERSDE",
    "GDDIM",
    "IPNDM",
    "PLMS",
    "SEEDS",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "EDMSampler",
    "EulerMaruyama",
    "ExponentialAdams",
    "FreeFirstStep",
    "LangevinCorrected",
    "LateFirstCall",
    "NoisePower",
    "ProbabilityFlow",
    "Restart",
    "ReverseDiffusion",
    "SASolver",
    "SDEDPMSolverPP",
    "Solver",
    "StepDown",
    "UniPC",
    "VelocityAdams",
    "calibrate",
    "fit",
    "get",
    "load",
    "names",
    "select",
]

_FROM_HIGHER_FLOORS = {
    "names": "scoresde.sampling.registry",
    "get": "scoresde.sampling.registry",
    "fit": "scoresde.tuning",
    "select": "scoresde.tuning",
    "calibrate": "scoresde.tuning",
    "load": "scoresde.tuning",
}


def __getattr__(name: str) -> Any:
    if name in _FROM_HIGHER_FLOORS:
        return getattr(importlib.import_module(_FROM_HIGHER_FLOORS[name]), name)
    return deprecation.attribute(__name__, name)
