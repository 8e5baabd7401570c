"""Every solver by its short name."""

from __future__ import annotations

import difflib
import re

from ..loops import AdaptiveODE, GottaGoFast, LoopSolver, PredictorCorrector, TorchSDE
from ..solvers import (
    DDIM,
    DEIS,
    ERSDE,
    GDDIM,
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
    LateFirstCall,
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
    # of every linear SDE
    "gddim1": GDDIM(order=1),
    "gddim2": GDDIM(order=2),
    "gddim3": GDDIM(order=3),
    "sde-gddim1": GDDIM(order=1, eta=1.0),
    "sde-gddim2": GDDIM(order=2, eta=1.0),
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


# The rule of `default.py`. It is no solver before the budget is known, and so not in the table.
DEFAULT = "default"

# What papers and other libraries call a solver, without hyphens, underscores and spaces. Names of these are suggested and not accepted:
# other libraries have other grids and options behind them.
ELSEWHERE = {
    "ddpm": "ancestral",
    "dpmsolver": "dpm2m",
    "dpmsolver++": "dpm++2m",
    "dpmsolvermultistep": "dpm++2m",
    "dpm++": "dpm++2m",
    "dpmpp": "dpm++2m",
    "dpmpp2m": "dpm++2m",
    "dpmpp3m": "dpm++3m",
    "dpmpp2msde": "sde-dpm++2m",
    "dpmpp3msde": "sde-dpm++3m",
    "dpmpp2s": "dpm++2s",
    "dpmpp2sancestral": "dpm++2s-ancestral",
    "unipc": "unipc2",
    "deis": "deis2",
    "ipndm": "ipndm3",
    "pndm": "plms",
}


def names() -> list[str]:
    """Every solver by its short name."""
    return list(SOLVERS)


def get(name: str) -> Solver | LoopSolver:
    """The solver of that name, in upper or lower case, or the fitted one of a file whose name ends in .safetensors.

    Raises:
        ValueError: there is none, or it is `default`, which depends on the budget.
        FileNotFoundError: there is no such file.
    """
    solver = resolve(name)
    if solver is None:
        raise ValueError(f"{DEFAULT!r} depends on the budget: give the name to sample or plan, with steps= or nfe=")
    return solver


def resolve(name: str) -> Solver | LoopSolver | None:
    """As `get`, with None for `default`.

    Raises:
        ValueError, FileNotFoundError: there is none.
    """
    if name.endswith(".safetensors"):
        return load_solver(name)
    return SOLVERS.get(spelled(name))


def spelled(name: str) -> str:
    """The short name of a solver, or `default`, as `names` spells it: in lower case.

    Raises:
        ValueError: no solver has it; suggests one.
    """
    lower = name.lower()
    if lower == "auto":
        raise ValueError("'auto' needs the model: ss.sample(model, shape, 'auto', nfe=10), or solvers.select")
    if lower == DEFAULT or lower in SOLVERS:
        return lower
    elsewhere = ELSEWHERE.get(re.sub("[-_ ]", "", lower))
    close = [elsewhere] if elsewhere else difflib.get_close_matches(lower, [*SOLVERS, DEFAULT], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join([*SOLVERS, DEFAULT])}"
    raise ValueError(f"no solver is called {name!r}{hint}")


def name_of(solver: object) -> str:
    """The short name of a solver; its own text where it has none."""
    if isinstance(solver, LateFirstCall):
        return f"late {name_of(solver.solver)}"
    return next((name for name, listed in SOLVERS.items() if listed == solver), str(solver))
