"""How to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..losses.times import TIME_SAMPLERS, Adaptive, TimeSampler
from ..losses.weightings import WEIGHTINGS, Weighting, WeightingLike
from ..numerics.inputs import as_count, as_flag, as_number, as_one_of


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        iterations: optimiser steps.
        batch_size: samples in each optimiser step.
        learning_rate: the peak of the learning rate.
        warmup: iterations in which the rate rises linearly to the peak.
        final_rate: the rate at the end of the cosine decay, as a fraction of the peak.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; infinity for no limit.
        ema: decay of the moving average of the weights. Its horizon 1/(1 - ema) should be well below `iterations`. At iteration i the decay
            is at most (1 + i)/(10 + i).
        weighting: as in `losses.denoising`.
        time_sampler: as in `losses.denoising`, or "adaptive": `losses.Adaptive`, updated with the loss of every step. Validation then
            uses the default sampler.
        bfloat16: run the network in autocast; the loss stays in float32.
        validate_every: iterations between validations.
        save_every: iterations between checkpoints.
        seed: of the batches, times, noise and weights. Any integer.
        label_dropout: the share of samples that lose their label in a step, as guidance needs it of a network; 0.1 to 0.2 in papers.

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

    def __post_init__(self) -> None:
        sampler, no_limit = self.time_sampler, self.clip == math.inf
        if isinstance(sampler, Adaptive):
            raise ValueError(
                "time_sampler must be 'adaptive', which makes an Adaptive that sees every loss, not an Adaptive itself"
            )
        if not isinstance(self.weighting, Weighting) and not _function(self.weighting):
            as_one_of("weighting", self.weighting, WEIGHTINGS, "a function of (sde, t)")
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
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def entries(self) -> dict[str, object]:
        """The entries by name. Those that version 0.1 had not are left out where they change nothing, so that its runs go on."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if name != "label_dropout" or value}

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration, counted from 0."""
        warm = min(1.0, (iteration + 1) / max(self.warmup, 1))
        decay = 0.5 * (1 + math.cos(math.pi * min(iteration / self.iterations, 1.0)))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * decay)


def _function(value: object) -> bool:
    """A function, and not a class that was not called, such as `LogNormal` for `LogNormal()`."""
    return callable(value) and not isinstance(value, type)
