"""Ways to read a network: which path, which prediction, which time and which scale of data.

A reading says how a network is called and what its output means. Its error is that of the noise prediction on noised data, beside the error of
the best linear guess:

    z = alpha x + sigma eps,    r(lambda) = E|eps_hat - eps|^2 / E|E*[eps | z] - eps|^2,    lambda = log(alpha/sigma).

r compares readings with different paths, predictions and scales: below 1 the network knows more of the data than their covariance. All
predictions and signs are read from one network call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.score_model import ScoreModel, as_output
from ..numerics.random import randn
from ..sde.base import SDE
from ..sde.prediction import Preconditioned, Prediction, convert, direction
from ..sde.vp import VPChain
from .linear_guess import LinearGuess

TimeFunction = Callable[[SDE, Tensor], Tensor]
# Errors of the linear guess at the levels that are tried: between those where nothing and where all is known of the noise.
LEVELS = (0.85, 0.7, 0.5, 0.3, 0.15, 0.05)
# Of log(alpha/sigma): a path whose nearest level is off by more does not reach a level.
REACHED = 0.1
# Of the noise prediction: the errors of two readings below this are both 0. A single reading's log-ratio is held to a range.
FLOOR, LOWEST, HIGHEST = 2e-3, -3.0, 4.0


@dataclass(frozen=True)
class Reading:
    """One way to read a network.

    Attributes:
        sde: the path that it was trained on.
        prediction: what it returns, times `sign`.
        time: the time that it is told.
        scale, shift: its data are scale x + shift.
        changes: how the reading differs from the declared one: the kind of the fault, and the remedy.
    """

    sde: SDE
    prediction: Prediction
    time: TimeFunction
    sign: int = 1
    scale: float = 1.0
    shift: float = 0.0
    changes: tuple[tuple[str, str], ...] = ()

    def changed(self, kind: str, remedy: str, **entries: Any) -> Reading:
        """The reading with other entries."""
        return replace(self, changes=(*self.changes, (kind, remedy)), **entries)

    def t(self, level: float) -> Tensor:
        """The time of a level, `(1,)`, inside the range where the network is called; of an infinite level, an end of it."""
        first = 1 / self.sde.steps if isinstance(self.sde, VPChain) else self.sde.t_min
        if math.isinf(level):
            return torch.tensor([first if level > 0 else self.sde.t_max], dtype=torch.float64)
        return self.sde.time(torch.tensor([level], dtype=torch.float64)).clamp(first, self.sde.t_max)


@dataclass(frozen=True)
class Noised:
    """Data with their noise, for every reading the same.

    Attributes:
        x, noise: `(n, *event)`.
        cond: conditions of the network, each `(n, ...)` or one for all.
        guess: the linear guess for the distribution of x, fitted to other data.
        levels: those of `LEVELS` that are looked at.
    """

    x: Tensor
    noise: Tensor
    cond: Mapping[str, Any]
    guess: LinearGuess
    levels: tuple[float, ...] = LEVELS

    def renewed(self, generator: Generator | None) -> Noised:
        """The same samples with new noise."""
        return replace(self, noise=randn(self.x.shape, generator, dtype=self.x.dtype, device=self.x.device))

    def rows(self, chosen: slice) -> Noised:
        """Some of the data."""
        cond = {
            name: v[chosen] if isinstance(v, Tensor) and v.ndim and len(v) == len(self.x) else v for name, v in self.cond.items()
        }
        return replace(self, x=self.x[chosen], noise=self.noise[chosen], cond=cond)

    def first(self, n: int) -> Noised:
        """The first n of the data."""
        return self.rows(slice(n))


def states(data: Noised, reading: Reading, t: Tensor) -> Tensor:
    """z = alpha (scale x + shift) + sigma eps."""
    return float(reading.sde.alpha(t)) * (reading.scale * data.x + reading.shift) + float(reading.sde.sigma(t)) * data.noise


@torch.no_grad()
def output(model: ScoreModel, data: Noised, reading: Reading, t: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The network's output and the state that it saw: noise of time `t` `(1,)`, and the time `told`, by default that of `t`."""
    z = states(data, reading, t)
    time = reading.time(reading.sde, t) if told is None else told
    time = time.to(z.device, torch.float32 if time.is_floating_point() else time.dtype).expand(len(z), *time.shape[1:])
    seen = z
    if isinstance(reading.prediction, Preconditioned):
        seen = float(reading.prediction.input_scale(reading.sde.alpha(t), reading.sde.sigma(t))) * z
    parameter = next(model.network.parameters(), z)
    return as_output(model.network(seen.to(parameter.dtype).clone(), time, **data.cond)), z


