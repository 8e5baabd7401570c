"""The probability-flow ODE with a step size for each sample.

With q = alpha/sigma = e^lambda, from 0 at pure noise to infinity at the data, and w = z/sigma, every Gaussian path obeys the same ODE,

    dw/dq = D(z, t),                D = E[x | z_t = z].

(From dy/dr = (y - D)/r for y = z/alpha in r = 1/q, Karras et al. 2022, arXiv 2206.00364, eq. 4: w = q y, so dw/dq = y + q dy/dq = D.) It is
regular at alpha = 0, where q = 0, and to a point mass, where D is constant, every step of any length is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..numerics.arrays import expand, flatten_events
from ..numerics.batching import index_cond
from ..numerics.dormand_prince import StepControl, integrate
from ..tableau.executor import Run
from .base import AdaptiveLoop, Job, most, stack_or_none


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

    stochastic: ClassVar[bool] = False

    rtol: float = 1e-5
    atol: float = 1e-5
    t_end: float = 0.0

    def __post_init__(self) -> None:
        StepControl(self.rtol, self.atol)
        super().__post_init__()

    def solve(self, job: Job) -> Run:
        model, z, callback = job.model, job.z, job.callback
        sde, batch = model.sde, len(z)
        start = float(job.times[0])
        stop = self.last_call(sde, start)
        q_start, q_stop = (float(sde.half_log_snr(t).exp()) for t in (start, stop))

        def time(q: Tensor) -> Tensor:
            return torch.where(q == q_start, start, torch.where(q == q_stop, stop, sde.time(q.log())))

        def state(q: Tensor, w: Tensor) -> Tensor:
            return (expand(sde.sigma(time(q)), w) * w).reshape(len(w), *z.shape[1:])

        def slope(q: Tensor, w: Tensor, active: Tensor | None) -> Tensor:
            return model.data(state(q, w), time(q), **index_cond(job.cond, active, batch)).reshape(w.shape)

        path: list[Tensor] | None = [] if job.trajectory else None
        passed: list[Tensor] = []

        def on_step(q: Tensor, w: Tensor, data: Tensor) -> None:
            if callback is not None:
                callback(len(passed), time(q), state(q, w), data.reshape(z.shape))
            if path is not None:
                path.append(state(q, w))
            passed.append(time(q))

        w, data, calls = integrate(
            slope,
            q_start,
            q_stop,
            flatten_events(z) / expand(sde.sigma(start), z),
            StepControl.of(self.rtol, self.atol, job.max_steps),
            time=time,
            on_step=on_step,
        )
        x = (float(sde.sigma(stop)) * w if self.t_end > 0 else float(sde.alpha(0.0)) * data).reshape(z.shape)
        if self.t_end == 0:
            passed.append(torch.zeros(batch, dtype=torch.float64, device="cpu"))
            if path is not None:
                path.append(x)
        return Run(x, stack_or_none(path), torch.stack(passed), most(calls), calls)
