"""How accurate a sampler is: order, bias, the noise that it leaves, and exactness where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from .conditions import CLOCKS, exact_degree, step_at, worst
from .findings import Finding, Verdict, judged, slope
from .laws import law_error, level_error, mean_error, start_error
from .levels import Levels
from .probe import EVENT, Coefficients, count
from .sampler import Sampler
from .targets import GAUSSIAN, NARROW, POINT, SMOOTH, Target

# A fixed interval, away from 0, on which an order can show; and a shorter one for the order conditions, where it shows at fewer steps.
INTERVAL, SHORT = Levels(10.0, 0.2), Levels(3.0, 1.0)
WHOLE = Levels(80.0, 0.0)
LAST_ABOVE_0 = Levels(80.0, 0.002)
STEPS = (10, 20, 40, 80, 160)
# Of coefficients, below which nothing is measured: in float64, and where they are unknown in float32, as most hosts keep them.
SMALLEST, UNKNOWN = 1e-11, 3e-6
# An order may be this far below the claim: a lower order is lower by 1, and slopes at 160 steps are still on their way.
SHORTFALL = 0.5
EXACT = 1e-5
STARTS = 64
MANY = 1000
# Coordinates of a Monte Carlo estimate; its standard error of a standard deviation is then 0.55 %.
DRAWN = 16384


def order_conditions(sampler: Sampler, runs: Mapping[int, Coefficients]) -> Finding:
    """The order that the coefficients have, and the condition that limits it."""
    name = "order conditions"
    if next(iter(runs.values())).stochastic:
        return Finding(name, "unknown", "the conditions are for samplers without noise")
    steps = {n: worst(run, step_at(run, 0.25)) for n, run in runs.items()}
    whole = {n: worst(run) for n, run in runs.items()}
    floor = rounding(runs)
    order, _ = slope({n: found.residual for n, found in steps.items()}, floor)
    with_start, _ = slope({n: found.residual for n, found in whole.items()}, floor)
    limit, last = list(steps.values())[-1], next(iter(runs.values()))
    text = f"{_order(order)} in its steps, limited by {limit.name}"
    if with_start < order - SHORTFALL:
        text += f"; {_order(with_start)} with its first steps"
    numbers = {"order": order, "with start": with_start, "residual": limit.residual}
    if last.calls == min(runs):
        exact = {f"{form} in {clock}": exact_degree(last, form, clock, floor) for clock in CLOCKS for form in ("data", "noise")}
        best = max(exact, key=lambda key: exact[key])
        if exact[best] > 0:
            text += f"; exact for polynomials of degree {exact[best]}, {best}"
        numbers |= {f"degree, {key}": float(degree) for key, degree in exact.items()}
    return Finding(name, _against(sampler.order, order), text, numbers)


def order_measured(sampler: Sampler, target: Target, name: str, stochastic: bool, runs: Mapping[int, Coefficients]) -> Finding:
    """The slope of the error over the steps: of the end point on a mixture, or of the law on Gaussian data for a sampler with noise."""
    floor = rounding(runs)
    if stochastic and len(runs) < 3:
        return weak_error(sampler, target, name)
    if stochastic:
        width = min(target.stds)
        errors = {n: law_error(run, GAUSSIAN.means[0], width) for n, run in runs.items()}
        what, group_slopes = f"weak, on N({GAUSSIAN.means[0]:g}, {width:g}^2)", list[float]()
    else:
        by_start = {n: end_errors(sampler, target, INTERVAL, n) for n in STEPS}
        errors = {n: float(e.square().mean().sqrt()) for n, e in by_start.items()}
        groups = [{n: float(e[k::8].square().mean().sqrt()) for n, e in by_start.items()} for k in range(8)]
        group_slopes = [s for s, _ in (slope(group, floor) for group in groups) if math.isfinite(s)]
        what = "of the end point, on a mixture"
    rate, scatter = slope(errors, floor)
    if len(group_slopes) > 1:
        spread = torch.tensor(group_slopes, dtype=torch.float64)
        scatter = math.hypot(scatter, float(spread.std()) / math.sqrt(len(group_slopes)))
    text = f"{_order(rate)} +- {scatter:.1g}, {what}; error {errors[max(errors)]:.1e} at {max(errors)} steps"
    numbers = {"order": rate, "stderr": scatter} | {f"error at {n}": e for n, e in errors.items()}
    verdict = _against(sampler.order, rate + 2 * scatter)
    if verdict == "broken" and (name == "narrow order" or (rate > 0.5 and not stochastic)):
        # The conditions decide; a slope at a few hundred steps may not have reached its limit.
        verdict = "note"
        text += f"; below the claimed {sampler.order}: the order conditions decide"
    return Finding(name, verdict, text, numbers)


def weak_error(sampler: Sampler, target: Target, name: str) -> Finding:
    """The error of mean and standard deviation by Monte Carlo, where no coefficients are known."""
    mean, std = target.moments(INTERVAL.low)
    errors = dict[int, float]()
    for steps in STEPS[1:3]:
        x = drawn(sampler, target, INTERVAL, steps)
        errors[steps] = math.hypot(float(x.mean()) - mean, float(x.std()) - std) / std
    stderr = 1 / math.sqrt(DRAWN)
    text = ", ".join(f"{e:.1e} at {n} steps" for n, e in errors.items()) + f", +- {stderr:.1e} (Monte Carlo on a mixture)"
    return Finding(name, "note", text, {f"error at {n}": e for n, e in errors.items()} | {"stderr": stderr})


def bias(sampler: Sampler, stochastic: bool) -> Finding:
    """The error of mean and standard deviation on data N(0.7, 0.3^2) at 1000 steps; at 100 of more than ten calls each."""
    levels = sampler_levels(sampler)
    mean, std = GAUSSIAN.moments(levels.low)
    many = MANY if count(sampler, INTERVAL, STEPS[0])[0] <= 10 * STEPS[0] else MANY // 10
    if stochastic:
        x = drawn(sampler, GAUSSIAN, levels, many)
        errors, stderr = (float(x.mean()) - mean, float(x.std()) - std), std / math.sqrt(DRAWN)
    else:
        # Two starts: the result is affine in the start.
        start_mean, start_std = GAUSSIAN.moments(levels.high)
        start = torch.tensor([start_mean, start_mean + start_std], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, *EVENT)
        low, high = sampler.run(GAUSSIAN.denoised, start.clone(), levels, many).double().flatten(1)[:, 0].tolist()
        errors, stderr = (low - mean, abs(high - low) - std), 0.0
    error = math.hypot(*errors) / std
    if not math.isfinite(error):
        return Finding("bias", "broken", f"not finite at {many} steps", {"error": error})
    fine = error <= 0.03 + 5 * stderr / std
    text = f"{error:.1e} of the standard deviation" + (f" +- {stderr / std:.0e}" if stochastic else "")
    return Finding("bias", judged(fine), text, {"error": error, "stderr": stderr / std})


def noise_left(sampler: Sampler) -> Finding:
    """What is left of the noise at the end, on data of one point, and whether steps reduce it."""
    levels = sampler_levels(sampler)
    x = POINT + levels.high * torch.randn(STARTS, *EVENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def left(steps: int) -> float:
        torch.manual_seed(0)
        return float((sampler.run(_at_point, x.clone(), levels, steps).double() - POINT).square().mean().sqrt())

    few = own_steps(sampler, STEPS[1])
    rms = {few: left(few)}
    end = "" if sampler.exact_end else f", asked to end at {levels.low:g}"
    if rms[few] <= max(1e-4, 2 * levels.low):
        return Finding("noise left", "holds", f"rms {rms[few]:.1e}{end}", {"rms": rms[few]})
    if sampler.own_levels is None and math.isfinite(rms[few]):
        rms[STEPS[-1]] = left(STEPS[-1])
    rate, _ = slope(rms)
    text = ", ".join(f"rms {size:.1e} at {steps} steps" for steps, size in rms.items()) + end
    if sampler.own_levels is not None and math.isfinite(rms[few]):
        return Finding("noise left", "note", f"{text}: the error of so few calls, as its levels are fixed", {"rms": rms[few]})
    # A sampler that goes to level 0 leaves nothing there. Others approach their level; steps that do not reduce what is left add noise.
    approaches = not sampler.exact_end and len(rms) > 1 and rate > 0.5
    return Finding("noise left", "note" if approaches else "broken", text, {"rms": rms[few], "order": rate})


def levels_told(runs: Mapping[int, Coefficients]) -> Finding:
    """Whether the level that the network is told is that of the state, and D = const is solved exactly."""
    level, mean = ({n: f(run) for n, run in runs.items()} for f in (level_error, mean_error))
    last, off = level[max(level)], mean[max(mean)]
    rate, _ = slope(level, EXACT)
    numbers = {"level": last, "mean": off, "order": rate}
    if last <= 1e-3 and off <= 1e-3:
        return Finding("point mass", "holds", f"levels agree to {last:.0e}", numbers)
    if off > 1e-3:
        centred, _ = slope(mean, EXACT)
        if centred < 0.5:
            return Finding("point mass", "broken", f"the mean of a state is off by {off:.1e} of the data", numbers)
        return Finding("point mass", "note", f"the mean of a state is off by {off:.1e}, {_falls(centred, len(mean))}", numbers)
    # EDM's churn inflates its noise by 0.3 % on purpose.
    if rate < 0.5 and last > 0.01:
        return Finding("point mass", "broken", f"the network is told a level that is {last:.1%} off that of the state", numbers)
    return Finding("point mass", "note", f"levels differ by {last:.1e}, {_falls(rate, len(level))}", numbers)


def gaussian(runs: Mapping[int, Coefficients]) -> Finding:
    """The law on data N(0, 0.3^2), which some samplers have exactly at any number of steps."""
    error = law_error(runs[min(runs)], 0.0, GAUSSIAN.stds[0])
    exact = "exact" if error <= EXACT else f"{error:.1e} of the standard deviation"
    return Finding("gaussian", "note", f"{exact} at {min(runs)} steps", {"error": error})


def rounding(runs: Mapping[int, Coefficients]) -> float:
    """The floor of errors that mean something: three times what the rows leave of data that are the same everywhere, and of D = 0.

    A sampler that does not reproduce these at all has no tables to judge the rounding by, and gets the floor of float32.
    """
    left = [error for run in runs.values() for error in (mean_error(run), start_error(run)) if error < 1e-3]
    return max(SMALLEST, 3 * max(left)) if left else UNKNOWN


def end_errors(sampler: Sampler, target: Target, levels: Levels, steps: int) -> Tensor:
    """Errors of the end points of `STARTS` starts on the exact solution, `(STARTS,)` rms over the event."""
    start, end = _solution(target, levels)
    x = sampler.run(target.denoised, start.clone(), levels, steps).double()
    return (x - end).flatten(1).square().mean(1).sqrt()


@cache
def _solution(target: Target, levels: Levels) -> tuple[Tensor, Tensor]:
    """Starts and ends of the exact solution."""
    u = torch.rand(STARTS, *EVENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01
    return target.quantile(u, levels.high), target.quantile(u, levels.low)


def drawn(sampler: Sampler, target: Target, levels: Levels, steps: int) -> Tensor:
    """Results from starts of the law at the first level, `(DRAWN,)`."""
    shape = (DRAWN // math.prod(EVENT), *EVENT)
    x = target.draw(shape, levels.high, torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    return sampler.run(target.denoised, x, levels, steps).double().flatten()


def sampler_levels(sampler: Sampler) -> Levels:
    """The levels of a whole run, as far down as the sampler goes."""
    if sampler.own_levels is not None:
        return Levels(sampler.own_levels[0], sampler.own_levels[-1])
    return WHOLE if sampler.exact_end else LAST_ABOVE_0


def own_steps(sampler: Sampler, steps: int) -> int:
    """The steps of a sampler whose levels are its own, else `steps`."""
    return steps if sampler.own_levels is None else len(sampler.own_levels) - 1


def _at_point(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.full_like(x, POINT)


def _order(rate: float) -> str:
    return "above rounding nowhere" if math.isinf(rate) else f"order {rate:.2f}"


def _falls(rate: float, runs: int) -> str:
    """How an error that is no fault depends on the number of steps."""
    if runs == 1:
        return "the error of so few calls, as its levels are fixed"
    return "which falls to rounding" if math.isinf(rate) else f"which falls with order {rate:.1f}"


def _against(claimed: int | None, found: float) -> Verdict:
    if claimed is None:
        return "note" if found > 0.5 else "broken"
    return judged(found >= claimed - SHORTFALL)


SMOOTH_AND_NARROW = {"order": SMOOTH, "narrow order": NARROW}
