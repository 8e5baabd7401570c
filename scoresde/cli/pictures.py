"""Samples and the curve of the loss of a training run."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor

from .. import sampling
from ..numerics.batching import cond_to_device
from ..train.experiment import Experiment
from ..train.trainer import Trainer
from . import report
from .options import labels

# Network calls of a sample.
CALLS = 20

# Samples of a picture.
COUNT = 16

# The folder of the pictures of all validations, below that of the run.
PICTURES = "pictures"


class Pictures:
    """Draws samples, always from the same seeds, and the loss so far.

    The folder of the run gets `samples.png`, the same picture as `pictures/000000200.png`, and `loss.png`. Trackers get the samples too.

    Args:
        run: folder of the run.

    Attributes:
        last: the iteration of the last picture; 0 for none.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.last = run, 0

    def __call__(self, trainer: Trainer, count: int) -> None:
        """Draw on every process, as the weights may be divided among them; process 0 writes. A picture that fails is a warning."""
        self.last = trainer.iteration
        try:
            x = self._samples(trainer, count)
            if trainer.main:
                self._write(trainer, x)
        except (ArithmeticError, OSError, RuntimeError, ValueError) as error:  # hours of training are worth more
            warnings.warn(f"no picture of iteration {trainer.iteration}: {error}", stacklevel=2)

    def _samples(self, trainer: Trainer, count: int) -> Tensor:
        model, experiment, seeds = trainer.averaged.eval(), Experiment.read(self.run), range(count)
        cond = cond_to_device(labels(experiment, seeds), model.device)
        return sampling.sample(model, (count, *experiment.event), nfe=CALLS, seeds=seeds, **cond).cpu()

    def _write(self, trainer: Trainer, x: Tensor) -> None:
        (self.run / PICTURES).mkdir(exist_ok=True)
        for path in (self.run / "samples.png", self.run / PICTURES / f"{trainer.iteration:09d}.png"):
            report.save_samples(x, path)
        report.save_losses(trainer.history, self.run / "loss.png")
        if report.is_image(x):
            trainer.tracking.track({"samples": report.picture(x)}, trainer.iteration)
