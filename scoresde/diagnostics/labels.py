"""Labels of time: noise of one level, and the network told the time of another. The right label has the lowest error.

A path that is not the one of the training shows here, as does a network that ignores its time, and on a chain an index that is off by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Generator, Tensor

from ..models.score_model import ScoreModel
from ..sde.vp import VPChain
from .readings import Noised, Reading, error, output

# Shifts of the label that are tried, in half the log-SNR.
SHIFTS = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
# Half the width of the parabola through three labels, and the largest shift of a sound network. Twenty networks, of others and after short
# trainings, have shifts up to 0.093. Betas that are 1.5 times too large shift the label by 0.24 and more on the five chains among them.
STEP, LARGEST_SHIFT = 0.5, 0.15
# Relative change of the output over all labels, below which the network ignores its time.
BLIND = 0.02
# Shares of a chain at which its index is tested, and the least index. The shift of the best index is off by 1 beyond 0.6.
INDICES, LEAST_INDEX, SHIFT = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1), 5, 0.6
# Steps of Newton's method, the distance within which a parabola serves, and the result where the index is right.
NEWTON, NEAR, NO_SHIFT = 8, 1.5, (0, 0.0)
# Least numbers of noise of this test: errors of neighbouring labels are close, and events may have few coordinates.
NUMBERS = 20_000


def _told_errors(model: ScoreModel, data: Noised, reading: Reading, t: Tensor, told: Iterable[Tensor]) -> list[Tensor]:
    """Errors `(n,)` on noise of the time `t` with the labels of other times; infinite where the network refuses one."""

    def told_error(other: Tensor) -> Tensor:
        try:
            out, z = output(model, data, reading, t, reading.time(reading.sde, other))
        except Exception:
            return torch.full((len(data.x),), math.inf, dtype=torch.float64)
        return error(out, z, data, reading, t)

    return [told_error(other) for other in told]


def best_shift(model: ScoreModel, data: Noised, reading: Reading) -> tuple[float, float]:
    """The mean log-gain of the best other label over the levels, and its mean shift in log(alpha/sigma)."""
    logs = dict.fromkeys((0.0, *SHIFTS), 0.0)
    for wanted in data.levels:
        t = reading.t(data.guess.level(wanted))
        level = float(reading.sde.half_log_snr(t))
        for shift, squared in zip(
            logs, _told_errors(model, data, reading, t, (reading.t(level + shift) for shift in logs)), strict=True
        ):
            logs[shift] += math.log(float(squared.mean()) + 1e-12) / len(data.levels)
    best = min(logs, key=lambda shift: logs[shift])
    return logs[0.0] - logs[best], best


def label_shift(model: ScoreModel, data: Noised, reading: Reading, generator: Generator | None) -> float:
    """The shift of the label in log(alpha/sigma) that fits best, 0 where it is small or not known well.

    As for `index_shift`, a parabola through the errors with labels `STEP` below, at and above the level has its vertex at the best label. The
    errors of all levels and draws are added up: levels at which the label matters little have little weight.
    """
    before, after = torch.zeros(2, len(data.x), dtype=torch.float64)
    triples = [triple for wanted in data.levels if (triple := _around(reading, data.guess.level(wanted))) is not None]
    for _ in range(math.ceil(NUMBERS / data.x.numel())):
        data = data.renewed(generator)
        for at in triples:
            lower, own, higher = (e.cpu() for e in _told_errors(model, data, reading, at[1], at))
            before += (lower - own) / own.mean()
            after += (higher - own) / own.mean()
    vertex, stderr = (STEP * number for number in _vertex(before, after))
    return vertex if abs(vertex) > LARGEST_SHIFT + 3 * stderr else 0.0


def _around(reading: Reading, level: float) -> list[Tensor] | None:
    """The times `STEP` below, at and above a level; None beyond an end of the path, or between the steps of a chain."""
    shifts = (-STEP, 0.0, STEP)
    at = [reading.t(level + shift) for shift in shifts]
    found = [float(reading.sde.half_log_snr(t)) - level for t in at]
    return at if max(abs(f - shift) for f, shift in zip(found, shifts, strict=True)) <= 0.1 * STEP else None


def ignores_time(model: ScoreModel, data: Noised, reading: Reading) -> bool:
    """Whether no label changes the output by more than 2 %."""
    changes = list[float]()
    for wanted in data.levels:
        t = reading.t(data.guess.level(wanted))
        own, _ = output(model, data, reading, t)
        for level in (-math.inf, 0.0, math.inf):
            other, _ = output(model, data, reading, t, reading.time(reading.sde, reading.t(level)))
            changes.append(float((other - own).norm() / own.norm().clamp(min=1e-30)))
    return max(changes) < BLIND


def index_shift(model: ScoreModel, data: Noised, reading: Reading, generator: Generator | None) -> tuple[int, float]:
    """The number to add to the index of the label, where the same number fits better at all small indices, else 0; and its spread.

    A parabola through the errors with the labels c - 1, c and c + 1 past the index has its vertex at the best label. A sample's error is larger
    by b with the label before and by a with the label after, added up over draws of noise and over indices:

        v = (sum b - sum a) / (2 (sum b + sum a)),    stderr(v) = (sum (b - a - 2 v (b + a))^2)^(1/2) / (2 (sum b + sum a)).

    c <- c + v from c = 0 is Newton's method, in steps of at most 2 % of the chain. The draws of one sample are one term of the standard error:
    a sample of other data would have another best label. A wrong index is off by the same number everywhere, which the parabolas of single
    indices have to show. The errors of a network are not. Betas that are too large by a factor shift all labels by the same log(alpha/sigma),
    and not by the same number: then the path is wrong, and not the index. The spread is that of the numbers over that of the shifts in
    log(alpha/sigma), each over its mean. A path explains the shifts as well where it is near 1, and above 1 they are no index.
    """
    assert isinstance(reading.sde, VPChain)
    tested = sorted({max(LEAST_INDEX, round(share * reading.sde.steps)) for share in INDICES})
    longest = max(1, round(INDICES[0] * reading.sde.steps))
    offset = 0
    for _ in range(NEWTON):
        indices = [index for index in tested if index + offset >= 1]
        if 2 * len(indices) < len(tested):
            return NO_SHIFT
        before, after = _beside(model, data, reading, indices, offset, generator)
        vertex, stderr = _vertex(before.sum(0), after.sum(0))
        if math.isnan(vertex) or (offset == 0 and abs(vertex) <= max(SHIFT, 0.5 + 2 * stderr)):
            return NO_SHIFT
        if abs(vertex) <= NEAR:
            break
        offset += round(max(-longest, min(longest, vertex)))
    else:
        return NO_SHIFT
    shift = offset + round(vertex)
    direction = math.copysign(1, shift)
    single = [(offset + _vertex(b, a)[0]) * direction for b, a in zip(before, after, strict=True)]
    if 2 * sum(0.5 * abs(shift) < v < 2 * abs(shift) for v in single) < len(indices):
        return NO_SHIFT
    fitting = [(index, v) for index, v in zip(indices, single, strict=True) if v > 0]
    of_index = [v for _, v in fitting]
    of_path = [abs(_level(reading, index + direction * v) - _level(reading, index)) for index, v in fitting]
    spread = _spread(of_index) / max(_spread(of_path), 1e-12)
    return (shift, spread) if spread <= 1 else NO_SHIFT


def _beside(
    model: ScoreModel, data: Noised, reading: Reading, indices: Sequence[int], offset: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """By how much the errors of the labels before and after exceed those of the label `offset` past each index.

    `(indices, n)` each, in errors of that label.
    """
    assert isinstance(reading.sde, VPChain)
    before, after = torch.zeros(2, len(indices), len(data.x), dtype=torch.float64)
    for _ in range(math.ceil(NUMBERS / data.x.numel())):
        data = data.renewed(generator)
        for i, index in enumerate(indices):
            noised, *told = (
                torch.tensor([(index + 1 + shift) / reading.sde.steps], dtype=torch.float64)
                for shift in (0, offset - 1, offset, offset + 1)
            )
            lower, own, higher = (e.cpu() for e in _told_errors(model, data, reading, noised, told))
            before[i] += (lower - own) / own.mean()
            after[i] += (higher - own) / own.mean()
    return before, after


def _level(reading: Reading, index: float) -> float:
    """log(alpha/sigma) at an index of a chain, counted from 0."""
    assert isinstance(reading.sde, VPChain)
    return float(reading.sde.half_log_snr(min(max((index + 1) / reading.sde.steps, 0.0), 1.0)))


def _spread(values: Sequence[float]) -> float:
    """The standard deviation over the mean."""
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.std() / found.mean()) if len(values) > 1 else 0.0


def _vertex(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The vertex of the parabola and its standard error; NaN where the parabola has no minimum."""
    curvature = float(before.sum() + after.sum())
    if not math.isfinite(curvature) or curvature <= 0:
        return math.nan, math.nan
    vertex = float(before.sum() - after.sum()) / (2 * curvature)
    return vertex, float((before - after - 2 * vertex * (before + after)).square().sum().sqrt()) / (2 * curvature)
