"""Every solver by its short name."""

from __future__ import annotations

import difflib

from ..loops import AdaptiveODE, GottaGoFast, LoopSolver, PredictorCorrector, TorchSDE
from ..solvers import (
    DDIM,
    DEIS,
    ERSDE,
    IPNDM,
    PLMS,
    SEEDS,
    Ancestral,
    AnnealedLangevin,
    DPMSolver,
    DPMSolverPP,
    DPMSolverPP2S,
    EDMSampler,
    EulerMaruyama,
    ExponentialAdams,
    LangevinCorrected,
    ProbabilityFlow,
    Restart,
    ReverseDiffusion,
    SASolver,
    SDEDPMSolverPP,
    Solver,
    StepDown,
    UniPC,
    VelocityAdams,
)
from ..tuning import load_solver

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
