"""Solvers and grids as JSON, for the configuration of a scheduler.

"unipc3"                                              a name
{"class": "SEEDS", "order": 2, "tau": 0.5}            a solver with its options, which may be solvers themselves
{"grid": "trailing", "power": 1.5}                    a rule for a grid with its options, which may be rules themselves
[1.0, 0.5, 0.0]                                       the times of a grid
"solver.safetensors"                                  a fitted solver, in that file beside the configuration
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from ... import grids, solvers
from ...sampling.registry import DEFAULT, SOLVERS
from ...sampling.request import GridLike
from ...solvers.base import Solver
from ...solvers.tuned import TunedSolver

SOLVER_FILE = "solver.safetensors"
RULES: dict[str, Any] = {**grids.GRIDS, "power": grids.power}


def solver_to_json(solver: Solver | None) -> Any:
    """A name, the name of the file, or a dictionary.

    Raises:
        TypeError: a solver that is defined elsewhere, or an option that JSON does not hold.
    """
    if solver is None:
        return DEFAULT
    if isinstance(solver, TunedSolver):
        return SOLVER_FILE
    return next((name for name, listed in SOLVERS.items() if listed == solver), None) or _class_to_json(solver)


def _class_to_json(solver: Solver) -> dict[str, Any]:
    kind = type(solver)
    if getattr(solvers, kind.__name__, None) is not kind or not is_dataclass(solver):
        raise TypeError(f"a scheduler's configuration holds solvers of scoresde.solvers, and {solver!r} is none of them")
    options = {field.name: getattr(solver, field.name) for field in fields(solver)}
    return {"class": kind.__name__} | {
        name: _class_to_json(value) if isinstance(value, Solver) else _plain(name, value) for name, value in options.items()
    }


def solver_from_json(stored: Mapping[str, Any]) -> Solver:
    """The solver of a dictionary.

    Raises:
        ValueError: no solver has this class; names it.
    """
    kind = getattr(solvers, str(stored.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, Solver)):
        raise ValueError(f"no solver of scoresde has the class {stored.get('class')!r}")
    return kind(**_options(stored, "class", solver_from_json))


def grid_to_json(grid: GridLike | None) -> Any:
    """None, a name, a list of times, or a dictionary.

    Raises:
        TypeError: a rule that is defined elsewhere.
    """
    if grid is None or isinstance(grid, str):
        return grid
    if not callable(grid):
        return grids.check(grid).tolist()
    return _rule_to_json(grid)


def _rule_to_json(grid: Any) -> dict[str, Any]:
    rule, options = (grid.func, grid.keywords) if isinstance(grid, partial) else (grid, {})
    names = [name for name, listed in RULES.items() if listed is rule]
    if not names or (isinstance(grid, partial) and grid.args):
        raise TypeError(
            f"a scheduler's configuration holds rules of scoresde.grids and their options, and {grid!r} is none of them"
        )
    return {"grid": names[0]} | {
        name: _rule_to_json(value) if callable(value) else _plain(name, value) for name, value in options.items()
    }


def grid_from_json(stored: Any) -> GridLike | None:
    """The inverse of `grid_to_json`.

    Raises:
        ValueError: no rule has this name; names it.
    """
    if stored is None or isinstance(stored, str):
        return stored
    if not isinstance(stored, Mapping):
        return grids.check(stored)
    if stored.get("grid") not in RULES:
        raise ValueError(f"no grid of scoresde is called {stored.get('grid')!r}")
    return partial(RULES[stored["grid"]], **_options(stored, "grid", grid_from_json))


def _plain(name: str, value: Any) -> Any:
    """A value that JSON holds.

    Raises:
        TypeError: names it.
    """
    if isinstance(value, tuple):
        return [_plain(name, entry) for entry in value]
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"a scheduler's configuration is JSON, which does not hold {name}={value!r}")
    return value


def _options(stored: Mapping[str, Any], key: str, nested: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """The entries but `key`, with dictionaries and lists turned back."""

    def back(value: Any) -> Any:
        return nested(value) if isinstance(value, Mapping) else tuple(value) if isinstance(value, list) else value

    return {name: back(value) for name, value in stored.items() if name != key}
