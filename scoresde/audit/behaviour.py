"""How a sampler behaves: calls, seeds, batches, the global random state, its inputs, numbers of steps and precision."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .accuracy import INTERVAL, own_steps, sampler_levels
from .draws import Draws
from .findings import Finding, Verdict, judged
from .levels import Levels
from .probe import EVENT, NotLinearError, count, probe
from .sampler import Sampler
from .targets import SMOOTH

BATCH = 6


def calls(sampler: Sampler) -> Finding:
    """Network calls in a step, counted."""
    levels = _levels(sampler)
    if sampler.own_levels is not None:
        made, _ = count(sampler, levels, own_steps(sampler, 0))
        expected = (sampler.calls_per_step or 1) * own_steps(sampler, 0)
        return Finding("calls", judged(made == expected), f"{made} calls", {"calls": made})
    (few, _), (more, _) = count(sampler, levels, 8), count(sampler, levels, 16)
    per_step = (more - few) / 8
    numbers = {"calls a step": per_step, "at 8 steps": few, "at 16 steps": more}
    text = f"{per_step:g} a step, {few} at 8 steps"
    if sampler.calls_per_step is None or sampler.adaptive:
        return Finding("calls", "note", text, numbers)
    verdict = judged(per_step == sampler.calls_per_step)
    return Finding("calls", verdict, f"{text}, {sampler.calls_per_step} claimed", numbers)


def linear(sampler: Sampler) -> Finding:
    """Whether the sampler is a table of coefficients."""
    try:
        run = probe(sampler, _levels(sampler), own_steps(sampler, 10))
    except NotLinearError as error:
        return Finding("linear", "note", f"no: {error}")
    return Finding(
        "linear", "holds", f"{run.calls} calls and {run.noise.shape[1]} draws", {"calls": run.calls, "draws": run.noise.shape[1]}
    )


def seeds(sampler: Sampler, stochastic: bool) -> Finding:
    """One seed, one result; another seed, another result where there is noise."""
    # A NaN is no answer about seeds: `precision` and `steps` report it.
    first, again, other = (_seeded(sampler, seed).nan_to_num() for seed in (0, 0, 1))
    if not torch.equal(first, again):
        return Finding("seeds", "broken", "two runs with one seed differ")
    if stochastic and torch.equal(first, other):
        return Finding("seeds", "broken", "two seeds give one result")
    if not stochastic and not torch.equal(first, other):
        return Finding("seeds", "broken", "the seed changes a result without noise")
    return Finding("seeds", "holds", "the result is a function of the seed" if stochastic else "no noise")


def batch(sampler: Sampler) -> Finding:
    """Whether a sample depends on its batch: the same starts and noises, alone and with others."""
    start = _start()
    together = _fixed(sampler, start, slice(0, BATCH))
    alone = torch.cat([_fixed(sampler, start, slice(i, i + 1)) for i in (0, BATCH - 1)])
    error = float((together[[0, BATCH - 1]] - alone).nan_to_num().abs().max())
    text = f"a sample alone and in a batch of {BATCH} differ by {error:.0e}"
    return Finding("batch", judged(error <= 1e-6), text, {"difference": error})


def global_state(sampler: Sampler, stochastic: bool) -> Finding:
    """Whether the global random states of torch, numpy and Python are as before."""
    torch.manual_seed(0)
    before = _states()
    _run(sampler, _start())
    changed = [name for name, state in _states().items() if state != before[name]]
    if not changed:
        return Finding("global state", "holds", "untouched")
    where = " and ".join(changed)
    if not stochastic:
        return Finding("global state", "broken", f"changes that of {where} though no noise reaches the result")
    verdict: Verdict = "note" if sampler.drawn_globally else "broken"
    return Finding("global state", verdict, f"noise comes from that of {where}")


def inputs(sampler: Sampler) -> Finding:
    """Whether the tensors that a caller passes are as before."""
    start, seen = _start(), list[tuple[Tensor, Tensor]]()
    kept = start.clone()

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        out = SMOOTH.denoised(x, sigma)
        seen.append((out, out.clone()))
        return out

    _run(sampler, start, denoiser)
    if not torch.equal(start, kept):
        return Finding("inputs", "broken", "the start is written over")
    if any(not torch.equal(out.nan_to_num(), copy.nan_to_num()) for out, copy in seen):
        return Finding("inputs", "broken", "the network's output is written over")
    return Finding("inputs", "holds", "unchanged")


def few_steps(sampler: Sampler) -> Finding:
    """1 and 2 steps run and are finite."""
    levels = sampler_levels(sampler)
    failed = dict[int, str]()
    for steps in (1, 2):
        try:
            x = sampler.run(SMOOTH.denoised, levels.high * _start() / INTERVAL.high, levels, steps)
            if not bool(x.isfinite().all()):
                failed[steps] = "not finite"
        except Exception as error:  # noqa: PERF203
            failed[steps] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    if failed:
        return Finding("steps", "broken", "; ".join(f"{n} steps: {what}" for n, what in failed.items()))
    return Finding("steps", "holds", "1 and 2 are finite")


def precision(sampler: Sampler) -> Finding:
    """The error of a run in low precision against float64, on the same noise."""
    start = _start()
    exact = _fixed(sampler, start, slice(0, BATCH))
    numbers, wrong = dict[str, float](), list[str]()
    # The state starts at the size of the first level: rounding leaves that much there, and the flow contracts it.
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 1.0), (torch.float16, 0.3)):
        name = str(dtype).removeprefix("torch.")
        try:
            x = _fixed(sampler, start.to(dtype), slice(0, BATCH))
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}")
            continue
        numbers[name] = float((x.double() - exact).square().mean().sqrt())
        # Rounding changes the steps that an adaptive sampler takes, and with them its noise.
        if not numbers[name] <= (math.inf if sampler.adaptive else bound):
            wrong.append(f"{name}: rms {numbers[name]:.1e}")
    text = ", ".join(f"{name} {error:.0e}" for name, error in numbers.items())
    return Finding("precision", "broken" if wrong else "holds", "; ".join(wrong) or f"rms against float64: {text}", numbers)


def _levels(sampler: Sampler) -> Levels:
    return INTERVAL if sampler.own_levels is None else sampler_levels(sampler)


def _start() -> Tensor:
    return SMOOTH.draw((BATCH, *EVENT), INTERVAL.high, torch.Generator().manual_seed(4))


def _run(sampler: Sampler, start: Tensor, denoiser: Callable[[Tensor, Tensor], Tensor] = SMOOTH.denoised) -> Tensor:
    with torch.no_grad():
        return sampler.run(denoiser, start, _levels(sampler), own_steps(sampler, 12))


def _seeded(sampler: Sampler, seed: int) -> Tensor:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    return _run(sampler, _start())


def _fixed(sampler: Sampler, start: Tensor, part: slice) -> Tensor:
    """A run of some samples in which draw k of sample i is a function of k and i alone."""

    def noise(k: int, draw: Tensor) -> Tensor:
        whole = torch.randn(BATCH, *EVENT, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + k))
        return whole[part] if draw.numel() == whole[part].numel() else draw

    torch.manual_seed(0)
    with Draws(noise):
        return _run(sampler, start[part])


def _states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),  # noqa: NPY002
        "Python": random.getstate(),
    }
