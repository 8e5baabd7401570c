"""Read the files of selected solvers, fitted solvers and cascades.

The "kind" of a file is "selected", "fitted" or "ladder": the names are those of scoresde 0.1, whose files are read too.
"""

from __future__ import annotations

from pathlib import Path

from ..numerics.files import reading, stored_entry, stored_tensor, subset
from ..numerics.inputs import as_number, as_one_of
from ..solvers.tuned import State, read_state
from .cascade import Cascade, Level
from .fitting import FittedSolver
from .selection import Selected


def load(path: str | Path) -> FittedSolver | Selected | Cascade:
    """The solver or the cascade that `save` wrote.

    Raises:
        ValueError: the file holds none, or a damaged one; names the file and what is wrong.
        FileNotFoundError: there is no file.
    """
    state = read_state(path)
    with reading(path, said="holds no solver that can be used"):
        return _cascade(state) if state[1].get("kind") == "ladder" else _solver(state)


def load_solver(path: str | Path) -> FittedSolver | Selected:
    """`load` of a single solver.

    Raises:
        ValueError: the file holds none, or a cascade.
        FileNotFoundError: there is no file.
    """
    loaded = load(path)
    if isinstance(loaded, Cascade):
        raise ValueError(f"{path} holds a cascade, not a solver: give `tuning.load` of it to `sample`, with tol=")
    return loaded


def _solver(state: State) -> FittedSolver | Selected:
    kinds: dict[str, type[FittedSolver | Selected]] = {"fitted": FittedSolver, "selected": Selected}
    return kinds[as_one_of("kind", state[1].get("kind"), kinds)].from_state_dict(state)


def _cascade(state: State) -> Cascade:
    tensors, meta = state
    levels: list[Level] = []
    for k, rung in enumerate(stored_entry(meta, "rungs", list)):
        own = subset(f"{k}", tensors)
        solver = _solver((subset("solver", own), stored_entry(rung, "solver", dict)))
        if stored_entry(rung, "nfe", int) != solver.nfe:
            raise ValueError(f"level {k} has {rung['nfe']} calls, and its solver {solver.nfe}")
        # Of two data predictions the error has one feature, of more it has three.
        features = 3 if solver.nfe > 2 else 1
        mean, theta = stored_tensor(own, "mean", features + 1), stored_tensor(own, "theta", features)
        bounds = stored_tensor(own, "bounds", len(levels[0].bounds) if levels else -1)
        factor, error, median = (float(stored_entry(rung, name, float, int)) for name in ("factor", "error", "median"))
        levels.append(Level(solver, solver.nfe, mean, theta, factor, error, median, bounds))
    if not levels:
        raise ValueError("a cascade needs at least one level")
    confidence = as_number("confidence", stored_entry(meta, "confidence", float), 0, 1)
    return Cascade(
        tuple(levels), confidence, stored_entry(meta, "teacher_steps", int), stored_entry(meta, "discrepancy", float, int),
        stored_entry(meta, "model", str) if "model" in meta else "",
    )  # fmt: skip
