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
from ..numerics.batching import Index, batches, index_cond
from ..numerics.dormand_prince import StepControl, integrate
from ..numerics.inputs import as_count, as_state
from ..sde.base import end_time


class AngleODE:
    """dv/dtheta of a model between the times `t_end` and 1, for consecutive samples of a batch, as flat vectors.

    Args:
        part: the samples, a slice of the batch.
        batch, event_shape: `(B, *event)` of the whole batch.
        t_end: the smallest time; None for `model.sde.t_min`.
        cond: conditions of the whole batch.

    Attributes:
        theta_end, theta_1: the angles of `t_end` and of 1.
        cos_end, rho_1: v = cos_end x at `t_end`, and v = z/rho_1 at 1.

    Raises:
        ValueError: `t_end` outside (0, 1).
    """

    def __init__(
        self, model: Model, part: slice, batch: int, event_shape: torch.Size, t_end: float | None, cond: dict[str, object]
    ) -> None:
        self.model, self.part, self.batch, self.event_shape, self.cond = model, part, batch, event_shape, cond
        self.t_end = end_time(model.sde, t_end)
        self.theta_end, self.theta_1 = (float(torch.atan2(model.sde.sigma(t), model.sde.alpha(t))) for t in (self.t_end, 1.0))
        self.cos_end, self.rho_1 = math.cos(self.theta_end), float(self.rho(1.0))

    def rho(self, t: Time) -> Tensor:
        """sqrt(alpha^2 + sigma^2)."""
        return torch.hypot(self.model.sde.alpha(t), self.model.sde.sigma(t))

    def time(self, theta: Tensor) -> Tensor:
        """The time of an angle, t(lambda) with e^{-lambda} = tan(theta); exact at both ends."""
        inside = self.model.sde.time(-theta.tan().log())
        return torch.where(theta == self.theta_end, self.t_end, torch.where(theta == self.theta_1, 1.0, inside))

    def in_batch(self, active: Tensor | None) -> Index:
        """Where the samples `active` of this part are in the whole batch; None for all of the part."""
        return self.part if active is None else active + self.part.start

    def slope(self, theta: Tensor, v: Tensor, active: Tensor | None) -> Tensor:
        """dv/dtheta, `(b, d)`, of the samples `active` of this part at the angles `theta`, `(b,)`."""
        t = self.time(theta)
        z = (expand(self.rho(t), v) * v).reshape(len(v), *self.event_shape)
        data = self.model.data(z, t, **index_cond(self.cond, self.in_batch(active), self.batch)).reshape(v.shape)
        return (expand(theta.cos(), v) * v - data) * expand(1 / theta.sin(), v)

    def encode(self, x: Tensor, control: StepControl) -> Tensor:
        """z_1 from x, both `(b, *event)`."""
        return self.rho_1 * self._solve(self.cos_end * x, self.theta_end, self.theta_1, control)

    def decode(self, z: Tensor, control: StepControl) -> Tensor:
        """x from z_1, both `(b, *event)`."""
        return self._solve(z / self.rho_1, self.theta_1, self.theta_end, control) / self.cos_end

    def _solve(self, v: Tensor, start: float, end: float, control: StepControl) -> Tensor:
        """v at the angle `end`, `(b, *event)`, from v at `start`."""
        return integrate(self.slope, start, end, flatten_events(v), control, time=self.time).y.reshape(v.shape)


def flows(
    model: Model, x: Tensor, t_end: float | None, batch_size: int | None, cond: dict[str, object]
) -> Iterator[tuple[AngleODE, Tensor]]:
    """The ODE and the samples of each part of the batch `x`.

    Raises:
        TypeError: `model` is no model.
        ValueError: `batch_size` is below 1.
    """
    require_model(model, "data")
    for part in batches(len(x), None if batch_size is None else as_count("batch_size", batch_size)):
        yield AngleODE(model, part, len(x), x.shape[1:], t_end, cond), x[part]


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
        return torch.cat([flow.encode(part, control) for flow, part in flows(model, x, t_end, batch_size, cond)])


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
    warn_if_training(model)
    z, control = at_least_float32("z", z), StepControl.of(rtol, atol, steps)
    with torch.set_grad_enabled(grad):
        return torch.cat([flow.decode(part, control) for flow, part in flows(model, z, t_end, batch_size, cond)])


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