def error(out: Tensor, z: Tensor, data: Noised, reading: Reading, t: Tensor) -> Tensor:
    """|eps_hat - eps|^2 / d of each sample, `(n,)` float64; infinite where the prediction does not determine the noise."""
    alpha, sigma = reading.sde.alpha(t), reading.sde.sigma(t)
    own = direction(reading.sde, t, reading.prediction)
    c_z, c_out = convert(alpha, sigma, own, (torch.zeros_like(alpha), torch.ones_like(alpha)))
    eps = float(c_z) * z.double() + reading.sign * float(c_out) * out.double()
    return (eps - data.noise.double()).flatten(1).square().mean(1).nan_to_num(math.inf, math.inf)


def linear_error(data: Noised, reading: Reading, z: Tensor, t: Tensor) -> float:
    """The error of the linear guess on the same states."""
    guess = data.guess.of_affine(reading.scale, reading.shift)
    eps = guess.noise(z, float(reading.sde.alpha(t)), float(reading.sde.sigma(t)))
    return float((eps - data.noise.double()).square().mean())


def reached(data: Noised, reading: Reading) -> tuple[float, ...]:
    """The `LEVELS` that the path of a reading has; all where these are fewer than half."""
    found = tuple(
        wanted for wanted in LEVELS if _reaches(reading, data.guess.of_affine(reading.scale, reading.shift).level(wanted))
    )
    return found if len(found) >= len(LEVELS) / 2 else LEVELS


def _reaches(reading: Reading, level: float) -> bool:
    return abs(float(reading.sde.half_log_snr(reading.t(level))) - level) <= REACHED


def scores(model: ScoreModel, data: Noised, readings: list[Reading]) -> list[float]:
    """The mean of log r of readings that differ in prediction and sign alone, over the levels of the data.

    Infinite where the network cannot be called, and where the path of a changed reading reaches fewer than half of the levels. A level that it
    does not reach counts as one where the network is as good as the linear guess: a mean over fewer levels would not compare.
    """
    first = readings[0]
    guess = data.guess.of_affine(first.scale, first.shift)
    found = [list[float]() for _ in readings]
    missed = 0
    for wanted in data.levels:
        level = guess.level(wanted)
        t = first.t(level)
        if first.changes and not _reaches(first, level):
            missed += 1
            continue
        try:
            out, z = output(model, data, first, t)
        except Exception:  # a network may refuse a time in many ways
            return [math.inf] * len(readings)
        if out.shape != z.shape:
            return [math.inf] * len(readings)
        linear = linear_error(data, first, z, t)
        for logs, reading in zip(found, readings, strict=True):
            squared = float(error(out, z, data, reading, t).mean())
            if reading.changes and math.isinf(squared):
                logs.append(math.inf)  # no reading that could be used
                continue
            ratio = (squared + FLOOR) / (linear + FLOOR)
            logs.append(min(max(math.log(ratio), LOWEST), HIGHEST))
    return [sum(logs) / len(data.levels) if missed <= len(data.levels) / 2 else math.inf for logs in found]


def score_of_zero(data: Noised, reading: Reading) -> float:
    """The score of a network that returns 0, read in the same way. As a velocity, 0 may be as good as the linear guess."""
    guess = data.guess.of_affine(reading.scale, reading.shift)
    logs = []
    for wanted in data.levels:
        t = reading.t(guess.level(wanted))
        z = states(data, reading, t)
        squared = float(error(torch.zeros_like(z), z, data, reading, t).mean())
        logs.append(math.log((squared + FLOOR) / (linear_error(data, reading, z, t) + FLOOR)))
    return sum(logs) / len(logs)
