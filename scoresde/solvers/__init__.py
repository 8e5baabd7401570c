"""Solvers: each is a table of coefficients, and one loop runs every table; what depends on the state has a loop of its own."""

from __future__ import annotations

import difflib

from .adams import DEIS, IPNDM, PLMS
from .adaptive_ode import AdaptiveODE
from .adaptive_sde import GottaGoFast
from .ancestral import DDIM, Ancestral, NoisePower
from .base import Solver
from .bound import BoundSolver
from .calibration import Ladder, Rung, Tolerance, calibrate
from .er_sde import ERSDE
from .euler_maruyama import EulerMaruyama
from .executor import Callback, Run, run
from .exponential import DPMSolverPP, ExponentialAdams, SASolver, SDEDPMSolverPP, UniPC
from .fitting import FittedSolver, fit
from .free_first_step import FreeFirstStep
from .heun import EDMSampler, ProbabilityFlow, Restart
from .langevin import AnnealedLangevin, LangevinCorrected, PredictorCorrector
from .learned_ancestral import LearnedAncestral
from .loop import AdaptiveLoop, GridLoop, LoopSolver, Schedule, StepLimitError
from .multistep import Multistep, multistep
from .reverse_diffusion import ReverseDiffusion
from .selection import Ranked, Selected, select
from .single_step import SEEDS, DPMSolver, DPMSolverPP2S
from .step_down import StepDown
from .storage import load, load_solver
from .tableau import Point, Row, Rows, Tableau
from .teacher import Teacher, teach
from .torchsde_adapter import TorchSDE
from .velocity import VelocityAdams

SOLVERS: dict[str, Solver | LoopSolver] = {
    # of the chain
    "ancestral": Ancestral(),
    "ancestral-posterior": Ancestral(variance="posterior"),
    "ddim": DDIM(),
    # of the probability-flow ODE
    "euler": ProbabilityFlow(method="euler"),
    "heun": ProbabilityFlow(method="heun"),
    "dpm1": DPMSolver(order=1),
    "dpm2": DPMSolver(order=2),
    "dpm3": DPMSolver(order=3),
    "dpm2m": ExponentialAdams(predictor=2, form="noise"),
    "dpm3m": ExponentialAdams(predictor=3, form="noise"),
    "dpm++1": DPMSolverPP(order=1),
    "dpm++2s": DPMSolverPP2S(),
    "dpm++2m": DPMSolverPP(order=2),
    "dpm++3m": DPMSolverPP(order=3),
    "unipc2": UniPC(order=2),
    "unipc3": UniPC(order=3),
    "deis1": DEIS(order=1),
    "deis2": DEIS(order=2),
    "deis3": DEIS(order=3),
    "rho-deis1": DEIS(order=1, clock="r"),
    "rho-deis2": DEIS(order=2, clock="r"),
    "rho-deis3": DEIS(order=3, clock="r"),
    "ipndm1": IPNDM(order=1),
    "ipndm2": IPNDM(order=2),
    "ipndm3": IPNDM(order=3),
    "ipndm4": IPNDM(order=4),
    "plms": PLMS(),
    "vab2": VelocityAdams(order=2),
    "vab3": VelocityAdams(order=3),
    "vab4": VelocityAdams(order=4),
    "circle-vab2": VelocityAdams(order=2, path="circle"),
    "circle-vab3": VelocityAdams(order=3, path="circle"),
    "adaptive": AdaptiveODE(),
    # of the reverse SDE
    "euler-maruyama": EulerMaruyama(),
    "reverse-diffusion": ReverseDiffusion(),
    "sde-dpm++1": SDEDPMSolverPP(order=1),
    "sde-dpm++2m": SDEDPMSolverPP(order=2),
    "sde-dpm++3m": SDEDPMSolverPP(order=3),
    "sa-solver": SASolver(),
    "seeds1": SEEDS(order=1),
    "seeds2": SEEDS(order=2),
    "seeds3": SEEDS(order=3),
    "dpm2-ancestral": StepDown(DPMSolver(order=2)),
    "dpm++2s-ancestral": StepDown(DPMSolverPP2S()),
    "er-sde1": ERSDE(order=1),
    "er-sde2": ERSDE(order=2),
    "er-sde3": ERSDE(order=3),
    "gotta-go-fast": GottaGoFast(),
    "torchsde-euler": TorchSDE("euler"),
    "torchsde-srk": TorchSDE("srk"),
    # with corrections of the score's own
    "edm": EDMSampler(),
    "restart": Restart(),
    "pc": PredictorCorrector(),
    "langevin-corrected": LangevinCorrected(),
    "annealed-langevin": AnnealedLangevin(),
}


def names() -> list[str]:
    """Every solver by its short name."""
    return list(SOLVERS)


def get(name: str) -> Solver | LoopSolver:
    """The solver of that name, or the fitted one of a file whose name ends in .safetensors.

    Raises:
        ValueError: there is none.
        FileNotFoundError: there is no such file.
    """
    if name.endswith(".safetensors"):
        return load_solver(name)
    if name not in SOLVERS:
        close = difflib.get_close_matches(name, SOLVERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(SOLVERS)}"
        raise ValueError(f"no solver is called {name!r}{hint}")
    return SOLVERS[name]


__all__ = [
    "DDIM",
    "DEIS",
    "ERSDE",
    "IPNDM",
    "PLMS",
    "SEEDS",
    "SOLVERS",
    "AdaptiveLoop",
    "AdaptiveODE",
    "Ancestral",
    "AnnealedLangevin",
    "BoundSolver",
    "Callback",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "EDMSampler",
    "EulerMaruyama",
    "ExponentialAdams",
    "FittedSolver",
    "FreeFirstStep",
    "GottaGoFast",
    "GridLoop",
    "Ladder",
    "LangevinCorrected",
    "LearnedAncestral",
    "LoopSolver",
    "Multistep",
    "NoisePower",
    "Point",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Ranked",
    "Restart",
    "ReverseDiffusion",
    "Row",
    "Rows",
    "Run",
    "Rung",
    "SASolver",
    "SDEDPMSolverPP",
    "Schedule",
    "Selected",
    "Solver",
    "StepDown",
    "StepLimitError",
    "Tableau",
    "Teacher",
    "Tolerance",
    "TorchSDE",
    "UniPC",
    "VelocityAdams",
    "calibrate",
    "fit",
    "get",
    "load",
    "load_solver",
    "multistep",
    "names",
    "run",
    "select",
    "teach",
]
