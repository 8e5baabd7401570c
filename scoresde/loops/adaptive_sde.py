"""The reverse SDE with a step size for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.reverse import ReverseSDE
from ..numerics.arrays import expand, flatten_events
from ..numerics.batching import index_cond, subset_or_none
from ..numerics.dormand_prince import DEFAULT_STEP_CAP, require_finite, require_steps
from ..numerics.inputs import as_count, as_number
from ..tableau.executor import Run
from .base import AdaptiveLoop, Job, data_from_drift, most, stack_or_none

# The paper lets h grow without bound. In few dimensions E is sometimes tiny by chance, and the next step then covers the whole rest of the
# path. On one-dimensional data N(0.7, 0.3^2) without this limit, 1 % of the samples end up to 100 standard deviations off.
GROW = 1.5


# Steps are rounded down to parts of a power of 2, as a rounding error in E (a batch of another size sums in another order) must not change
# the times at which the noise is drawn, and by it the sample.
PARTS_OF_OCTAVE = 64


class BrownianMemory:
    """Increments of the Brownian path of each sample, with the increments of rejected steps kept.

    A step is rejected because of its noise. Forgetting that noise would make large increments rarer than they are; so a rejected
    increment W over [t', t] stays, and the shorter step to t'' is drawn from the Brownian bridge below it: with h = t - t'', H = t - t',

        W'' | W ~ N(h/H W, h (1 - h/H) I),

    The rest, W - W'', is the increment over [t', t''] (Rackauckas and Nie 2017, DCDS-B 22(7), 2731-2761: rejection sampling
    with memory, RSwM1). No step goes past a time at which the path is already known.
    """

    def __init__(self, z: Tensor) -> None:
        # A stack for each sample: the times ahead at which its path is known, nearest on top, with the increment up to each from the one above
        # (from the present time for the top).
        self.times = torch.empty(0, len(z), dtype=torch.float64, device="cpu")
        self.increments = z.new_empty(0, *z.shape)
        self.depth = torch.zeros(len(z), dtype=torch.int64, device="cpu")

    def draw(self, samples: Tensor, t: Tensor, target: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """The times that steps from `t` to `target` < t reach, `(b,)`, and their increments, `(b, *event)`.

        `samples` are the indices of these b samples in the batch, `xi` fresh noise for them.
        """
        reached, w = target.clone(), expand((t - target).sqrt(), xi) * xi
        known = (self.depth[samples] > 0).nonzero().flatten()
        if len(known):
            sample, xi = samples[known], xi[known]
            top = self.depth[sample] - 1
            until, ahead = self.times[top, sample], self.increments[top, sample]
            reached[known] = torch.maximum(target[known], until)
            h = t[known] - reached[known]
            share = h / (t[known] - until)  # exactly 1 for a step to `until`, which takes the increment as it is
            part = expand(share, xi) * ahead + expand((h * (1 - share)).sqrt(), xi) * xi
            w[known] = part
            self.increments[top, sample] = ahead - part
            self.depth[sample] -= (share == 1).long()
        return reached, w

    def put_back(self, samples: Tensor, reached: Tensor, w: Tensor) -> None:
        """Keep the increments `w`, `(b, *event)`, of steps of these samples to `reached` that were rejected."""
        level = self.depth[samples]
        if len(level) and int(level.max()) == len(self.times):
            self.times = torch.cat([self.times, self.times.new_empty(1, *self.times.shape[1:])])
            self.increments = torch.cat([self.increments, self.increments.new_empty(1, *self.increments.shape[1:])])
        self.times[level, samples], self.increments[level, samples] = reached, w
        self.depth[samples] += 1


@dataclass(frozen=True)
class GottaGoFast(AdaptiveLoop):
    """The reverse SDE dz = F dt + g dw by improved Euler with error control (Jolicoeur-Martineau et al. 2021, arXiv 2105.14080, algorithm 1).

    With W the Brownian increment over the step from t to t - h,

        z'  = z - h F(z, t) + g(t) W                                     Euler-Maruyama
        z'' = z + 1/2 [ z' - z - h F(z', t-h) + g(t-h) W ]               improved Euler

        E = rms( (z' - z'')/max(atol, rtol max(|z'|, |z'_previous|)) );  accept z'' if E <= 1;  h <- min(0.9 h E^{-0.9}, 1.5 h, t - t_end).

    Two network calls a try and one for the data prediction at the end. Unlike in the paper a rejected W is remembered (`BrownianMemory`), so
    that rejecting does not bias the law of the result; a step is at most 1.5 times the last (`GROW`); and from alpha = 0 the first step is the
    transition.

    Args:
        rtol, atol: relative and absolute tolerance of a step. The paper takes rtol = 0.01 to 0.1 and for `atol` one level of 256: 0.0078 for
            data on [-1, 1].
        first_step: h at the start, in units of t.
        t_end: where to stop; 0 for the data.

    Raises:
        ValueError: a tolerance or first step that is not positive, or `t_end` outside [0, 1).
    """

    rtol: float = 0.05
    atol: float = 0.0078
    first_step: float = 0.01
    t_end: float = 0.0

    def __post_init__(self) -> None:
        as_number("rtol", self.rtol, 0.0)
        as_number("atol", self.atol, above=0.0)
        as_number("first_step", self.first_step, above=0.0)
        super().__post_init__()

    def solve(self, job: Job) -> Run:
        model, z, callback, cond = job.model, job.z, job.callback, job.cond
        sde, batch, path = model.sde, len(z), job.path
        reverse, limit = ReverseSDE(model), DEFAULT_STEP_CAP if job.max_steps is None else as_count("steps", job.max_steps)
        start = float(job.times[0])
        stop = self.last_call(sde, start)
        t = torch.full((batch,), start, dtype=torch.float64, device="cpu")
        h = torch.full_like(t, self.first_step)
        calls = torch.zeros(batch, dtype=torch.int64, device="cpu")
        passed = [t]
        if float(sde.alpha(start)) == 0:
            # Drift and diffusion are infinite. As z/sigma is pure noise, this is q(z_t | x) for x = D; what it leaves out is of the order of
            # alpha at t_max.
            data = model.data(z, start, **cond)
            if callback is not None:
                callback(0, t, z, data)
            z = expand(sde.alpha(sde.t_max), z) * data + expand(sde.sigma(sde.t_max) / sde.sigma(start), z) * z
            t, calls = torch.full_like(t, sde.t_max), calls + 1
            passed.append(t)
            if path is not None:
                path.append(z)
        memory, previous, seen = BrownianMemory(z), z, z
        for step in range(limit + 1):
            active = (t > stop).nonzero().flatten()
            if not len(active):
                break
            require_steps(step, limit, t[active], "gotta-go-fast")
            device_index = active.to(z.device)
            active_cond = index_cond(cond, subset_or_none(active, batch), batch)
            t_0, z_0 = t[active], z[device_index]
            # Noise is drawn for the whole batch: the k-th try of a sample sees its k-th noise whoever else is still on the way.
            target = torch.where(h[active] >= t_0 - stop, stop, t_0 - h[active])
            t_1, w = memory.draw(active, t_0, target, job.noise.draw(z.shape, z.dtype, z.device)[device_index])
            dt = t_0 - t_1
            drift = reverse.drift(z_0, t_0, **active_cond)
            euler = z_0 - expand(dt, z_0) * drift + expand(reverse.diffusion(t_0), w) * w
            second = reverse.drift(euler, t_1, **active_cond)
            improved = z_0 + 0.5 * (euler - z_0 - expand(dt, z_0) * second + expand(reverse.diffusion(t_1), w) * w)
            tolerance = (self.rtol * torch.maximum(euler.abs(), previous[device_index].abs())).clamp(min=self.atol)
            error = flatten_events(((euler - improved) / tolerance).detach()).double().square().mean(1).sqrt().cpu()
            require_finite("model's prediction", error[:, None], t_0)
            accept = error <= 1
            if callback is not None:
                seen = seen.index_copy(0, device_index, data_from_drift(sde, z_0, t_0, drift))
                callback(len(passed) - 1, t, z, seen)
            memory.put_back(active[~accept], t_1[~accept], w[~accept])
            kept = accept.to(z.device).reshape(len(active), *(1,) * (z.ndim - 1))
            t = t.index_copy(0, active, torch.where(accept, t_1, t_0))
            z = z.index_copy(0, device_index, torch.where(kept, improved, z_0))
            previous = previous.index_copy(0, device_index, torch.where(kept, euler, previous[device_index]))
            proposed = dt * (0.9 * error.clamp(min=1e-12) ** -0.9).clamp(max=GROW)
            # A step that ended early, at a time of known noise, keeps its proposed length.
            proposed = torch.where(accept & (t_1 > target), torch.maximum(proposed, h[active]), proposed)
            h = h.index_copy(0, active, torch.exp2((PARTS_OF_OCTAVE * proposed.log2()).floor() / PARTS_OF_OCTAVE))
            calls[active] += 2
            passed.append(t)
            if path is not None:
                path.append(z)
        if self.t_end == 0:
            data = model.data(z, stop, **cond)
            if callback is not None:
                callback(len(passed) - 1, t, z, data)
            z, calls = float(sde.alpha(0.0)) * data, calls + 1
            passed.append(torch.zeros_like(t))
            if path is not None:
                path.append(z)
        return Run(z, stack_or_none(path), torch.stack(passed), most(calls), calls)
