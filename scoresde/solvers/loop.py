"""Solvers that are no table, because what they do next depends on the state. They run through the same call, `sample`.

Every decision is made for each sample alone: a sample never depends on its batch mates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..prediction import Model
from ..random import NoiseSource
from ..sde import SDE, Time, expand
from .executor import Callback, Run

DEFAULT_STEP_CAP = 10_000


class StepLimitError(RuntimeError):
    """An adaptive solver tried as many steps as it may and has not arrived."""


class LoopSolver(ABC):
    """A solver with a loop of its own."""

    @abstractmethod
    def run(
        self,
        model: Model,
        z: Tensor,
        noise: NoiseSource,
        times: Tensor,
        *,
        steps: int | None = None,
        callback: Callback | None = None,
        trajectory: bool = False,
        cond: dict[str, object] | None = None,
    ) -> Run:
        """Run from the state `z` of shape `(B, *event)`, which is not changed, along `times`, a float64 tensor on the CPU.

        Args:
            noise: where all noise comes from.
            times: the grid of a `GridLoop`; the first and the last time of an `AdaptiveLoop`.
            steps: the most steps that an `AdaptiveLoop` may try; not looked at by a `GridLoop`.
            callback: as in `sample`; its `t` is `(B,)` in an `AdaptiveLoop`, where every sample has its own time. For a sample that waits for
                others the data prediction is the last one made.
            trajectory: keep the states.
            cond: reaches the network untouched; see `rows` for what an `AdaptiveLoop` does once samples are finished.

        Raises:
            StepLimitError: an `AdaptiveLoop` needs more steps; names the time that it reached.
            FloatingPointError: a prediction is not finite and a step size depends on it.
        """


class GridLoop(LoopSolver):
    """A loop along a given grid.

    Attributes:
        default_grid: the name of the grid that suits the solver when the caller gives none.
    """

    default_grid: ClassVar[str] = "half_log_snr"

    @property
    def calls_per_step(self) -> int:
        """Network calls in a full step."""
        return 1

    @abstractmethod
    def calls(self, sde: SDE, times: Tensor) -> int:
        """Network calls per sample on this grid.

        Raises:
            ValueError: it is not known beforehand.
        """


class AdaptiveLoop(LoopSolver):
    """A loop that chooses its own times, down to `t_end`; with `t_end` = 0 to `sde.t_min` and from there to sigma = 0 by the data prediction.

    Its `Run` has for every attempted step a row in `path` and in `times`, which is `(N+1, B)`, and the network calls of each sample in `calls`.

    The number of calls depends on the samples, so it differs between the ranks of a distributed run. The loop starts no collective and
    unwraps no model: one that synchronises in its forward, as `DistributedDataParallel` does with buffers, would wait for calls that do not
    come. Give it the module inside.
    """

    t_end: float

    def __post_init__(self) -> None:
        if not 0 <= self.t_end < 1:
            raise ValueError(f"t_end must lie in [0, 1), got {self.t_end}")

    def last_call(self, sde: SDE, t_start: float) -> float:
        """The smallest time at which the network is called.

        Raises:
            ValueError: `t_start` lies below it.
        """
        stop = self.t_end if self.t_end > 0 else sde.t_min
        if t_start < stop:
            raise ValueError(f"{self} starts at t={t_start:g}, below the last time {stop:g} at which it calls the network")
        return stop


@dataclass(frozen=True)
class Schedule:
    """A `GridLoop` on a grid: what a tableau is to a table."""

    solver: GridLoop
    sde: SDE
    times: Tensor

    @property
    def nfe(self) -> int:
        """Network calls per sample."""
        return self.solver.calls(self.sde, self.times)


def rows(cond: dict[str, object], active: Tensor | None, batch: int) -> dict[str, object]:
    """The conditions of the samples `active` (indices on the CPU; None: all, then `cond` itself is passed on).

    A tensor whose first dimension is the batch has one row a sample and is indexed; everything else is passed as it is, also a
    structure with such tensors inside it.
    """
    if active is None:
        return cond
    return {
        name: value[active.to(value.device)] if isinstance(value, Tensor) and value.shape[:1] == (batch,) else value
        for name, value in cond.items()
    }


def data_from_drift(sde: SDE, z: Tensor, t: Time, drift: Tensor) -> Tensor:
    """The data prediction that a drift of the reverse SDE was made from: F = f z - g^2 score and D = (z + sigma^2 score)/alpha."""
    score = (sde.drift(z, t) - drift) / expand(sde.diffusion(t) ** 2, z)
    return (z + expand(sde.sigma(t) ** 2, z) * score) / expand(sde.alpha(t), z)


def require_finite(what: str, value: Tensor, t: Tensor) -> None:
    """Raise at the first of the samples, `(B, ...)`, that is infinite or NaN; `t` is `(B,)`.

    Raises:
        FloatingPointError: names its time.
    """
    broken = (~value.detach().flatten(1).isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise FloatingPointError(f"the {what} is not finite at t={float(t[int(broken[0])]):g}")


def require_steps(step: int, limit: int, t: Tensor, solver: str) -> None:
    """Raise if a `limit` of tried steps is used up with samples still at the times `t`.

    Raises:
        StepLimitError: names the largest time.
    """
    if step >= limit:
        raise StepLimitError(
            f"{solver} tried {limit} steps and reached t={float(t.max()):g}: allow more with steps=, loosen its tolerances, or use float64"
        )


def stack_or_none(path: list[Tensor] | None) -> Tensor | None:
    """The states of a trajectory as one tensor."""
    return None if path is None else torch.stack(path)
