"""What the probability flow of every process looks like to `encode`, `decode` and `log_likelihood`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.batching import Index
from ..numerics.dormand_prince import StepControl, integrate
from ..sde.base import end_time


class FlowODE(ABC):
    """The probability flow between the times `t_end` and 1, for consecutive samples of a batch, as flat vectors v in some clock.

    Args:
        part: the samples, a slice of the batch.
        batch, event_shape: `(B, *event)` of the whole batch.
        t_end: the smallest time; None for `model.sde.t_min`.
        cond: conditions of the whole batch.

    Attributes:
        start, end: the clock at `t_end` and at t = 1.
        log_volume: what the changes of variables between data, v and z_1 add to the log density of each sample, nats.

    Raises:
        ValueError: `t_end` outside (0, 1).
    """

    start: float
    end: float
    log_volume: float

    def __init__(
        self, model: Model, part: slice, batch: int, event_shape: torch.Size, t_end: float | None, cond: dict[str, object]
    ) -> None:
        self.model, self.part, self.batch, self.event_shape, self.cond = model, part, batch, event_shape, cond
        self.t_end = end_time(model.sde, t_end)

    def in_batch(self, active: Tensor | None) -> Index:
        """Where the samples `active` of this part are in the whole batch; None for all of the part."""
        return self.part if active is None else active + self.part.start

    @abstractmethod
    def time(self, clock: Tensor) -> Tensor:
        """The time at a value of the clock; exact at both ends."""

    @abstractmethod
    def slope(self, clock: Tensor, v: Tensor, active: Tensor | None) -> Tensor:
        """dv/dclock, `(b, d)`, of the samples `active` of this part at `clock`, `(b,)`."""

    @abstractmethod
    def from_data(self, x: Tensor) -> Tensor:
        """v at `t_end`, flat, for data `(b, *event)`."""

    @abstractmethod
    def to_data(self, v: Tensor) -> Tensor:
        """Data for v at `t_end`: the inverse of `from_data`."""

    @abstractmethod
    def from_noise(self, z: Tensor) -> Tensor:
        """v at t = 1, flat, for states `z`."""

    @abstractmethod
    def to_noise(self, v: Tensor) -> Tensor:
        """The states at t = 1 for v there."""

    def encode(self, x: Tensor, control: StepControl) -> Tensor:
        """z_1 from x `(b, *event)`."""
        return self.to_noise(integrate(self.slope, self.start, self.end, self.from_data(x), control, time=self.time).y)

    def decode(self, z: Tensor, control: StepControl) -> Tensor:
        """x from z_1."""
        return self.to_data(integrate(self.slope, self.end, self.start, self.from_noise(z), control, time=self.time).y)
