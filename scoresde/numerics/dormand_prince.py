"""The Runge-Kutta method of Dormand and Prince, order 5(4), with a step size for each sample.

One step of length h from (u_0, y_0), with nodes c, stages A and the error weights e below:

    k_1 = f(u_0, y_0),    k_i = f(u_0 + c_i h, y_0 + h sum_{j < i} A_ij k_j),    y_1 = y_0 + h sum_{j < 7} A_7j k_j,    error = h sum_j e_j k_j.

k_7 = f(u_1, y_1) is the first stage of the next step, so that a step costs six evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import expand, flatten_events
from .batching import subset_or_none
from .inputs import as_count, as_number

# Dormand and Prince 1980, J. Comput. Appl. Math. 6, 19-26, RK5(4)7M. The last stage is the solution of order 5; the error weights are those of
# order 5 less those of order 4.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

# The next step is SAFETY E^{-1/5} times this one, within [SHRINK, GROW]; the first changes the state by about FIRST_CHANGE of its size.
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
FIRST_CHANGE = 0.01

DEFAULT_STEP_CAP = 10_000

# (u `(b,)`, y `(b, d)`, indices of these b samples in the batch or None for all) -> dy/du, `(b, d)`.
Slope = Callable[[Tensor, Tensor, Tensor | None], Tensor]
# (u, y, dy/du) of the whole batch, before each step and at the end.
StepHook = Callable[[Tensor, Tensor, Tensor], object]
# `(b, d)` -> the size of each sample, `(b,)`, float64 on the CPU.
Norm = Callable[[Tensor], Tensor]


class StepLimitError(RuntimeError):
    """An adaptive solver tried its maximum number of steps and has not reached the end."""


@dataclass(frozen=True)
class StepControl:
    """Tolerances of a step, relative and absolute, and the maximum number of tried steps.

    Raises:
        TypeError: another type.
        ValueError: a tolerance that is not positive and finite, or a maximum below 1.
    """

    rtol: float
    atol: float
    max_steps: int = DEFAULT_STEP_CAP

    def __post_init__(self) -> None:
        as_number("rtol", self.rtol, above=0.0)
        as_number("atol", self.atol, above=0.0)
        as_count("steps", self.max_steps)

    @classmethod
    def of(cls, rtol: float, atol: float, steps: int | None) -> StepControl:
        """The control of these arguments, with `steps` None for the default maximum."""
        return cls(rtol, atol, DEFAULT_STEP_CAP if steps is None else steps)

    def scale(self, y_0: Tensor, y_1: Tensor) -> Tensor:
        """The error that a step from y_0 to y_1 may have, atol + rtol max(|y_0|, |y_1|), entry by entry."""
        return self.atol + self.rtol * torch.maximum(y_0.abs(), y_1.abs())


class Solution(NamedTuple):
    """The end of an integration.

    Attributes:
        y: the state, `(B, d)`.
        slope: dy/du, `(B, d)`.
        calls: evaluations of f for each sample, `(B,)`.
    """

    y: Tensor
    slope: Tensor
    calls: Tensor


def require_finite(what: str, value: Tensor, t: Tensor) -> None:
    """Check the samples of `value`, `(B, ...)`, at the times `t`, `(B,)`.

    Raises:
        FloatingPointError: a sample is infinite or NaN; the message names the time of the first.
    """
    broken = (~flatten_events(value.detach()).isfinite().all(1)).nonzero().flatten()
    if len(broken):
        raise FloatingPointError(f"the {what} is not finite at t={float(t[int(broken[0])]):g}")


def require_steps(step: int, limit: int, t: Tensor, solver: str) -> None:
    """Check that step number `step` is below the limit, while samples are at the times `t`.

    Raises:
        StepLimitError: the limit is reached; the message names the largest time.
    """
    if step >= limit:
        raise StepLimitError(
            f"{solver} tried {limit} steps and reached t={float(t.max()):g}: allow more with steps=, loosen its tolerances, or use float64"
        )


def rms(y: Tensor) -> Tensor:
    """The root mean square of each sample, `(B,)`, in float64 on the CPU. Step sizes carry no gradient."""
    return y.detach().double().square().mean(1).sqrt().cpu()


def integrate(
    f: Slope,
    start: float,
    end: float,
    y: Tensor,
    control: StepControl,
    *,
    time: Callable[[Tensor], Tensor] = lambda u: u,
    on_step: StepHook | None = None,
    norm: Norm = rms,
) -> Solution:
    """Solve dy/du = f(u, y) from `start` to `end`, upwards or downwards, each sample with steps of its own.

    A step h is accepted if E = norm( error/(atol + rtol max(|y_0|, |y_1|)) ) <= 1, and the next step is 0.9 h E^{-1/5} within factors of 0.2
    and 5 (Hairer, Norsett and Wanner 1993, section II.4). The last step ends at `end` exactly. Samples at the end are not evaluated again.

    Args:
        f: `f(u, y, active)`, `(b, d)`, with u `(b,)` in float64 on the CPU and y `(b, d)`. `active` holds the indices of these b samples in the
            batch; None for all.
        y: the state at `start`, `(B, d)`.
        control: tolerances and the maximum number of tried steps.
        time: from u to the time that error messages name.
        on_step: called before every step and at the end with `(u, y, dy/du)` of the whole batch.
        norm: the size of each sample, from `(b, d)` to `(b,)` like `rms`. Another norm can control parts of the state separately.

    Raises:
        StepLimitError: a sample needs more than `control.max_steps`.
        FloatingPointError: f is not finite.
    """

    def slope_at(u: Tensor, y: Tensor, active: Tensor | None) -> Tensor:
        k = f(u, y, active)
        require_finite("model's prediction", k, time(u))
        return k

    sign = 1.0 if end >= start else -1.0
    u = torch.full((len(y),), start, dtype=torch.float64, device="cpu")
    slope = slope_at(u, y, None)
    calls = torch.ones(len(y), dtype=torch.int64, device="cpu")
    h = FIRST_CHANGE * ((rms(y) + control.atol) / (rms(slope) + control.atol))
    for step in range(control.max_steps + 1):
        if on_step is not None:
            on_step(u, y, slope)
        active = (u != end).nonzero().flatten()
        if not len(active):
            break
        require_steps(step, control.max_steps, time(u[active]), "the adaptive ODE solver")
        device_index, subset = active.to(y.device), subset_or_none(active, len(y))
        u_0, y_0, k_1 = u[active], y[device_index], slope[device_index]
        arrives = h[active] >= (end - u_0).abs()
        u_1 = torch.where(arrives, end, u_0 + sign * h[active])
        du = u_1 - u_0
        nodes = [torch.where(arrives & (c == 1), end, u_0 + c * du) for c in NODES[1:]]
        y_1, k_7, error = _step(partial(slope_at, active=subset), nodes, du, y_0, k_1)
        relative = norm(error / control.scale(y_0, y_1))
        accept = relative <= 1
        accepted = accept.to(y.device)[:, None]
        u = u.index_copy(0, active, torch.where(accept, u_1, u_0))
        y = y.index_copy(0, device_index, torch.where(accepted, y_1, y_0))
        slope = slope.index_copy(0, device_index, torch.where(accepted, k_7, k_1))
        calls[active] += len(STAGES)
        factor = SAFETY * relative.clamp(min=1e-12) ** (-1 / 5)
        h = h.index_copy(0, active, du.abs() * factor.clamp(SHRINK, GROW))
    return Solution(y, slope, calls)


def _step(
    f: Callable[[Tensor, Tensor], Tensor], nodes: Sequence[Tensor], h: Tensor, y_0: Tensor, k_1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(y_1, k_7, error) of one step of length h, `(b,)`, with the stages 2 to 7 at the `nodes`."""
    y, k = y_0, [k_1]
    for u, weights in zip(nodes, STAGES, strict=True):
        y = y_0 + expand(h, y_0) * _combine(weights, k)
        k.append(f(u, y))
    return y, k[-1], expand(h, y_0) * _combine(ERROR, k)


def _combine(weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """sum_j weights_j k_j, without the zeros."""
    total = weights[0] * k[0]
    for weight, slope in zip(weights[1:], k[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total
