"""How to train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from ..losses.times import TIME_SAMPLERS, Adaptive, TimeSampler
from ..losses.weightings import WEIGHTINGS, Weighting, WeightingLike
from ..numerics.brief import Brief
from ..numerics.inputs import as_count, as_flag, as_function, as_number, as_one_of
from ..numerics.keywords import explained_keywords

# From 1 to 0 over the run.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "linear": lambda part: 1 - part,
}

# Entries that version 0.1 had not.
LATER = {"label_dropout", "float16", "decay", "betas", "snapshot_every", "average_lengths"}


@explained_keywords(
    lr="the rate is learning_rate=",
    epochs="the number of optimiser steps is iterations=",
    steps="the number of optimiser steps is iterations=",
    ema_decay="the decay of the average is ema=",
    amp="mixed precision is bfloat16=True or float16=True",
    grad_clip="the largest norm of the gradient is clip=",
)
@dataclass(frozen=True, repr=False)
class Recipe(Brief):
    """How to train.

    Attributes:
        iterations: optimiser steps.
        batch_size: samples in each optimiser step, those of all processes and micro-batches together.
        learning_rate: the peak of the learning rate.
        warmup: iterations in which the rate rises linearly to the peak.
        final_rate: the rate at the end of the decay, as a fraction of the peak; 1 for a constant rate.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; infinity for no limit.
        ema: decay of the moving average of the weights. Its horizon 1/(1 - ema) should be well below `iterations`. At iteration i the decay
            is at most (1 + i)/(10 + i).
        weighting: as in `losses.denoising`.
        time_sampler: as in `losses.denoising`, or "adaptive": `losses.Adaptive`, updated with the loss of every step. Validation then
            uses the default sampler.
        bfloat16: run the network in autocast; weights, averages and the loss stay in float32.
        validate_every: iterations between validations.
        save_every: iterations between checkpoints.
        seed: of the batches, times, noise and weights. Any integer.
        label_dropout: the share of samples that lose their label in a step, as guidance needs it of a network; 0.1 to 0.2 in papers.
        float16: the same in float16, with a scaled loss. A step whose gradient overflows is left out, and the scale is halved.
        decay: how the rate falls to its end, "cosine" or "linear".
        betas: of AdamW.
        snapshot_every: iterations between snapshots of the power-function averages, for `load_average`; 0 for none.
        average_lengths: sigma_rel of the averages in the snapshots; two are enough for any length.

    Raises:
        TypeError: an entry of another type; names it.
        ValueError: a number that makes no sense, or an unknown name; names the entry.
    """

    iterations: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    final_rate: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    weighting: WeightingLike = "noise"
    time_sampler: TimeSampler | None = None
    bfloat16: bool = False
    validate_every: int = 200
    save_every: int = 200
    seed: int = 0
    label_dropout: float = 0.0
    float16: bool = False
    decay: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    snapshot_every: int = 0
    average_lengths: tuple[float, ...] = (0.05, 0.1)

    def __post_init__(self) -> None:
        sampler, no_limit = self.time_sampler, self.clip == math.inf
        if isinstance(sampler, Adaptive):
            raise ValueError(
                "time_sampler must be 'adaptive', which makes an Adaptive that sees every loss, not an Adaptive itself"
            )
        if not isinstance(self.weighting, Weighting) and not _function(self.weighting):
            as_one_of("weighting", self.weighting, WEIGHTINGS, "a function of (sde, t)")
        elif not isinstance(self.weighting, Weighting):
            as_function("weighting", self.weighting, 2, of="(sde, t)")
        if sampler is not None and not _function(sampler):
            as_one_of("time_sampler", sampler, (*TIME_SAMPLERS, "adaptive"), "a function of (sde, n, generator)")
        # Numbers of numpy become those of Python, which JSON can write.
        checked = {
            "iterations": as_count("iterations", self.iterations),
            "batch_size": as_count("batch_size", self.batch_size),
            "learning_rate": as_number("learning_rate", self.learning_rate, above=0),
            "warmup": as_count("warmup", self.warmup, 0),
            "final_rate": as_number("final_rate", self.final_rate, 0, 1),
            "weight_decay": as_number("weight_decay", self.weight_decay, 0),
            "clip": math.inf if no_limit else as_number("clip", self.clip, above=0),
            "ema": as_number("ema", self.ema, 0, 1),
            "label_dropout": as_number("label_dropout", self.label_dropout, 0, 1),
            "bfloat16": as_flag("bfloat16", self.bfloat16),
            "validate_every": as_count("validate_every", self.validate_every),
            "save_every": as_count("save_every", self.save_every),
            "seed": as_count("seed", self.seed, -math.inf),
            "float16": as_flag("float16", self.float16),
            "decay": as_one_of("decay", self.decay, DECAYS),
            "betas": _numbers("betas", self.betas, 2),
            "snapshot_every": as_count("snapshot_every", self.snapshot_every, 0),
            "average_lengths": _numbers("average_lengths", self.average_lengths),
        }
        if checked["bfloat16"] and checked["float16"]:
            raise ValueError("the network runs in bfloat16 or in float16, not in both")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def entries(self) -> dict[str, object]:
        """The entries by name. Those that version 0.1 had not are left out where they change nothing, so that its runs go on."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in LATER or getattr(self, field.name) != field.default
        }

    @property
    def low(self) -> torch.dtype | None:
        """The dtype that the network runs in; None for that of its weights."""
        return torch.bfloat16 if self.bfloat16 else torch.float16 if self.float16 else None

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration, counted from 0."""
        warm = min(1.0, (iteration + 1) / max(self.warmup, 1))
        decay = DECAYS[self.decay](min(iteration / self.iterations, 1.0))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * decay)


def _function(value: object) -> bool:
    """A function, and not a class that was not called, such as `LogNormal` for `LogNormal()`."""
    return callable(value) and not isinstance(value, type)


def _numbers(name: str, values: object, count: int | None = None) -> tuple[float, ...]:
    """A tuple of numbers of [0, 1)."""
    if not isinstance(values, list | tuple) or (count is not None and len(values) != count):
        raise TypeError(f"{name} must be a sequence of {'' if count is None else f'{count} '}numbers, got {values!r}")
    return tuple(as_number(name, value, 0, 1) for value in values)
