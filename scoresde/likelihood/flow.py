"""The probability-flow ODE as a rotation, with a step size for each sample, from data to noise and back.

With rho = sqrt(alpha^2 + sigma^2) and the angle theta = atan(sigma/alpha), from 0 at the data to pi/2 at pure noise, every Gaussian path is the
same circle: v = z/rho = cos(theta) x + sin(theta) eps. Its probability flow is

    dv/dtheta = cos(theta) E[eps | z_t] - sin(theta) D = ( cos(theta) v - D ) / sin(theta),      D = E[x | z_t = z],

the velocity of Salimans and Ho 2022, arXiv 2202.00512, appendix D. It is bounded at both ends, so that steps may be long there, in contrast to
the clocks t, lambda and alpha/sigma. On a trained network and at equal error it takes between two thirds and a sixth of the network calls of
scipy's RK45 in the clock t (benchmarks/likelihood.py).

The path starts at a small time t_end, not at the data itself, where sigma = 0: a point x is taken for the state z = alpha(t_end) x. So what is
encoded is the law of x + r eps with r = sigma(t_end)/alpha(t_end), the data smoothed by r.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import Time, expand
from ..numerics.batching import index_cond
from ..numerics.dormand_prince import DEFAULT_STEP_CAP, integrate


@dataclass(frozen=True)
class Tolerance:
    """When a step is accepted, and how many may be tried.

    Raises:
        ValueError: a tolerance that is not positive.
    """

    rtol: float
    atol: float
    steps: int | None = None

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol and atol must be positive, got {self.rtol} and {self.atol}")


class ProbabilityFlow:
    """dv/dtheta of a model between the times `t_end` and 1, for some samples of a batch, as flat vectors.

    Args:
        index: which samples of the batch (on the CPU); None for all.
        batch, event_shape: `(B, *event)` of the whole batch.
        t_end: the smallest time; None for `model.sde.t_min`.
        cond: conditions of the whole batch.

    Attributes:
        theta_end, theta_1: the angles of `t_end` and of 1.
        cos_end, rho_1: v = cos_end x at the one and v = z/rho_1 at the other.

    Raises:
        ValueError: `t_end` outside (0, 1).
    """

    def __init__(
        self,
        model: Model,
        index: Tensor | None,
        batch: int,
        event_shape: torch.Size,
        t_end: float | None,
        cond: dict[str, object],
    ) -> None:
        self.model, self.index, self.batch, self.event_shape, self.cond = model, index, batch, event_shape, cond
        self.t_end = model.sde.t_min if t_end is None else float(t_end)
        if not 0 < self.t_end < 1:
            raise ValueError(f"t_end must lie in (0, 1), got {t_end}: at t = 0 the score has no meaning")
        self.theta_end, self.theta_1 = (float(torch.atan2(model.sde.sigma(t), model.sde.alpha(t))) for t in (self.t_end, 1.0))
        self.cos_end, self.rho_1 = math.cos(self.theta_end), float(self.rho(1.0))

    def rho(self, t: Time) -> Tensor:
        """sqrt(alpha^2 + sigma^2)."""
        return torch.hypot(self.model.sde.alpha(t), self.model.sde.sigma(t))

    def time(self, theta: Tensor) -> Tensor:
        """The time of an angle, exact at both ends: t(lambda) with e^{-lambda} = tan(theta)."""
        inside = self.model.sde.time(-theta.tan().log())
        return torch.where(theta == self.theta_end, self.t_end, torch.where(theta == self.theta_1, 1.0, inside))

    def in_batch(self, active: Tensor | None) -> Tensor | None:
        """Indices in the whole batch of the samples `active` of this part; None for all of the batch."""
        if self.index is None or active is None:
            return self.index if active is None else active
        return self.index[active]

    def slope(self, theta: Tensor, v: Tensor, active: Tensor | None) -> Tensor:
        """dv/dtheta, `(b, d)`, of the samples `active` at the angles `theta`, `(b,)`."""
        t = self.time(theta)
        z = (expand(self.rho(t), v) * v).reshape(-1, *self.event_shape)
        data = self.model.data(z, t, **index_cond(self.cond, self.in_batch(active), self.batch)).reshape(v.shape)
        return (expand(theta.cos(), v) * v - data) * expand(1 / theta.sin(), v)

    def run(self, v: Tensor, start: float, end: float, tolerance: Tolerance) -> Tensor:
        """v at the angle `end`, `(b, *event)`, from v at `start`."""
        out, _, _ = integrate(
            self.slope,
            start,
            end,
            v.reshape(len(v), -1),
            rtol=tolerance.rtol,
            atol=tolerance.atol,
            max_steps=tolerance.steps or DEFAULT_STEP_CAP,
            time=self.time,
        )
        return out.reshape(v.shape)


def flows(
    model: Model, x: Tensor, t_end: float | None, batch_size: int | None, cond: dict[str, object]
) -> Iterator[tuple[ProbabilityFlow, Tensor]]:
    """The flow and the samples of each part of the batch `x`.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n = len(x)
    parts: list[Tensor | None] = [None] if batch_size is None or batch_size >= n else [*torch.arange(n).split(batch_size)]
    for index in parts:
        yield ProbabilityFlow(model, index, n, x.shape[1:], t_end, cond), x if index is None else x[index.to(x.device)]


