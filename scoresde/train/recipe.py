"""How to train."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights. Its horizon 1/(1 - ema) should be well below `iterations`. At iteration i the decay
            is at most (1 + i)/(10 + i).
        weighting: as in `losses.denoising`.
        time_sampler: as in `losses.denoising`, or "adaptive": `losses.Adaptive`, updated with the loss of every step. Validation then
            uses the default sampler.
        bfloat16: run the network in autocast; the loss stays in float32.
        validate_every: iterations between validations.
        save_every: iterations between checkpoints.
        seed: of the batches, times, noise and weights.
    """

    iterations: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    final_rate: float = 0.02
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    weighting: str = "noise"
    time_sampler: str | None = None
    bfloat16: bool = False
    validate_every: int = 200
    save_every: int = 200
    seed: int = 0

    def rate(self, iteration: int) -> float:
        """The learning rate at an iteration, counted from 0."""
        warm = min(1.0, (iteration + 1) / max(self.warmup, 1))
        decay = 0.5 * (1 + math.cos(math.pi * min(iteration / self.iterations, 1.0)))
        return self.learning_rate * warm * (self.final_rate + (1 - self.final_rate) * decay)
