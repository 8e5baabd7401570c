"""The interface of loops: solvers that are no table, because their next step depends on the state.

Every decision is made for each sample alone: a sample never depends on its batch mates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import deprecation
from ..models.base import Model
from ..numerics.arrays import Time, expand
from ..numerics.inputs import as_number
from ..numerics.random import NoiseSource
from ..sde.base import SDE
from ..tableau.executor import Callback, Run


@dataclass(frozen=True)
class Job:
    """What a loop is asked to do.

    Attributes:
        model: whose score is followed.
        z: the state to start from, `(B, *event)`; it is not changed.
        noise: where all noise comes from.
        times: the grid of a `GridLoop`, or the first and the last time of an `AdaptiveLoop`; float64 on the CPU.
        max_steps: the most steps that an `AdaptiveLoop` may try; not looked at by a `GridLoop`.
        callback: as in `sample`. Its `t` is `(B,)` in an `AdaptiveLoop`, where every sample has its own time. For a sample that waits for
            others the data prediction is the last one made.
        trajectory: keep the states.
        cond: reaches the network untouched. An `AdaptiveLoop` indexes it once samples are finished, see `index_cond`.
    """

    model: Model
    z: Tensor
    noise: NoiseSource
    times: Tensor
    max_steps: int | None = None
    callback: Callback | None = None
    trajectory: bool = False
    cond: dict[str, object] = field(default_factory=dict)

    @property
    def path(self) -> list[Tensor] | None:
        """A new list of states with the first one in it, where they are kept."""
        return [self.z] if self.trajectory else None


class LoopSolver(ABC):  # noqa: B024
    """A solver with a loop of its own. A subclass fills in `solve`.

    Attributes:
        stochastic: whether noise is drawn.
        order: of convergence, weak for a stochastic solver; None where no power of the step size describes the error.
    """

    stochastic: ClassVar[bool] = True
    order: int | None = None

    def solve(self, job: Job) -> Run:
        """Run the job.

        Raises:
            NotImplementedError: a subclass does not fill it in.
            StepLimitError: an `AdaptiveLoop` needs more steps; names the time that it reached.
            FloatingPointError: a prediction is not finite and a step size depends on it.
        """
        if type(self).run is LoopSolver.run:
            raise NotImplementedError(f"{type(self).__name__} must define solve(job)")
        # Until 0.2 a subclass filled in `run`.
        deprecation.warn(f"{type(self).__name__}.run", f"{type(self).__name__}.solve(job)")
        return self.run(
            job.model,
            job.z,
            job.noise,
            job.times,
            steps=job.max_steps,
            callback=job.callback,
            trajectory=job.trajectory,
            cond=job.cond,
        )

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
        """`solve` with the parts of a `Job` as arguments."""
        return self.solve(Job(model, z, noise, times, steps, callback, trajectory, cond or {}))


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
        as_number("t_end", self.t_end, 0.0, below=1.0)

    def last_call(self, sde: SDE, t_start: float) -> float:
        """The smallest time at which the network is called.

        Raises:
            ValueError: `t_start` lies below it.
        """
        stop = self.t_end if self.t_end > 0 else sde.t_min
        if t_start < stop:
            raise ValueError(f"{self} starts at t={t_start:g}, below the last time {stop:g} at which it calls the network")
        return stop


def data_from_drift(sde: SDE, z: Tensor, t: Time, drift: Tensor) -> Tensor:
    """The data prediction that a drift of the reverse SDE was made from: F = f z - g^2 score and D = (z + sigma^2 score)/alpha."""
    score = (sde.drift(z, t) - drift) / expand(sde.diffusion(t) ** 2, z)
    return (z + expand(sde.sigma(t) ** 2, z) * score) / expand(sde.alpha(t), z)


def most(calls: Tensor) -> int:
    """The largest number of calls, 0 for an empty batch."""
    return int(calls.max()) if len(calls) else 0


def stack_or_none(path: list[Tensor] | None) -> Tensor | None:
    """The states of a trajectory as one tensor."""
    return None if path is None else torch.stack(path)
