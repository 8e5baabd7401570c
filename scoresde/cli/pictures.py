"""Samples on the way of a training run."""

from __future__ import annotations

from pathlib import Path

from .. import sampling
from ..numerics.batching import cond_to_device
from ..train.experiment import Experiment
from ..train.trainer import Trainer
from . import report
from .options import labels

# Network calls of a sample.
CALLS = 20

# The folder of the pictures, below that of the run.
PICTURES = "pictures"


class Pictures:
    """Draws samples after every validation, always from the same seeds.

    They go to `pictures/000000200.png` in the folder of the run, and to the trackers as `samples`.

    Args:
        run: folder of the run.
        count: number of samples.
    """

    def __init__(self, run: Path, count: int) -> None:
        self.run, self.count = run, count

    def __call__(self, trainer: Trainer, row: dict[str, float]) -> None:
        """Draw on every process, as the weights may be divided among them; process 0 writes."""
        model, experiment = trainer.averaged.eval(), Experiment.read(self.run)
        seeds = range(self.count)
        cond = cond_to_device(labels(experiment, seeds), model.device)
        x = sampling.sample(model, (self.count, *experiment.event), nfe=CALLS, seeds=seeds, **cond).cpu()
        if trainer.main:
            (self.run / PICTURES).mkdir(exist_ok=True)
            report.save_samples(x, self.run / PICTURES / f"{trainer.iteration:09d}.png")
            if report.is_image(x):
                trainer.tracking.track({"samples": report.picture(x)}, trainer.iteration)
