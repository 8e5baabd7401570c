"""The probability-flow ODE in an angle, with a step size for each sample, from data to noise and back.

Let rho = sqrt(alpha^2 + sigma^2) and theta = atan(sigma/alpha), from 0 at the data to pi/2 at pure noise. In these variables every Gaussian
path is the same circle, v = z/rho = cos(theta) x + sin(theta) eps. Its probability flow is

    dv/dtheta = cos(theta) E[eps | z_t] - sin(theta) D = ( cos(theta) v - D ) / sin(theta),      D = E[x | z_t = z],

the velocity of Salimans and Ho 2022, arXiv 2202.00512, appendix D. The velocity is bounded at both ends, so that steps can be long there; in
the variables t, lambda and alpha/sigma it is not. On a trained network and at equal error this ODE takes between two thirds and a sixth of the
network calls of scipy's RK45 in t (benchmarks/likelihood.py).

The path starts at a small time t_end, because sigma = 0 at the data: a point x becomes the state z = alpha(t_end) x. The encoded distribution
is therefore that of x + r eps with r = sigma(t_end)/alpha(t_end): the data smoothed by r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..models.base import Model, require_model
from ..models.training_mode import warn_if_training
from ..numerics.arrays import Time, expand, flatten_events, values_are_known
from ..numerics.batching import batches, index_cond
from ..numerics.dormand_prince import StepControl
from ..numerics.inputs import as_count, as_state
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE
from .linear_flow import LinearODE
from .ode import FlowODE


class AngleODE(FlowODE):
    """dv/dtheta; the clock is theta."""

    def __init__(
        self, model: Model, part: slice, batch: int, event_shape: torch.Size, t_end: float | None, cond: dict[str, object]
    ) -> None:
        super().__init__(model, part, batch, event_shape, t_end, cond)
        self.start, self.end = (float(torch.atan2(model.sde.sigma(t), model.sde.alpha(t))) for t in (self.t_end, 1.0))
        # v = cos_end x at t_end, and v = z/rho_1 at 1.
        self.cos_end, self.rho_1 = math.cos(self.start), float(self.rho(1.0))
        self.log_volume = event_shape.numel() * (math.log(self.rho_1) + math.log(self.cos_end))

    def rho(self, t: Time) -> Tensor:
        """sqrt(alpha^2 + sigma^2)."""
        return torch.hypot(self.model.sde.alpha(t), self.model.sde.sigma(t))

    def time(self, clock: Tensor) -> Tensor:
        """The time of an angle, t(lambda) with e^{-lambda} = tan(theta)."""
        inside = self.model.sde.time(-clock.tan().log())
        return torch.where(clock == self.start, self.t_end, torch.where(clock == self.end, 1.0, inside))

    def slope(self, clock: Tensor, v: Tensor, active: Tensor | None) -> Tensor:
        t = self.time(clock)
        z = (expand(self.rho(t), v) * v).reshape(len(v), *self.event_shape)
        data = self.model.data(z, t, **index_cond(self.cond, self.in_batch(active), self.batch)).reshape(v.shape)
        return (expand(clock.cos(), v) * v - data) * expand(1 / clock.sin(), v)

    def from_data(self, x: Tensor) -> Tensor:
        return self.cos_end * flatten_events(x)

    def to_data(self, v: Tensor) -> Tensor:
        return v.reshape(len(v), *self.event_shape) / self.cos_end

    def from_noise(self, z: Tensor) -> Tensor:
        return flatten_events(z) / self.rho_1

    def to_noise(self, v: Tensor) -> Tensor:
        return self.rho_1 * v.reshape(len(v), *self.event_shape)


def flows(
    model: Model, x: Tensor, event: torch.Size, t_end: float | None, batch_size: int | None, cond: dict[str, object]
) -> Iterator[tuple[FlowODE, Tensor]]:
    """The ODE and the samples of each part of the batch `x`.

    Args:
        event: the shape of the data.

    Raises:
        TypeError: `model` is no model.
        ValueError: `batch_size` is below 1, or the model is on a bridge, which ends in a point and not in noise.
    """
    require_model(model, "data")
    if isinstance(model.sde, Bridge):
        raise ValueError("a bridge ends at its known y and not in noise: its flow neither encodes nor has a density at t = 1")
    for part in batches(len(x), None if batch_size is None else as_count("batch_size", batch_size)):
        kind = LinearODE if isinstance(model.sde, LinearSDE) else AngleODE
        yield kind(model, part, len(x), event, t_end, cond), x[part]


def encode(
    model: Model,
    x: Tensor,
    /,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_end: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    grad: bool = False,
    **cond: object,
) -> Tensor:
    """Map data `x` to noise z_1 along the probability flow; both are `(B, *event)`.

    For data, z_1 is nearly a draw of the prior N(0, prior_std^2 I). `decode` inverts the map up to the tolerance, with the same or with another
    condition.

    Args:
        model: a `ScoreModel`, or anything with the same four calls.
        x: data of any event shape; not changed. Half precision is computed in float32.
        rtol, atol: tolerances of a step in v = z/sqrt(alpha^2 + sigma^2), for each sample alone, for data of about unit scale. The error of the
            whole path is larger, by 10 on a mixture and by 100 on a network that is rough in time.
        t_end: the time at which the path starts, from z = alpha(t_end) x; by default `model.sde.t_min`.
        steps: the maximum number of tried steps.
        batch_size: samples that are computed at once; all by default. The result is the same.
        grad: record the graph, so that gradients flow to `x`, the network and `cond`.
        **cond: passed to the network. A tensor with one row per sample is indexed with the samples of each call.

    Raises:
        ValueError: a tolerance that is not positive, `t_end` outside (0, 1), a prediction that is undefined at t = 1.
        TypeError: `x` holds integers.
        StepLimitError: more than `steps` are needed.
        FloatingPointError: a prediction is not finite; the message names the time.
    """
    warn_if_training(model)
    x, control = at_least_float32("x", x), StepControl.of(rtol, atol, steps)
    with torch.set_grad_enabled(grad):
        return torch.cat([flow.encode(part, control) for flow, part in flows(model, x, x.shape[1:], t_end, batch_size, cond)])


def decode(
    model: Model,
    z: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_end: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    grad: bool = False,
    **cond: object,
) -> Tensor:
    """Map noise `z` at t = 1 to data x; both are `(B, *event)`. The inverse of `encode`, with the same arguments.

    x is z/alpha at `t_end`. A last step to sigma = 0 could not be inverted. To draw samples, `sample` is cheaper.
    """
    require_model(model, "data")
    warn_if_training(model)
    z, control = at_least_float32("z", z), StepControl.of(rtol, atol, steps)
    with torch.set_grad_enabled(grad):
        event = torch.Size(model.sde.data_shape(z.shape)[1:]) if isinstance(model.sde, LinearSDE) else z.shape[1:]
        return torch.cat([flow.decode(part, control) for flow, part in flows(model, z, event, t_end, batch_size, cond)])


def at_least_float32(name: str, x: Tensor) -> Tensor:
    """Data or noise in float32, or in float64 if it is float64.

    Raises:
        TypeError: integers or complex numbers; names the argument.
        ValueError: a value that is not finite, where the values are known (`values_are_known`).
    """
    x = as_state(name, x)
    if values_are_known(x) and not bool(x.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite")
    return x.to(torch.promote_types(x.dtype, torch.float32))
