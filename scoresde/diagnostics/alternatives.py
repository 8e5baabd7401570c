"""Other ways to read a network, each with one more change: another prediction, sign, time, path, or scale of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..models.score_model import ScoreModel
from ..models.times import noise_scale, remaining
from ..sde.base import SDE
from ..sde.families import EDM, VESDE, RectifiedFlow
from ..sde.prediction import Preconditioned, Prediction
from ..sde.vp import VPSDE, VPChain
from .linear_guess import LinearGuess
from .readings import Noised, Reading, TimeFunction, scores

PREDICTIONS: tuple[Prediction, ...] = ("noise", "data", "velocity", "score")
# Steps of a chain, where the declared path is none.
STEPS = 1000
# log(f std(x)) of the factors f that are tried first: networks see data of standard deviations near 1.
COARSE = tuple(k * math.log(2) for k in range(-2, 3))
# Two changes are tried in this order. A denoiser is a change of both the prediction and the time.
ORDER = {"scale": 0, "schedule": 1, "time": 2, "prediction": 2, "direction": 3}


def changed(reading: Reading, guess: LinearGuess) -> Iterator[Reading]:
    """Readings with one more change of what the network is given."""
    yield from times(reading)
    yield from paths(reading)
    yield from scales(reading, guess)


def later(first: Reading, second: Reading) -> bool:
    """Two changes of different kinds, in one order of the two."""
    before, after = (ORDER[reading.changes[-1][0]] for reading in (first, second))
    return before < after


def predictions(reading: Reading) -> Iterator[list[Reading]]:
    """The reading with other predictions and signs, in lists of one network call each."""
    own = _signs(reading)
    others = [
        signed
        for name in PREDICTIONS
        if name != reading.prediction
        for signed in _signs(reading.changed("prediction", f"prediction={name!r}", prediction=name))
    ]
    # A preconditioned network sees a scaled input, which is another call.
    yield from [own, others] if isinstance(reading.prediction, Preconditioned) else [own + others]


def _signs(reading: Reading) -> list[Reading]:
    return [reading, reading.changed("sign", "negate the network's output", sign=-reading.sign)]


def times(reading: Reading) -> Iterator[Reading]:
    """The reading with other times."""
    steps = reading.sde.steps if isinstance(reading.sde, VPChain) else STEPS
    try:
        first, last = reading.time(reading.sde, reading.t(math.inf)), reading.time(reading.sde, reading.t(-math.inf))
    except Exception:  # a function of the user's own for another path, or the index of a path that is no chain
        return

    def reverse(sde: SDE, t: Tensor) -> Tensor:
        return first + last - reading.time(sde, t)

    yield reading.changed("direction", "time runs the other way: tell the network the time of the other end", time=reverse)
    named: dict[str, TimeFunction] = {
        "time='t'": lambda sde, t: t,
        "time=models.times.remaining, which is 1 - t": remaining,
        f"time='index', from 0 to {steps - 1}": partial(_index, steps=steps, factor=1.0),
        f"time='integer_index', for a table of {steps} times": partial(_whole, steps=steps),
        f"time is the index divided by {steps}": partial(_index, steps=steps, factor=1 / steps),
        "time='half_log_snr'": lambda sde, t: sde.half_log_snr(t),
        "time='edm', which is log(sigma/alpha)/4": lambda sde, t: -0.25 * sde.half_log_snr(t),
        "time is log(sigma/alpha)": lambda sde, t: -sde.half_log_snr(t),
        "time=models.times.noise_scale, which is sigma/alpha": noise_scale,
    }
    if steps != 1000:
        named |= {
            "time is the index divided by 1000": partial(_index, steps=steps, factor=1e-3),
            f"time is the index times 1000/{steps}": partial(_index, steps=steps, factor=1000 / steps),
            f"time is the index times {steps}/1000": partial(_index, steps=steps, factor=steps / 1000),
        }
    if isinstance(reading.prediction, Preconditioned):
        denoiser = (
            "the network is a denoiser D(z, sigma): interop.formats.edm(network), which is prediction='data' and time='sigma'"
        )
        yield reading.changed("prediction", denoiser, prediction="data", time=noise_scale)
    for remedy, time in named.items():
        yield reading.changed("time", remedy, time=time)


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


def scales(reading: Reading, guess: LinearGuess) -> Iterator[Reading]:
    """The reading with data of other scales."""
    mean, std = guess.entries()
    for text, scale, shift in (
        ("x / 127.5 - 1", 1 / 127.5, -1.0),
        ("x / 255", 1 / 255, 0.0),
        ("2 x - 1", 2.0, -1.0),
        ("(x + 1) / 2", 0.5, 0.5),
        ("127.5 (x + 1)", 127.5, 127.5),
        ("x - 0.5", 1.0, -0.5),
        (f"({_less(mean)}) / {std:.3g}", 1 / std, -mean / std),
    ):
        yield reading.changed("scale", f"the network's data are {text}", scale=scale, shift=shift)


def fitted_scales(model: ScoreModel, data: Noised, reading: Reading) -> Iterator[Reading]:
    """The reading with the factors f whose scores are lowest, for data f x and for data f (x - m), m the mean of x.

    The score of log f falls towards the right factor from both sides: a coarse search finds the valley, and Brent's method its bottom.
    """
    from scipy.optimize import minimize_scalar  # half a second, in every import of scoresde

    mean, std = data.guess.entries()
    others = tuple(change for change in reading.changes if change[0] != "scale")

    def scaled(log_f: float, m: float) -> Reading:
        f = math.exp(log_f) / std
        said = f"({_less(m)}) * {f:.2g}" if m else f"x * {f:.2g}"
        return replace(reading, scale=f, shift=-f * m, changes=(("scale", f"the network's data are {said}"), *others))

    for m in dict.fromkeys((0.0, mean)):

        def score(log_f: float, m: float = m) -> float:
            return scores(model, data, [scaled(log_f, m)])[0]

        nearest = min(COARSE, key=score)
        width = COARSE[1] - COARSE[0]
        found = minimize_scalar(
            score, bounds=(nearest - width, nearest + width), method="bounded", options={"xatol": 0.03, "maxiter": 8}
        )
        yield scaled(float(found.x), m)


def _less(m: float) -> str:
    return f"x {'-' if m > 0 else '+'} {abs(m):.3g}"


def _index(sde: SDE, t: Tensor, *, steps: int, factor: float) -> Tensor:
    return (t * steps - 1) * factor


def _whole(sde: SDE, t: Tensor, *, steps: int) -> Tensor:
    return (t * steps - 1).round().long()


def _linear(first: float, last: float, steps: int) -> SDE:
    return VPSDE.from_betas(torch.linspace(first, last, steps, dtype=torch.float64))
