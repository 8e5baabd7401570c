"""The solvers that a command is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from ... import grids
from ...sampling import Plan, registry
from ...sampling.aliases import ALIASES
from ...tuning import load_solver

# Names whose budget is a number of calls, of which their steps may be one more.
BY_CALLS = (registry.DEFAULT, registry.AUTO)


class Entry(NamedTuple):
    """A solver, by name or by file, its number of steps, and its grid (None: the solver's own)."""

    solver: str
    steps: int
    grid: str | None = None

    def __str__(self) -> str:
        return f"{self.solver} {self.steps}" + (f" {self.grid}" if self.grid else "")

    @property
    def label(self) -> str:
        """The solver and its grid, for any number of steps."""
        return self.solver + (f" ({self.grid})" if self.grid else "")


def parse_entry(text: str) -> Entry:
    """The entry of a text `NAME:STEPS`, `NAME:STEPS:GRID` or of the file of a fitted solver, as on the command line.

    Raises:
        ValueError: the text has another form, or no solver or grid has the name.
        FileNotFoundError: there is no such file.
    """
    if text.endswith(".safetensors"):
        return Entry(text, load_solver(text).nfe)
    name, *rest = text.split(":")
    if not 1 <= len(rest) <= 2 or not rest[0].isdigit() or int(rest[0]) < 1:
        raise ValueError(
            f"{text!r} is not NAME:STEPS or NAME:STEPS:GRID (dpm++2m:10, ddim:20:quadratic), nor the .safetensors file of a solver"
        )
    name = registry.spelled(name)
    if len(rest) == 2:
        grids.get(rest[1])
    return Entry(name, int(rest[0]), rest[1] if len(rest) == 2 else None)


def name_here(solver: Any) -> str:
    """The short name of a solver. One that has none is that of the same solver with its exact weights and what differs, or its text."""
    name, compat = registry.name_of(solver), getattr(solver, "compat", None)
    if name not in ALIASES:
        return name
    return str(solver) if compat is None else f"{registry.name_of(replace(solver, compat=None))} with compat={compat!r}"


def used(name: str, planned: Plan) -> str:
    """The name of a solver and its grid in a plan; for `default` and the names of other libraries the solver too that it is here."""
    ours = name.lower() in registry.SOLVERS or name.endswith(".safetensors")
    parts = [] if ours else [name_here(planned.solver)]
    parts += [f"grid {planned.grid_name}"] if planned.grid_name else []
    return name + (f" ({', '.join(parts)})" if parts else "")
