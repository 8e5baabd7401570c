"""The probability flow of a linear SDE, block by block, in log t.

In the basis, with P and the rates of `sde.linear` at eta = 0,

    dz/dlog t = t [ P z + (F - P) A D ].

A state at t_end says of the data what the best linear estimate says, x^ ~ N(x, r^2) with r^-2 = A^T Sigma^{-1} A. What is left of the state is
independent of x. A point x therefore becomes z = A x, for which x^ = x, and

    log p(x) = log q(A x) + sum over blocks of (m - 1)/2 log 2 pi + log det(Sigma)/2 - log r,

the density of the data smoothed by r, without a bound and without draws of the other channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.base import Model
from ..models.in_basis import in_basis
from ..numerics.arrays import flatten_events
from ..numerics.batching import index_cond
from ..numerics.coefficients import apply, log_det
from ..sde.linear import LinearSDE, at_state
from .ode import FlowODE


class LinearODE(FlowODE):
    """dz/dlog t in the basis."""

    def __init__(
        self, model: Model, part: slice, batch: int, event_shape: torch.Size, t_end: float | None, cond: dict[str, object]
    ) -> None:
        super().__init__(model, part, batch, event_shape, t_end, cond)
        assert isinstance(model.sde, LinearSDE)
        self.sde, self.inside = model.sde, in_basis(model)
        self.start, self.end = math.log(self.t_end), 0.0
        self.state_shape = self.sde.state_shape((1, *event_shape))[1:]
        at = torch.tensor([self.t_end], dtype=torch.float64, device="cpu")
        self.signal, covariance, spread = self.sde.signal(at), self.sde.covariance(at), self.sde.spread(at)
        m = self.sde.channels
        # The best linear estimate r^2 A^T Sigma^{-1} z.
        if m == 1:
            self.estimate, volume = 1 / self.signal, log_det(self.signal)
        else:
            self.estimate = spread[..., None, None] ** 2 * torch.linalg.solve(covariance, self.signal).mT
            volume = 0.5 * (m - 1) * math.log(2 * math.pi) + 0.5 * log_det(covariance) - spread.log()
        self.log_volume = self.sde.summed(volume, torch.empty(0, *self.state_shape))

    def time(self, clock: Tensor) -> Tensor:
        return torch.where(clock == self.start, self.t_end, torch.where(clock == self.end, 1.0, clock.exp()))

    def slope(self, clock: Tensor, v: Tensor, active: Tensor | None) -> Tensor:
        t = self.time(clock)
        z = v.reshape(len(v), *self.state_shape)
        data = self.inside.data(z, t, **index_cond(self.cond, self.in_batch(active), self.batch))
        on_state, on_data = self.sde.flow_rates(t)
        scale = t.reshape(-1, *(1,) * (on_state.ndim - 1))
        return flatten_events(apply(at_state(scale * on_state, v), z) + apply(at_state(scale * on_data, v), data))

    def from_data(self, x: Tensor) -> Tensor:
        return flatten_events(apply(at_state(self.signal, x), self.sde.basis.to(x)))

    def to_data(self, v: Tensor) -> Tensor:
        return self.sde.basis.back(apply(at_state(self.estimate, v), v.reshape(len(v), *self.state_shape)))

    def from_noise(self, z: Tensor) -> Tensor:
        return flatten_events(self.sde.basis.to(self.sde.as_state("z", z)))

    def to_noise(self, v: Tensor) -> Tensor:
        return self.sde.basis.back(v.reshape(len(v), *self.state_shape))
