"""Is this network what it is said to be? `check` reads a network in other ways and says which way fits the data best.

The measurements, on data with noise of several levels, against the best linear guess (`readings`):

- the declared reading, beside a network that returns 0;
- other predictions and signs, times, paths and scales of data, one change at a time, and two where one is not enough;
- noise of one level with the label of another (`labels`);
- samples of DDIM in 30 steps against the range, the mean and the spread of the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.base import Model
from ..models.score_model import ScoreModel
from ..numerics.inputs import as_state
from ..numerics.random import as_generator, randn
from ..sde.base import MOST_SIGNAL, NO_SIGNAL, SDE
from ..sde.families import RectifiedFlow
from ..sde.linear import LinearSDE
from ..sde.vp import VPChain
from .alternatives import changed, fitted_scales, later, predictions
from .labels import NUMBERS, best_shift, ignores_time, index_shift, label_shift
from .linear_guess import LinearGuess
from .range import SampleRange, sample_range
from .readings import (
    Noised,
    Reading,
    error,
    linear_error,
    output,
    reached,
    score_of_zero,
    scores,
)
from .verdict import RATIO, REMEDY, SOUND, Check, Level, shortcoming

# Data of the linear guess, of the errors, and of the first look at other readings.
FITTED, TESTED, LOOKED = 1024, 64, 24
LEAST = 32
# Of the mean log-ratio: another reading is better by this for each change, a reading fits below this.
BETTER, FITS = 0.1, 0.15
# The first, where fewer samples than `LOOKED` tell.
BETTER_OF_FEW = 0.3
# A reading replaces one that was tried before if it is better by the first, and by the second for each change more.
EARLIER, SIMPLER = 0.02, 0.05
# Readings that are compared on more data.
CLOSEST = 8
# Spread of the shifts of the index over that of the shifts of the path, below which the index is wrong and not the path. Planted indices that
# are off by 2 to 15 have up to 0.52, and betas times 0.9 have 0.69.
CLEARER = 0.6
# Least shift of the index above one, of the steps of a chain. Short trainings in the plane move the labels by up to 0.7 %.
LEAST_SHARE = 0.01
# Mean log-gain of the best other label, above which the path is another one.
GAIN = 0.08
STEPS = 30
# Samples whose spread or mean is beyond these are not those of the data.
NARROWEST, WIDEST, DRIFT, OUTSIDE = 0.5, 1.6, 0.5, 0.05


def check(model: Model, x: Tensor, generator: Generator | None = None, **cond: Any) -> Check:
    """Check that a network is what its `ScoreModel` says: prediction, sign, time, schedule, scale of the data, and index.

    The linear guess is fitted to at most 1,024 of the data, and the errors are measured on 64 others. It takes some 1,000 to 10,000 network
    calls on single samples.

    Args:
        model: a `ScoreModel` on a path of scalars.
        x: data like those of the training, `(n, *event)`: 32 or more, 300 or more are better.
        generator: the source of the noise.
        **cond: conditions of the network, `(n, ...)` or one for all.

    Raises:
        TypeError: `model` is no `ScoreModel`, `x` holds no real numbers, or conditions are given as a dict.
        ValueError: fewer than 32 data, or a path with blocks.
    """
    if not isinstance(model, ScoreModel):
        raise TypeError(f"check reads the network of a ScoreModel, got {type(model).__name__}: check the model inside")
    if isinstance(cond.get("cond"), dict):
        raise TypeError("conditions are keywords here: check(model, x, **cond)")
    if isinstance(model.sde, LinearSDE):
        raise ValueError(f"check knows paths of scalars, and {model.sde!r} has blocks")
    x = as_state("x", x).to(model.device)
    if len(x) < LEAST:
        raise ValueError(f"check needs {LEAST} data or more, got {len(x)}")
    generator = as_generator(generator)
    tested = min(TESTED, len(x) // 4)
    guess = LinearGuess.of(x[:-tested][-FITTED:])
    data, many = (_noised(x, n, generator, cond, guess) for n in (tested, max(tested, math.ceil(NUMBERS / x[0].numel()))))
    declared = Reading(model.sde, model.prediction, model._network_time)
    # Each by itself: in a model of a network in evaluation mode the model may be new, and so in training mode.
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _check(model, declared, data, many, x, generator)
    finally:
        for module, training in modes.items():
            module.training = training


def _noised(x: Tensor, n: int, generator: Generator | None, cond: dict[str, Any], guess: LinearGuess) -> Noised:
    """The last n of the data, or all, with their noise."""
    own = {name: v[-n:] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for name, v in cond.items()}
    return Noised(x[-n:], randn(x[-n:].shape, generator, dtype=x.dtype, device=x.device), own, guess)


def _check(model: ScoreModel, declared: Reading, data: Noised, many: Noised, x: Tensor, generator: Generator | None) -> Check:
    data, many = (replace(each, levels=reached(each, declared)) for each in (data, many))
    few = data.first(LOOKED)
    try:
        levels = tuple(_level(model, data, declared, wanted) for wanted in data.levels)
    except Exception as problem:
        said = f"The network cannot be called as it is declared: {type(problem).__name__}: {str(problem).splitlines()[0][:200]}."
        best, score = _best(model, few, many, declared)
        if not _fits(many, best, score):
            return Check(("call",), (said,), (), None)
        return Check(("call", *_kinds(best)), (f"{said} It can be called with: {_remedy(best)}.",), (), None)
    samples = _samples(model, declared, many, x)
    found = _faults(model, declared, data, few, many, generator) or _no_signal(model)
    note, reason = _signal_left(model.sde), _unlike(samples)
    if not found and reason:
        short = note or shortcoming(levels)
        remedy = RATIO * (model.prediction in ("noise", "score")) + REMEDY * (not short)
        found = [("samples", f"{short or SOUND} Samples of DDIM are not like the data: {reason}.{remedy}")]
    return Check(tuple(kind for kind, _ in found), tuple(dict.fromkeys(words for _, words in found)), levels, samples, note)


def _faults(
    model: ScoreModel, declared: Reading, data: Noised, few: Noised, many: Noised, generator: Generator | None
) -> list[tuple[str, str]]:
    """Kinds and sentences: of another reading that fits better, of the labels, or of a network that no reading fits."""
    own = scores(model, many, [declared])[0]
    best, score = _best(model, few, many, declared)
    better = BETTER if len(few.x) >= LOOKED else BETTER_OF_FEW
    if score < own - better * len(best.changes) and _fits(many, best, score):
        part = math.exp(score - own)
        words = (
            f"Another reading of the network fits the data better: {_remedy(best)}. The error is then {part:.2g} times that now."
        )
        return [(kind, words) for kind in _kinds(best)]
    if ignores_time(model, data, declared):
        words = (
            "The output hardly depends on the time: the network may see t in [0, 1] where it expects 0 to 1000, or a wrapper may hide the "
            "time convention from it."
        )
        return [("time ignored", words)]
    if isinstance(declared.sde, VPChain) and (found := _other_index(model, many, declared, generator)):
        return found
    gain, shift = best_shift(model, data, declared)
    if gain > GAIN:
        return [("schedule", _other_path(shift))]
    if own > FITS:
        words = (
            f"The network's error is {math.exp(own):.2g} times that of the best linear guess, and no other reading that is known fits better. "
            "Is it trained, in evaluation mode, and on these data?"
        )
        return [("training", words)]
    if shift := label_shift(model, many, declared, generator):
        return [("schedule", _other_path(shift))]
    return []


def _other_index(model: ScoreModel, data: Noised, declared: Reading, generator: Generator | None) -> list[tuple[str, str]]:
    """A shift of the index, where two draws of the noise agree on it, within a half where it is large."""
    assert isinstance(declared.sde, VPChain)
    first, spread = index_shift(model, data, declared, generator)
    if not first:
        return []
    second, its_spread = index_shift(model, data, declared, generator)
    if abs(first - second) > 0.5 * min(abs(first), abs(second)):
        return []
    offset = round((first + second) / 2)
    # One is the usual mistake. The errors of a short training move the labels by more.
    if abs(offset) > 1 and (abs(offset) < LEAST_SHARE * declared.sde.steps or max(spread, its_spread) >= CLEARER):
        return []
    told = f"off by {abs(offset)}: tell the network the index {offset:+d}"
    if max(spread, its_spread) < CLEARER:
        return [("index", f"The index of the chain is {told}.")]
    words = f"Labels of small times are off. The betas are not those of the training, or the index of the chain is {told}."
    return [("schedule", words), ("index", words)]


def _other_path(shift: float) -> str:
    return (
        f"Noise of one level fits the label of another better, by {shift:+.2g} in log(alpha/sigma): the path is not the one of the training. "
        "Compare its betas, or its log-SNR, with those of the training."
    )


def _no_signal(model: ScoreModel) -> list[tuple[str, str]]:
    """Whether the prediction says nothing of the data at t = 1."""
    alpha, sigma = float(model.sde.alpha(1.0)), float(model.sde.sigma(1.0))
    if model.prediction not in ("noise", "score") or alpha >= NO_SIGNAL * sigma:
        return []
    words = f"alpha(1)={alpha:.1g}: where no signal is left, a {model.prediction} prediction does not determine the data. Train a velocity."
    return [("prediction", words)]


def _signal_left(sde: SDE) -> str:
    """A sentence where the path does not end in noise."""
    alpha = float(sde.alpha(1.0))
    if alpha <= MOST_SIGNAL * sde.prior_std:
        return ""
    return (
        f"The path does not end in noise: alpha(1)={alpha:.2g}. Samples start from noise alone, and scoresde.prior_mismatch(sde, x) says what "
        "that costs."
    )


def _level(model: ScoreModel, data: Noised, reading: Reading, wanted: float) -> Level:
    """Errors of the network as it is declared."""
    t = reading.t(data.guess.level(wanted))
    out, z = output(model, data, reading, t)
    squared = float(error(out, z, data, reading, t).mean())
    return Level(float(t), float(reading.sde.half_log_snr(t)), squared, linear_error(data, reading, z, t))


def _best(model: ScoreModel, few: Noised, many: Noised, declared: Reading) -> tuple[Reading, float]:
    """The reading with the lowest score, among those with one change, and with two where one is not enough."""
    one = list(changed(declared, few.guess))
    found = _scored(model, few, [declared, *one, *fitted_scales(model, few, declared)])
    _, lowest = _lowest(found)
    # A time at half its rate fits nearly as well as another path: the closest readings need more data.
    close = [reading for reading, score in found if _cost(reading, score) < lowest + BETTER]
    best, _ = _lowest([(reading, scores(model, many, [reading])[0]) for reading in close[:CLOSEST]])
    score = scores(model, many, [best])[0]
    if score < FITS:
        return best, score
    fewer = few.first(max(8, len(few.x) // 2))
    two = (second for first in one for second in changed(first, few.guess) if later(first, second))
    other, _ = _lowest(_scored(model, fewer, two))
    if "scale" in _kinds(other):
        other, _ = _lowest(_scored(model, fewer, [other, *fitted_scales(model, fewer, other)]))
    its_score = scores(model, many, [other])[0]
    return (other, its_score) if its_score < score - BETTER else (best, score)


def _scored(model: ScoreModel, data: Noised, readings: Iterable[Reading]) -> list[tuple[Reading, float]]:
    """The readings with all their predictions and signs, and their scores."""
    calls = (alike for reading in readings for alike in predictions(reading))
    return [found for alike in calls for found in zip(alike, scores(model, data, alike), strict=True)]


def _cost(reading: Reading, score: float) -> float:
    """The score, where each change costs `SIMPLER`: simple reasons come before exotic ones."""
    return score + SIMPLER * len(reading.changes)


def _lowest(found: list[tuple[Reading, float]]) -> tuple[Reading, float]:
    """The reading of the lowest cost, and that cost."""
    best, lowest = found[0][0], _cost(*found[0])
    for reading, score in found[1:]:
        if (cost := _cost(reading, score)) < lowest - EARLIER:
            best, lowest = reading, cost
    return best, lowest


def _remedy(reading: Reading) -> str:
    said = ", and ".join(remedy for _, remedy in reading.changes)
    flow = (
        isinstance(reading.sde, RectifiedFlow)
        and reading.sign == -1
        and {"time", "direction"} & {kind for kind, _ in reading.changes}
    )
    return f"{said}: interop.formats.velocity(network, direction='noise_to_data') does both" if flow else said


def _kinds(reading: Reading) -> tuple[str, ...]:
    return tuple(kind for kind, _ in reading.changes)


def _fits(data: Noised, reading: Reading, score: float) -> bool:
    """Whether a changed reading is right: about as good as the linear guess, and better than a network that returns 0."""
    return bool(reading.changes) and score < min(FITS, score_of_zero(data, reading) - BETTER)


@torch.no_grad()
def _samples(model: ScoreModel, reading: Reading, data: Noised, x: Tensor) -> SampleRange | None:
    """DDIM from the prior, uniform in lambda: z_s = alpha_s E[x | z_t] + sigma_s E[eps | z_t]. None where the samples are not finite."""
    sde = reading.sde
    first, last = (sde.half_log_snr(reading.t(level)) for level in (-math.inf, math.inf))
    levels = torch.linspace(float(first), float(last), STEPS + 1, dtype=torch.float64)
    z = sde.prior_std * data.noise
    for t, s in pairwise(reading.t(float(level))[0] for level in levels):
        noise = model.noise(z, t, **data.cond)
        mean = (z - float(sde.sigma(t)) * noise) / float(sde.alpha(t))
        z = float(sde.alpha(s)) * mean + float(sde.sigma(s)) * noise
    return sample_range(z, x) if bool(z.isfinite().all()) else None


def _unlike(samples: SampleRange | None) -> str:
    """What is wrong with the samples, empty where nothing is."""
    wrong = (
        ("they are not finite",)
        if samples is None
        else (
            f"the standard deviation of the samples is {samples.spread:.2g} times that of the data"
            * (not NARROWEST <= samples.spread <= WIDEST),
            f"the mean of the samples is off by {samples.drift:+.2g} standard deviations" * (abs(samples.drift) > DRIFT),
            f"{samples.outside:.0%} of the coordinates leave the range of the data" * (samples.outside > OUTSIDE),
        )
    )
    return "; ".join(filter(None, wrong))


__all__ = ["Check", "Level", "check"]
