"""Solvers: each is a table of coefficients, and one loop runs every table."""

from __future__ import annotations

import difflib

from .ancestral import DDIM, Ancestral
from .base import Solver
from .executor import Callback, Run, run
from .exponential import DPMSolverPP
from .sde_ode import EulerMaruyama, ProbabilityFlow
from .tableau import Point, Row, Rows, Tableau

SOLVERS: dict[str, Solver] = {
    "ancestral": Ancestral(),
    "ancestral-posterior": Ancestral(variance="posterior"),
    "ddim": DDIM(),
    "euler-maruyama": EulerMaruyama(),
    "euler": ProbabilityFlow(method="euler"),
    "heun": ProbabilityFlow(method="heun"),
    "dpm++1": DPMSolverPP(order=1),
    "dpm++2m": DPMSolverPP(order=2),
    "dpm++3m": DPMSolverPP(order=3),
}


def names() -> list[str]:
    """Every solver by its short name."""
    return list(SOLVERS)


def get(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SOLVERS:
        close = difflib.get_close_matches(name, SOLVERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(SOLVERS)}"
        raise ValueError(f"no solver is called {name!r}{hint}")
    return SOLVERS[name]


__all__ = [
    "DDIM",
    "SOLVERS",
    "Ancestral",
    "Callback",
    "DPMSolverPP",
    "EulerMaruyama",
    "Point",
    "ProbabilityFlow",
    "Row",
    "Rows",
    "Run",
    "Solver",
    "Tableau",
    "get",
    "names",
    "run",
]
