"""Every solver by its short name."""

from __future__ import annotations

import difflib
from contextlib import suppress

from .. import grids
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
from ..solvers.on_grid import OnGrid
from ..tuning import load_solver
from .aliases import ALIASES, DISTILLED, SIMILAR, folded

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


# Two names that are no solvers before the budget is known, and so not in the table: the rule of `default.py`, and the pilot of `auto.py`.
DEFAULT = "default"
AUTO = "auto"

# At most so many names are suggested.
SUGGESTIONS = 5

# Aliases that have no short name.
_ALIAS_OF = {name: meant for name, meant in ALIASES.items() if not isinstance(meant, str)}
# The short name or such an alias by every folded spelling. The alias wins: "dpm++2m" is ours as it is written, and "DPM++ 2M" is the alias.
_FOLDED = {folded(name): name for name in (*SOLVERS, DEFAULT, AUTO)} | {
    folded(name): meant if isinstance(meant, str) else name for name, meant in ALIASES.items()
}


def names() -> list[str]:
    """Every solver by its short name."""
    return list(SOLVERS)


def get(name: str) -> Solver | LoopSolver:
    """The solver of that name, or the fitted one of a file whose name ends in .safetensors.

    Names have no case. Those of other libraries are understood where their solver is the same (`sampling.aliases`), also with a grid at the end
    ("DPM++ 2M Karras").

    Raises:
        ValueError: there is none, or it is `default` or `auto`, which depend on the budget.
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
    short, grid = _meant(name)
    if short == AUTO:
        raise ValueError(f"{AUTO!r} needs the model: ss.sample(model, shape, 'auto', nfe=10), or solvers.select")
    solver = None if short == DEFAULT else _ALIAS_OF[short] if short in _ALIAS_OF else SOLVERS[short]
    if grid is None or solver is None:
        return solver
    if not isinstance(solver, Solver):
        raise ValueError(f"{name!r}: {short!r} is a loop, which takes its grid by grid={grid!r}")
    return OnGrid(solver, grid)


def spelled(name: str) -> str:
    """The name of a solver in its usual spelling: our short name where there is one, else an alias; with the name of its grid.

    Raises:
        ValueError: no solver has it; suggests some.
    """
    short, grid = _meant(name)
    return short if grid is None else f"{short} {grid}"


def is_auto(solver: object) -> bool:
    """Whether this is the name `auto`."""
    return isinstance(solver, str) and solver.lower() == AUTO


def name_of(solver: object) -> str:
    """The short name of a solver; its own text where it has none."""
    if isinstance(solver, LateFirstCall):
        return f"late {name_of(solver.solver)}"
    if isinstance(solver, OnGrid):
        return f"{name_of(solver.solver)} {solver.grid}"
    return next((name for name, listed in (SOLVERS | _ALIAS_OF).items() if listed == solver), str(solver))


def _meant(name: str) -> tuple[str, str | None]:
    """The short name or the alias that a text spells, and the grid at its end.

    Raises:
        ValueError: no solver has it; suggests some.
    """
    lower = name.lower().strip()
    if lower in SOLVERS:
        return lower, None
    for text in (folded(name), folded(name) + "scheduler"):
        if text in _FOLDED:
            return _FOLDED[text], None
    for grid in grids.SPELLINGS:
        before = lower.removesuffix(grid).rstrip("-_ ")
        if lower.endswith(grid) and before != lower.removesuffix(grid):
            with suppress(ValueError):
                return _meant(before)[0], grids.spelled(grid)
    if folded(name).removesuffix("scheduler") in DISTILLED:
        raise ValueError(f"{name!r} is for distilled networks, which are not here")
    raise ValueError(
        f"no solver is called {name!r}{_hint(name)} solvers.names() lists all, and the page of names in the documentation those of others"
    )


def _hint(name: str) -> str:
    """The nearest names, by what the name means elsewhere or else by its letters."""
    similar = {folded(other): ours for other, ours in SIMILAR.items()}
    spelling = {folded(each): each for each in (*SOLVERS, DEFAULT, AUTO, *ALIASES)}
    text = folded(name)
    close = list(similar.get(text) or similar.get(text.removesuffix("scheduler")) or similar.get(text + "scheduler") or ())
    for other in [] if close else difflib.get_close_matches(text, [*spelling, *similar], n=SUGGESTIONS):
        close += [each for each in similar.get(other) or (spelling[other],) if each not in close]
    return f"; did you mean {' or '.join(map(repr, close[:SUGGESTIONS]))}?" if close else ":"
