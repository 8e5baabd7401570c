"""Ways to read a network: which path, which prediction, which time and which scale of data.

A reading says how a network is called and what its output means. Its error is that of the noise prediction on noised data, beside the error of
the best linear guess:

    z = alpha x + sigma eps,    r(lambda) = E|eps_hat - eps|^2 / E|E*[eps | z] - eps|^2,    lambda = log(alpha/sigma).

r compares readings with different paths, predictions and scales: below 1 the network knows more of the data than their covariance. All
predictions and signs are read from one network call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.score_model import ScoreModel, as_output
from ..models.times import noise_scale, remaining
from ..numerics.random import randn
from ..sde.base import SDE
from ..sde.families import EDM, VESDE, RectifiedFlow
from ..sde.prediction import Preconditioned, Prediction, convert, direction
from ..sde.vp import VPSDE, VPChain
from .linear_guess import LinearGuess

TimeFunction = Callable[[SDE, Tensor], Tensor]
# Errors of the linear guess at the levels that are tried: between those where nothing and where all is known of the noise.
LEVELS = (0.85, 0.7, 0.5, 0.3, 0.15, 0.05)
# Of log(alpha/sigma): a path whose nearest level is off by more does not reach a level.
REACHED = 0.1
# Steps of a chain, where the declared path is none.
STEPS = 1000
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

    Infinite where the network cannot be called. A changed reading is scored at the levels that its path reaches, and is infinite where these
    are fewer than half: at the end of a path even a network that returns 0 is as good as the linear guess.
    """
    first = readings[0]
    guess = data.guess.of_affine(first.scale, first.shift)
    found = [list[float]() for _ in readings]
    for wanted in data.levels:
        level = guess.level(wanted)
        t = first.t(level)
        if first.changes and not _reaches(first, level):
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
    return [sum(logs) / len(logs) if len(logs) >= len(data.levels) / 2 else math.inf for logs in found]


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


# --- alternatives ---------------------------------------------------------------------------------------------------------


def predictions(reading: Reading) -> Iterator[Reading]:
    """The reading with other predictions and signs. All of them are of one network call."""
    yield reading
    yield reading.changed("sign", "negate the network's output", sign=-reading.sign)
    if isinstance(reading.prediction, Preconditioned):
        return  # its input is scaled, which is another call
    for name in ("noise", "data", "velocity", "score"):
        if name != reading.prediction:
            other = reading.changed("prediction", f"prediction={name!r}", prediction=name)
            yield other
            yield other.changed("sign", "negate the network's output", sign=-1)


def times(reading: Reading) -> Iterator[Reading]:
    """The reading with other times."""
    steps = reading.sde.steps if isinstance(reading.sde, VPChain) else STEPS
    try:
        first, last = reading.time(reading.sde, reading.t(math.inf)), reading.time(reading.sde, reading.t(-math.inf))
    except Exception:  # a function of the user's own for another path, or the index of a path that is no chain
        return
    whole = not first.is_floating_point()

    def reverse(sde: SDE, t: Tensor) -> Tensor:
        return first + last - reading.time(sde, t)

    yield reading.changed("direction", "time runs the other way: tell the network the time of the other end", time=reverse)
    named: dict[str, TimeFunction] = {
        "time='t'": lambda sde, t: t,
        "time=models.times.remaining, which is 1 - t": remaining,
        f"time='index', from 0 to {steps - 1}": partial(_index, steps=steps, offset=-1.0, factor=1.0),
        f"time is the index divided by {steps}": partial(_index, steps=steps, offset=-1.0, factor=1 / steps),
        "time='half_log_snr'": lambda sde, t: sde.half_log_snr(t),
        "time='edm', which is log(sigma/alpha)/4": lambda sde, t: -0.25 * sde.half_log_snr(t),
        "time is log(sigma/alpha)": lambda sde, t: -sde.half_log_snr(t),
        "time=models.times.noise_scale, which is sigma/alpha": noise_scale,
    }
    if isinstance(reading.prediction, Preconditioned):
        denoiser = (
            "the network is a denoiser D(z, sigma): interop.formats.edm(network), which is prediction='data' and time='sigma'"
        )
        yield reading.changed("prediction", denoiser, prediction="data", time=noise_scale)
    for remedy, time in named.items():
        yield reading.changed("time", remedy, time=partial(_whole, time=time) if whole else time)


def paths(reading: Reading) -> Iterator[Reading]:
    """The reading with other paths, told the time by the declared function."""
    steps = reading.sde.steps if isinstance(reading.sde, VPChain) else STEPS
    scale = 1000 / steps
    made: dict[str, SDE] = {
        "VPSDE.cosine()": VPSDE.cosine(steps),
        "VPSDE()": VPSDE(),
        "RectifiedFlow()": RectifiedFlow(),
        "EDM()": EDM(),
        "VESDE()": VESDE(),
    }
    if steps > 20:
        made["the linear chain of DDPM, betas from 1e-4 to 0.02"] = _linear(scale * 1e-4, scale * 0.02, steps)
        made["the scaled linear chain of Stable Diffusion"] = VPSDE.from_betas(
            torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
        )
    if steps != 1000:
        made["a chain of this length with betas from 1e-4 to 0.02"] = _linear(1e-4, 0.02, steps)
    for name, sde in made.items():
        yield reading.changed("schedule", f"the path is {name}, or one near it", sde=sde)


def scales(reading: Reading, x: Tensor) -> Iterator[Reading]:
    """The reading with data of other scales."""
    std = float(x.double().std())
    for text, scale, shift in (
        ("x / 127.5 - 1", 1 / 127.5, -1.0),
        ("x / 255", 1 / 255, 0.0),
        ("2 x - 1", 2.0, -1.0),
        ("(x + 1) / 2", 0.5, 0.5),
        ("127.5 (x + 1)", 127.5, 127.5),
        ("x - 0.5", 1.0, -0.5),
        (f"(x {-float(x.mean()):+.3g}) / {std:.3g}", 1 / max(std, 1e-30), -float(x.mean()) / max(std, 1e-30)),
    ):
        yield reading.changed("scale", f"the network's data are {text}", scale=scale, shift=shift)


def _index(sde: SDE, t: Tensor, *, steps: int, offset: float, factor: float) -> Tensor:
    return (t * steps + offset) * factor


def _whole(sde: SDE, t: Tensor, *, time: TimeFunction) -> Tensor:
    return time(sde, t).round().long()


def _linear(first: float, last: float, steps: int) -> SDE:
    return VPSDE.from_betas(torch.linspace(first, last, steps, dtype=torch.float64))
