"""Solvers that are made for one process. They have a grid of their own and can be saved in a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.files import read_tensors, stored_tensor, write_tensors
from ..sde.base import SDE
from ..sde.fingerprint import PROBE_TIMES, require_same_process
from ..tableau.tableau import Tableau
from .base import Solver

# The key of a solver in a file's metadata.
FORMAT = "scoresde solver 1"

# The tensors of a file and its JSON, in which "kind" names the class.
State = tuple[dict[str, Tensor], dict[str, Any]]


class TunedSolver(Solver):
    """A deterministic solver of one process and one budget, with one network call a step. `sample` uses its grid by default.

    Attributes:
        grid: the N+1 times, float64.
        process: `schedule_fingerprint` of the process.
    """

    grid: Tensor
    process: Tensor

    @property
    def nfe(self) -> int:
        """Network calls per sample, one a step."""
        return len(self.grid) - 1

    @property
    def order(self) -> None:
        return None

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The table. `sde` and `grid` must be the process and the grid of this solver.

        Raises:
            ValueError: one of them is another.
        """
        require_same_process(self.process, sde, type(self).__name__)
        if not torch.equal(grid, self.grid):
            raise ValueError(f"{type(self).__name__} was made for its own grid of {len(self.grid) - 1} steps: give no other")
        return self.table(sde)

    @abstractmethod
    def table(self, sde: SDE) -> Tableau:
        """The table on the solver's own grid, for a process that has been checked."""

    def check(self, model: Model, event: Sequence[int] | None = None) -> None:
        """Warn if the solver was made for another model. A solver that does not depend on the model never warns.

        Args:
            event: the shape of a sample.

        Raises:
            ValueError: the solver was made for samples of another shape.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """The tensors and the JSON of the solver's file."""

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `tuning.load` gives the same solver, to the bit."""
        write_state(self.state_dict(), path)


def stored_process(tensors: Mapping[str, Tensor]) -> Tensor:
    """The fingerprint of the process, from the tensors of a file.

    Raises:
        ValueError: it is missing, or no fingerprint.
    """
    return stored_tensor(tensors, "process", 2, len(PROBE_TIMES))


def write_state(state: State, path: str | Path) -> None:
    """Write the state of a tuned solver."""
    write_tensors(path, *state, FORMAT)


def read_state(path: str | Path) -> State:
    """The inverse of `write_state`.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: the file holds no solver.
    """
    try:
        tensors, about = read_tensors(path, FORMAT)
    except ValueError as error:
        raise ValueError(f"{path} holds no fitted solver: {error}") from None
    if about is None:
        raise ValueError(f"{path} holds no fitted solver of this version of scoresde")
    return tensors, about
