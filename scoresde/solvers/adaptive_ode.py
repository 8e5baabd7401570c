"""The probability-flow ODE with a step size for each sample.

With q = alpha/sigma = e^lambda, from 0 at pure noise to infinity at the data, and w = z/sigma, every Gaussian path obeys the same ODE,

    dw/dq = D(z, t),                D = E[x | z_t = z].

(From dy/dr = (y - D)/r for y = z/alpha in r = 1/q, Karras et al. 2022, arXiv 2206.00364, eq. 4: w = q y, so dw/dq = y + q dy/dq = D.) It is
regular at alpha = 0, where q = 0, and to a point mass, where D is constant, every step of any length is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..prediction import Model
from ..random import NoiseSource
from ..sde import expand
from .executor import Callback, Run
from .loop import DEFAULT_STEP_CAP, AdaptiveLoop, require_finite, require_steps, rows, stack_or_none

Slope = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Watch = Callable[[Tensor, Tensor, Tensor], object]
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
    steps: int = DEFAULT_STEP_CAP,
    time: Callable[[Tensor], Tensor] = lambda u: u,
    watch: Watch | None = None,
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
        steps: the most steps that are tried.
        time: what to name u by in an error.
        watch: called before every step and at the end with `(u, y, dy/du)` of the whole batch.
        norm: of each sample, from `(b, d)` to `(b,)` like `rms`; another one where parts of the state are to be controlled apart.

    Returns:
        y and dy/du at `end`, `(B, d)`, and the calls of f made for each sample, `(B,)`.

    Raises:
        StepLimitError: a sample needs more than `steps`.
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
    for step in range(steps + 1):
        if watch is not None:
            watch(u, y, slope)
        active = (u != end).nonzero().flatten()
        if not len(active):
            break
        require_steps(step, steps, time(u[active]), "the adaptive ODE solver")
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


@dataclass(frozen=True)
class AdaptiveODE(AdaptiveLoop):
    """The probability-flow ODE dw/dq = D by Dormand-Prince 5(4), with error control for each sample (`integrate`).

    Of the seven stages the last is the first of the next step: six network calls a try and one at the start. So the data prediction at the
    end, from where the step to sigma = 0 goes, is known without another call.

    Args:
        rtol, atol: relative and absolute tolerance of a step in w = z/sigma, which grows to alpha x/sigma at the end: the relative one is that
            of the data. In float32 it does not go below about 1e-6.
        t_end: where to stop; 0 for the data.

    Raises:
        ValueError: a tolerance that is not positive, or `t_end` outside [0, 1).
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    t_end: float = 0.0

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol and atol must be positive, got {self.rtol} and {self.atol}")
        super().__post_init__()

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
        sde, batch, given = model.sde, len(z), cond or {}
        start = float(times[0])
        stop = self.last_call(sde, start)
        q_start, q_stop = (float(sde.half_log_snr(t).exp()) for t in (start, stop))

        def time(q: Tensor) -> Tensor:
            return torch.where(q == q_start, start, torch.where(q == q_stop, stop, sde.time(q.log())))

        def state(q: Tensor, w: Tensor) -> Tensor:
            return (expand(sde.sigma(time(q)), w) * w).reshape(-1, *z.shape[1:])

        def slope(q: Tensor, w: Tensor, active: Tensor | None) -> Tensor:
            return model.data(state(q, w), time(q), **rows(given, active, batch)).reshape(w.shape)

        path: list[Tensor] | None = [] if trajectory else None
        passed: list[Tensor] = []

        def watch(q: Tensor, w: Tensor, data: Tensor) -> None:
            if callback is not None:
                callback(len(passed), time(q), state(q, w), data.reshape(z.shape))
            if path is not None:
                path.append(state(q, w))
            passed.append(time(q))

        w, data, calls = integrate(
            slope,
            q_start,
            q_stop,
            z.reshape(batch, -1) / expand(sde.sigma(start), z),
            rtol=self.rtol,
            atol=self.atol,
            steps=steps or DEFAULT_STEP_CAP,
            time=time,
            watch=watch,
        )
        x = (float(sde.sigma(stop)) * w if self.t_end > 0 else float(sde.alpha(0.0)) * data).reshape(z.shape)
        if self.t_end == 0:
            passed.append(torch.zeros(batch, dtype=torch.float64))
            if path is not None:
                path.append(x)
        return Run(x, stack_or_none(path), torch.stack(passed), int(calls.max()), calls)
