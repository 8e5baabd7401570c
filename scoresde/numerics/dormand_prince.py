"""Dormand-Prince 5(4) with a step size for each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .arrays import expand

DEFAULT_STEP_CAP = 10_000


class StepLimitError(RuntimeError):
    """An adaptive solver tried as many steps as it may and has not arrived."""


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


Slope = Callable[[Tensor, Tensor, Tensor | None], Tensor]


StepHook = Callable[[Tensor, Tensor, Tensor], object]


Norm = Callable[[Tensor], Tensor]


# Dormand and Prince 1980, J. Comput. Appl. Math. 6, 19-26, RK5(4)7M: nodes, stages (the last is the solution of order 5, so that its slope
# is the first of the next step) and the weights of order 5 less those of order 4.
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


SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0


FIRST_CHANGE = 0.01  # of the state, by the first step


def rms(y: Tensor) -> Tensor:
    """The root mean square of each sample, `(B,)`, in float64 on the CPU: step sizes are no part of a gradient."""
    return y.detach().double().square().mean(1).sqrt().cpu()


def integrate(
    f: Slope,
    start: float,
    end: float,
    y: Tensor,
    *,
    rtol: float,
    atol: float,
    max_steps: int = DEFAULT_STEP_CAP,
    time: Callable[[Tensor], Tensor] = lambda u: u,
    on_step: StepHook | None = None,
    norm: Norm = rms,
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve dy/du = f(u, y) from `start` to `end`, upwards or downwards, each sample with steps of its own.

    A step h is accepted if E = norm( e/(atol + rtol max(|y_0|, |y_1|)) ) <= 1, where e is the difference of the embedded solutions, and the
    next one is 0.9 h E^{-1/5} within factors of 0.2 and 5 (Hairer, Norsett and Wanner 1993, section II.4). The last one ends at `end` itself.
    Samples that have arrived are evaluated no more.

    Args:
        f: `f(u, y, active)` with u `(b,)` in float64 on the CPU, y `(b, d)`, and `active` the indices of these b samples in the batch (None:
            all of them); returns `(b, d)`.
        y: the state at `start`, `(B, d)`.
        rtol, atol: relative and absolute tolerance of a step.
        max_steps: the most steps that are tried.
        time: what to name u by in an error.
        on_step: called before every step and at the end with `(u, y, dy/du)` of the whole batch.
        norm: of each sample, from `(b, d)` to `(b,)` like `rms`; another one where parts of the state are to be controlled apart.

    Returns:
        y and dy/du at `end`, `(B, d)`, and the calls of f made for each sample, `(B,)`.

    Raises:
        StepLimitError: a sample needs more than `max_steps`.
        FloatingPointError: f is not finite.
    """

    def slope_at(u: Tensor, y: Tensor, active: Tensor | None) -> Tensor:
        k = f(u, y, active)
        require_finite("model's prediction", k, time(u))
        return k

    sign = 1.0 if end >= start else -1.0
    u = torch.full((len(y),), start, dtype=torch.float64)
    slope = slope_at(u, y, None)
    calls = torch.ones(len(y), dtype=torch.int64)
    h = FIRST_CHANGE * ((rms(y) + atol) / (rms(slope) + atol))
    for step in range(max_steps + 1):
        if on_step is not None:
            on_step(u, y, slope)
        active = (u != end).nonzero().flatten()
        if not len(active):
            break
        require_steps(step, max_steps, time(u[active]), "the adaptive ODE solver")
        some = None if len(active) == len(y) else active
        on_device = active.to(y.device)
        u0, y0, k = u[active], y[on_device], [slope[on_device]]
        rest = (end - u0).abs()
        arrives = h[active] >= rest
        u1 = torch.where(arrives, end, u0 + sign * h[active])
        du = u1 - u0
        y1 = y0
        for node, weights in zip(NODES[1:], STAGES, strict=True):
            y1 = y0 + expand(du, y0) * _combine(weights, k)
            k.append(slope_at(torch.where(arrives & (node == 1), end, u0 + node * du), y1, some))
        error = expand(du, y0) * _combine(ERROR, k)
        relative = norm(error / (atol + rtol * torch.maximum(y0.abs(), y1.abs())))
        accept = relative <= 1
        kept = accept.to(y.device)[:, None]
        u = u.index_copy(0, active, torch.where(accept, u1, u0))
        y = y.index_copy(0, on_device, torch.where(kept, y1, y0))
        slope = slope.index_copy(0, on_device, torch.where(kept, k[-1], k[0]))
        calls[active] += len(STAGES)
        factor = SAFETY * relative.clamp(min=1e-12) ** (-1 / 5)
        h = h.index_copy(0, active, du.abs() * factor.clamp(SHRINK, GROW))
    return y, slope, calls


def _combine(weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    total = weights[0] * k[0]
    for weight, slope in zip(weights[1:], k[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total