def encode(
    model: Model,
    x: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    t_end: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    grad: bool = False,
    **cond: object,
) -> Tensor:
    """The noise z_1, `(B, *event)`, that the probability flow carries the data `x`, `(B, *event)`, to.

    For data z_1 is nearly a draw of the prior N(0, prior_std^2 I). `decode` inverts the map up to the tolerance. One may encode with one
    condition and decode with another.

    Args:
        model: a `ScoreModel`, or anything with the same four calls.
        x: any event shape; not changed. Half precision is worked on in float32.
        rtol, atol: tolerances of a step in v = z/sqrt(alpha^2 + sigma^2), for each sample alone; they suppose data of about unit scale. The
            error of the whole path is larger, by 10 on a mixture and by 100 on a network that is rough in time.
        t_end: the time that `x` is put at, as z = alpha(t_end) x; by default `model.sde.t_min`.
        steps: the most steps that may be tried.
        batch_size: how many samples to work on at once; all by default. The result is the same.
        grad: record the graph, so that gradients flow to `x`, the network and `cond`.
        **cond: reaches the network untouched, but for tensors with one row a sample, of which it gets the rows of the samples it sees.

    Raises:
        ValueError: a tolerance that is not positive, `t_end` outside (0, 1), a prediction that is undefined at t = 1.
        TypeError: `x` holds integers.
        StepLimitError: more than `steps` are needed.
        FloatingPointError: a prediction is not finite; names the time.
    """
    x, tolerance = at_least_float32(x), Tolerance(rtol, atol, steps)
    with torch.set_grad_enabled(grad):
        return torch.cat(
            [
                flow.rho_1 * flow.run(flow.cos_end * part, flow.theta_end, flow.theta_1, tolerance)
                for flow, part in flows(model, x, t_end, batch_size, cond)
            ]
        )


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
    """The data x, `(B, *event)`, that the noise `z` at t = 1, `(B, *event)`, comes from: the inverse of `encode`, with the same arguments.

    x is z/alpha at `t_end`, without a last step to sigma = 0, which could not be undone. To sample, `sample` is cheaper.
    """
    z, tolerance = at_least_float32(z), Tolerance(rtol, atol, steps)
    with torch.set_grad_enabled(grad):
        return torch.cat(
            [
                flow.run(part / flow.rho_1, flow.theta_1, flow.theta_end, tolerance) / flow.cos_end
                for flow, part in flows(model, z, t_end, batch_size, cond)
            ]
        )


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or float64 if it is that.

    Raises:
        TypeError: `x` holds integers.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"x holds {x.dtype}: a density belongs to real numbers; scale to the model's units and see scoresde.dequantise"
        )
    return x.to(torch.promote_types(x.dtype, torch.float32))
