"""A solver made for one process: it brings the grid that it was made on, and can be kept in a file."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..prediction import Model
from ..sde import SDE
from .base import Solver
from .tableau import Tableau

# The path is compared at these times; sigma vanishes at 0.
PROBES = torch.arange(1, 33, dtype=torch.float64) / 32


def scales(sde: SDE) -> Tensor:
    """(alpha, sigma) at 32 times, `(2, 32)` float64: what a process is recognised by."""
    return torch.stack([sde.alpha(PROBES), sde.sigma(PROBES)]).cpu()


# The tensors of a file, and the rest of what it holds, which JSON can write; "kind" says of what.
Packed = tuple[dict[str, Tensor], dict[str, Any]]
FORMAT = "scoresde solver 1"


def write(packed: Packed, path: str | Path) -> None:
    """A safetensors file, whose metadata are JSON."""
    from safetensors.torch import save_file

    tensors, meta = packed
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, str(path), {FORMAT: json.dumps(meta)})


def read(path: str | Path) -> Packed:
    """What `write` wrote.

    Raises:
        ValueError: the file holds no solver.
        FileNotFoundError: there is no file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} holds no fitted solver: {error}") from None
    if meta is None:
        raise ValueError(f"{path} holds no fitted solver of this version of scoresde")
    return tensors, meta


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names below `prefix`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


class BoundSolver(Solver):
    """A solver of one process and one budget. `sample` takes its grid when it is given none.

    Attributes:
        grid: the N+1 times, float64.
        process: `scales` of the process that it was made for.
    """

    grid: Tensor
    process: Tensor

    @property
    def nfe(self) -> int:
        """Network calls per sample, one a step."""
        return len(self.grid) - 1

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The table, for the process and the grid that it was made for.

        Raises:
            ValueError: another process or another grid.
        """
        there = scales(sde)
        # Coefficients in float64 differ in the last digits between machines.
        differ = ((there - self.process).abs() > 1e-6 * (1 + self.process.abs())).any(0)
        if bool(differ.any()):
            k = int(differ.nonzero()[0])
            (a, s), (alpha, sigma) = self.process[:, k].tolist(), there[:, k].tolist()
            raise ValueError(
                f"{type(self).__name__} was made for a process with alpha={a:.6g} and sigma={s:.6g} at t={float(PROBES[k]):g}, but {sde!r} has "
                f"alpha={alpha:.6g} and sigma={sigma:.6g} there: make one for it"
            )
        if not torch.equal(grid, self.grid):
            raise ValueError(f"{type(self).__name__} was made for its own grid of {len(self.grid) - 1} steps: give no other")
        return self.table(sde)

    @abstractmethod
    def table(self, sde: SDE) -> Tableau:
        """The table on its own grid."""

    def check(self, model: Model) -> None:
        """Warn if the solver was made for another model; here nothing is known of the model."""

    @abstractmethod
    def packed(self) -> Packed:
        """What `save` writes."""

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `solvers.load` gives the same solver, to the bit."""
        write(self.packed(), path)
