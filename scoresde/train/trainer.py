"""Train a score model: AdamW, warm-up and decay, clipping, and averages of the weights, on one process or on many.

All randomness is a function of (seed, iteration): the batch, the times, the noise and the network's own draws. A killed run therefore
continues from its last checkpoint to the same weights, bit for bit on a CPU, and a checkpoint stores no random state. The checkpoint does not
depend on the number of processes: a run may go on with another one. SIGTERM and Ctrl-C write one before the run ends.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import losses
from ..data import Loader, Source, Stream
from ..models.score_model import ScoreModel
from ..numerics.files import reading, require_writable
from .average import Average, PowerAverages
from .checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint, write_checkpoint
from .checks import as_source, require_splittable, require_trainable, warn_of_scale
from .identity import identity, require_same, try_loss
from .interruptions import Interruptions
from .objective import LossFunction
from .posthoc import write_snapshot
from .progress import Progress
from .progress import progress as progress_of
from .recipe import Recipe
from .state import State
from .step import Step
from .tracking import Tracker, Tracking
from .validation import validate
from .world import gathered, strategy

# Seconds after which a checkpoint is written, however few iterations were done.
SAVE_SECONDS = 300.0

# The reason for a checkpoint that is no number of a signal.
BY_THE_CLOCK = 1

# Iterations between the numbers that trackers are told on the way.
TRACK_EVERY = 50

# What is called after every validation, on every process, with the trainer and the row of the history.
TrainingCallback = Callable[["Trainer", dict[str, float]], object]


class Trainer:
    """Trains `model` in place.

    Args:
        model: the score model; training runs on its device.
        x: data, `(N, *event)`, on any device, real numbers; or a `data.Source` or `data.Stream` that need not fit into memory.
        recipe: how to train.
        cond: keyword arguments for the network, tensors `(N, ...)` with one row a sample. A source has conditions of its own.
        held_out: data for the validation loss, `(M, *event)`, or a source. None: no validation loss.
        held_out_cond: the conditions of `held_out`, tensors `(M, ...)`.
        folder: the folder of `checkpoint.safetensors` and `history.jsonl`. Training continues from the file if it exists. None: nothing is
            stored.
        parallel: "ddp" or "fsdp2", on processes started by `torchrun`; see `train.world`. By default "ddp" where WORLD_SIZE is above 1. Every
            process makes the same trainer. The weights do not depend on their number beyond rounding.
        accumulate: micro-batches of a step, each of `batch_size/(processes accumulate)` samples, for less memory.
        workers: processes that read a source ahead. The batches do not depend on their number.
        log: trackers, "tensorboard", "wandb" or functions of `(values, iteration)`; see `train.tracking`.
        callbacks: functions of `(trainer, row)`, called on every process after each validation.
        loss: a function `(model, x, generator, **cond)` in place of the recipe's denoising loss. It gets samples `(B, *event)`, a generator on
            their device, seeded by (seed, iteration), and the conditions, and returns the loss of each sample, `(B,)`. With processes or
            micro-batches it gets a part of the batch, and random numbers that depend on their number. A checkpoint knows it by its name.

    Raises:
        TypeError: a model that is no `ScoreModel`, data of integers or complex numbers, or with a folder a network that no file can hold.
        ValueError: data that are empty or not finite, conditions that do not fit the data or the network, a loss that this model cannot have,
            a batch that cannot be divided, processes that differ, or a checkpoint of another run; names what differs.
        ImportError: "fsdp2" with a torch older than 2.6, or a tracker whose package is missing.

    Attributes:
        averaged: the model with the moving average of the weights: the one to sample from.
        iteration: optimiser steps done.
        history: one row for each validation: the iteration, the mean training loss since the previous row, the validation loss of `averaged`,
            and the validation loss of a zero network on the same noise.
        main: whether this is process 0, which writes files.
        processes: the number of processes.
    """

    def __init__(
        self,
        model: ScoreModel,
        x: Tensor | Source | Stream,
        recipe: Recipe,
        *,
        cond: Mapping[str, Tensor] | None = None,
        held_out: Tensor | Source | None = None,
        held_out_cond: Mapping[str, Tensor] | None = None,
        folder: str | Path | None = None,
        parallel: str | None = None,
        accumulate: int = 1,
        workers: int = 0,
        log: str | Tracker | Sequence[str | Tracker] = (),
        callbacks: Sequence[TrainingCallback] = (),
        loss: LossFunction | None = None,
    ) -> None:
        require_trainable(model, recipe, loss)
        self.loss = loss
        self.model, self.recipe, self.workers, self.callbacks = model, recipe, workers, tuple(callbacks)
        self.source, self.held_out = as_source(model, recipe, x, cond, held_out, held_out_cond)
        warn_of_scale(model.sde, self.source)
        self.folder = Path(folder) if folder is not None else None
        self._strategy = strategy(parallel, model.device)
        self.main, self.processes = self._strategy.rank == 0, self._strategy.size
        self._batch_size = recipe.batch_size if isinstance(self.source, Stream) else min(recipe.batch_size, len(self.source))
        require_splittable(self._batch_size, self._strategy.size, accumulate)
        sampler = losses.Adaptive() if recipe.time_sampler == "adaptive" else recipe.time_sampler
        tried = try_loss(model, recipe, sampler)
        self._ema = Average(model)
        if self.folder is not None:
            # What a checkpoint must hold is found here, and not at the first checkpoint, when iterations would be lost.
            require_writable(model.state_dict())
            if not torch.equal(tried, try_loss(model, recipe, sampler)):
                raise ValueError(
                    "time_sampler and weighting must depend on the seed of their generator alone, for a run to continue"
                )
        known = self.folder is not None or self._strategy.size > 1
        self._identity = identity(model, recipe, self.source, tried, loss) if known else {}
        first = {"first row": self.source.first_row_digest()} if isinstance(self.source, Stream) else {}
        self._strategy.agree({"batch size": recipe.batch_size, **self._identity, **first})
        self._strategy.shard(model, recipe.low)
        # The average stays precise: at a decay of 0.9999 half precision would not move.
        self._strategy.shard(self.averaged)
        self._step_of = Step(model, recipe, self._strategy, accumulate, loss)
        self._power = PowerAverages(model, recipe.average_lengths) if recipe.snapshot_every else None
        self._state = State(model, self._ema, self._step_of, self._power)
        self.iteration = 0
        # When and at which iteration the last checkpoint was written.
        self._saved, self._saved_iteration = time.monotonic(), 0
        # For the speed: when and at which iteration the present interval began.
        self._since, self._done = time.perf_counter(), 0
        self._rows: Iterator[tuple[Tensor, dict[str, Any]]] | None = None
        # The sum of the losses since the last row of the history, and their number.
        self._sum, self._count = 0.0, 0
        self.history: list[dict[str, float]] = []
        trackers = [log] if isinstance(log, str) or callable(log) else list(log)
        self.tracking = Tracking(trackers if self.main else [], self.folder if self.main else None)
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            self._load(self.folder / CHECKPOINT)

    @property
    def averaged(self) -> ScoreModel:
        """The model with averaged weights."""
        return self._ema.module

    @torch.enable_grad()
    def run(self, progress: bool = True) -> ScoreModel:
        """Train to the end of the recipe.

        Args:
            progress: show a bar on a terminal, and print a line for each validation; without a terminal a line a minute, too. On process 0
                alone.

        Returns:
            `averaged`. Both models are left in evaluation mode.

        Raises:
            FloatingPointError: a loss or a gradient became infinite or NaN; names the iteration and the times of the samples.
            ValueError: another run has written into the folder since this one began.
            OSError: the folder cannot be written, or a source cannot be read.
            KeyboardInterrupt: Ctrl-C on one of the processes; with a folder after a checkpoint. A second one ends the run at once.
            SystemExit: SIGTERM, with code 143; with a folder after a checkpoint.
        """
        recipe = self.recipe
        if self.folder is not None and self.iteration < recipe.iterations:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            if self.main:
                self.tracking.rewrite(self.history)
        self.model.train()
        self._since, self._done, self._saved = time.perf_counter(), self.iteration, time.monotonic()
        try:
            with (
                Interruptions() if self.folder is not None else nullcontext() as interruptions,
                progress_of(progress and self.main, self.iteration, recipe.iterations) as tell,
            ):
                while self.iteration < recipe.iterations:
                    self._iterate(tell)
                    if self.folder is not None and interruptions is not None:
                        self._save_if_asked(self.folder, interruptions, tell)
        finally:
            self.model.eval()
            self._close()
        return self.averaged.eval()

    def _iterate(self, tell: Progress) -> None:
        """One optimiser step with what is due after it: a validation, a snapshot, a checkpoint."""
        recipe = self.recipe
        self._sum, self._count = self._sum + self._step(), self._count + 1
        self.iteration += 1
        if self._power is not None:
            self._power.update(self.model, self.iteration)
        mean, rate, row = self._sum / self._count, recipe.rate(self.iteration - 1), None
        last = self.iteration == recipe.iterations
        speed = self._batch_size * (self.iteration - self._done) / (time.perf_counter() - self._since)
        if self.tracking and (last or self.iteration % TRACK_EVERY == 0):
            self.tracking.track({"loss": mean, "rate": rate, "samples_per_second": speed}, self.iteration)
            self._since, self._done = time.perf_counter(), self.iteration
        if last or self.iteration % recipe.validate_every == 0:
            row = {"iteration": self.iteration, "loss": mean, **self.validate()}
            self.history.append(row)
            self._sum, self._count = 0.0, 0
            if self.main:
                self.tracking.row(row)
        tell(self.iteration, mean, rate, speed, (recipe.iterations - self.iteration) * self._batch_size / speed, row)
        if row is not None:
            for callback in self.callbacks:
                callback(self, row)
        if self.folder is not None and self._power is not None and (last or self.iteration % recipe.snapshot_every == 0):
            tensors = gathered(self._power.state_dict(), self.main)
            if self.main:
                write_snapshot(self.folder, self.iteration, tensors, self._power.gammas)
        if self.folder is not None and (last or self.iteration % recipe.save_every == 0):
            self._save(self.folder / CHECKPOINT)

    def _save_if_asked(self, folder: Path, interruptions: Interruptions, tell: Progress) -> None:
        """Write a checkpoint that a signal or the clock asks for, on one process or on several, and end the run where it was a signal."""
        by_the_clock = BY_THE_CLOCK if time.monotonic() - self._saved >= SAVE_SECONDS else 0
        reason = self._strategy.highest(max(interruptions.noted, by_the_clock))
        if reason and self._saved_iteration < self.iteration:
            self._save(folder / CHECKPOINT)
        if reason > BY_THE_CLOCK:
            where = f"iteration {self.iteration} of {self.recipe.iterations}"
            tell.say(f"{signal.Signals(reason).name} at {where}: saved in {folder}, where the same run goes on")
            interruptions.act(reason)

    def validate(self) -> dict[str, float]:
        """Mean held-out losses of the averaged model ("validation") and, of the denoising loss, of a zero network ("zero").

        The noise is the same in every call.
        """
        if self.held_out is None:
            return {}
        return validate(self.averaged.eval(), self.held_out, self.recipe, self.loss, self._strategy)

    def _step(self) -> float:
        """One optimiser step; returns the loss."""
        if self._rows is None:
            self._rows = iter(self._loader())
        x, cond = next(self._rows)
        value = self._step_of(x, cond, self.iteration)
        self._ema.update(self.model, min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration)))
        return value

    def _loader(self) -> Loader:
        """The rows of this process from this iteration on."""
        return Loader(
            self.source, self._batch_size, self.recipe.seed, rank=self._strategy.rank, world=self._strategy.size,
            workers=self.workers, start=self.iteration, stop=self.recipe.iterations, device=self.model.device,
        )  # fmt: skip

    def _close(self) -> None:
        """End the processes that read ahead."""
        rows, self._rows = self._rows, None
        close = getattr(rows, "close", None)
        if close is not None:
            close()

    def _save(self, path: Path) -> None:
        tensors = self._state.tensors(self.main)
        if self.main:
            about: dict[str, Any] = {}
            # A file that is damaged is written over.
            with suppress(FileNotFoundError, ValueError):
                about = about_checkpoint(path)
            if about:
                require_same(path, about, self._identity)
            state: dict[str, object] = {
                "iteration": self.iteration, "history": self.history, "sum": self._sum, "count": self._count,
            }  # fmt: skip
            if isinstance(self.source, Stream):
                state["stream"] = self.source.state()
            write_checkpoint(path, tensors, state | self._identity)
        self._saved, self._saved_iteration = time.monotonic(), self.iteration
        self._strategy.barrier()

    def _load(self, path: Path) -> None:
        tensors, about = read_checkpoint(path)
        # All is checked before any weight changes.
        with reading(path, said="is no checkpoint of this run"):
            restore = self._state.fitted(path, tensors, lambda: require_same(path, about, self._identity))
            iteration, history = int(about["iteration"]), list(about["history"])
            if iteration > self.recipe.iterations:
                raise ValueError(f"{path} has {iteration} iterations already, more than iterations={self.recipe.iterations}")
            # Version 0.1 did not write these two.
            total, count = float(about.get("sum", 0.0)), int(about.get("count", 0))
            if isinstance(self.source, Stream):
                self.source.restore(about["stream"])
        restore()
        self.iteration, self.history, self._sum, self._count = iteration, history, total, count
        self._saved_iteration = iteration
