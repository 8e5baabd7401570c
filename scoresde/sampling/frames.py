"""The states that solvers work on, where these are not the model's own.

    LinearSDE    coordinates in the basis of the process
    Bridge       u = z - b(t) y, the state less the share of its known end

`sample` enters such a frame with the first state and leaves it with every state that a caller sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models.base import Model
from ..models.bridge_model import known_end
from ..models.in_basis import in_basis
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE
from ..tableau.executor import Callback, Run


@dataclass(frozen=True)
class Frame:
    """The model's own states.

    Attributes:
        model: the model that a solver calls.
    """

    model: Model

    def enter(self, z: Tensor, t: float) -> Tensor:
        """The solver's state for the state `z` of a caller."""
        return z

    def leave(self, z: Tensor, t: float) -> Tensor:
        """The caller's state for the solver's."""
        return z

    def leave_data(self, x: Tensor) -> Tensor:
        """The caller's data for the solver's."""
        return x

    def leave_run(self, run: Run) -> Run:
        """A run in the caller's states."""
        return run

    def outside(self, callback: Callback | None) -> Callback | None:
        """A callback that sees the caller's states."""
        return callback


@dataclass(frozen=True)
class Changed(Frame):
    """What every other frame does with runs and callbacks."""

    def leave_run(self, run: Run) -> Run:
        times = run.times.tolist()
        path = run.path
        if path is not None:
            path = torch.stack([self.leave(z, t) for z, t in zip(path, times, strict=True)])
        return replace(run, x=self.leave(run.x, times[-1]), path=path)

    def outside(self, callback: Callback | None) -> Callback | None:
        if callback is None:
            return None

        def seen(n: int, t: Any, z: Tensor, data: Tensor) -> object:
            return callback(n, t, self.leave(z, float(t)), self.leave_data(data))

        return seen


@dataclass(frozen=True)
class BasisFrame(Changed):
    """Coordinates in the basis of `sde`."""

    sde: LinearSDE

    def enter(self, z: Tensor, t: float) -> Tensor:
        return self.sde.basis.to(z)

    def leave(self, z: Tensor, t: float) -> Tensor:
        return self.sde.basis.back(z)

    def leave_data(self, x: Tensor) -> Tensor:
        return self.sde.basis.back(x)


@dataclass(frozen=True)
class BridgeFrame(Changed):
    """u = z - b(t) y."""

    sde: Bridge
    end: Tensor

    def enter(self, z: Tensor, t: float) -> Tensor:
        return self.sde.without_end(z, self.end.to(z.device), t)

    def leave(self, z: Tensor, t: float) -> Tensor:
        return self.sde.with_end(z, self.end.to(z.device), t)


def frame_of(model: Model, cond: dict[str, object]) -> Frame:
    """The frame in which solvers run `model`, or a wrapper around it, under these conditions."""
    if isinstance(model.sde, LinearSDE):
        return BasisFrame(in_basis(model), model.sde)
    if isinstance(model.sde, Bridge) and "given" in cond:
        return BridgeFrame(model, model.sde, known_end(cond))
    return Frame(model)
