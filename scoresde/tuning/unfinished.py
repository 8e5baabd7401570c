"""The file of a fit that is not finished: its best coefficients so far and the stage that comes next. Written after every stage."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..models.training_mode import stacklevel_of_user
from ..numerics.files import read_tensors, reading, stored_entry, stored_tensor, write_tensors
from ..tableau.linear_multistep import LinearMultistep
from .ranking import Ranked
from .regression import Fit, Problem, evaluate
from .search import initial_form

KEY = "scoresde fit 1"


@dataclass(frozen=True)
class Unfinished:
    """A file for one fit.

    Attributes:
        path: of the file.
        of: what determines the fit, in JSON: its arguments, the process and the model.
    """

    path: Path
    of: Mapping[str, Any]

    def keep(self, done: int, initial: Ranked, fit: Fit) -> None:
        """Write the best fit after the first `done` stages."""
        form = fit.form
        tensors = {"times": form.times, "a": form.a, "b": form.b, "weights": fit.weights}
        about = {
            "of": self.of,
            "done": done,
            "initial": initial.name,
            "ridge": fit.ridge,
            "t_start": form.t_start,
            "gain": form.gain,
        }
        write_tensors(self.path, tensors, about, KEY)

    def found(self, problem: Problem, ranking: list[Ranked]) -> tuple[int, Ranked, Fit] | None:
        """What `keep` wrote; None where there is no file. A file of another fit is left aside, with a warning.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.path.exists():
            return None
        tensors, about = read_tensors(self.path, KEY)
        with reading(self.path, said="holds no fit that can go on"):
            about = about or {}
            of = stored_entry(about, "of", dict)
            named = {entry.name: entry for entry in ranking}
            initial = named.get(stored_entry(about, "initial", str))
            differing = [name for name, value in json.loads(json.dumps(self.of)).items() if of.get(name) != value]
            if differing or initial is None:
                what = ", ".join(differing) or "its first solver"
                warnings.warn(
                    f"{self.path} is of another fit ({what}): starting anew", UserWarning, stacklevel=stacklevel_of_user()
                )
                return None
            times = stored_tensor(tensors, "times", -1)
            a, b = stored_tensor(tensors, "a", len(times) - 1), stored_tensor(tensors, "b", len(times) - 1, len(times) - 1)
            t_start, gain = about.get("t_start"), stored_entry(about, "gain", float)
            start = times if t_start is None else times.new_tensor([t_start, *times.tolist()])
            form = replace(initial_form(problem, initial.solver, start), times=times, a=a, b=b, t_start=t_start, gain=gain)
            weights = stored_tensor(tensors, "weights", problem.fitting)
            return stored_entry(about, "done", int), initial, evaluate(problem, form, weights, stored_entry(about, "ridge", float))

    @staticmethod
    def can_keep(stage: str, fit: Fit) -> bool:
        """Whether a file holds all of the fit. On a linear SDE refinement moves the times away from those of the coefficients of the solver."""
        return not (stage.startswith("refinement") and isinstance(fit.form, LinearMultistep))
