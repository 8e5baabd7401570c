"""Train a score model: AdamW, warm-up and cosine decay, clipping, and a moving average of the weights.

All randomness is a function of (seed, iteration): the batch, the times, the noise and the network's own draws. A killed run therefore
continues from its last checkpoint to the same weights, bit for bit on a CPU, and a checkpoint stores no random state.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .. import losses
from ..losses.times import TimeSampler
from ..models.analytic import ZeroModel
from ..models.score_model import ScoreModel
from ..networks.labels import null_label
from ..numerics.arrays import expand
from ..numerics.batching import batches, cond_to_device, index_cond
from ..numerics.files import prefixed, reading, require_writable, subset
from ..numerics.progress import Bar, progress_bar
from ..numerics.random import cpu_generator, derive_seed, global_seed
from .checkpoint import CHECKPOINT, about_checkpoint, read_checkpoint, state_for, write_checkpoint
from .checks import as_data, require_trainable
from .identity import identity, require_same, try_loss
from .recipe import Recipe

# Held-out samples in one network call. A constant, as the index of a part's first sample is the key of its noise.
VALIDATION_BATCH = 256


class Trainer:
    """Trains `model` in place on data held in memory.

    Args:
        model: the score model; training runs on its device.
        x: data, `(N, *event)`, on any device; real numbers.
        recipe: how to train.
        cond: keyword arguments for the network, tensors `(N, ...)` with one row a sample.
        held_out: data for the validation loss, `(M, *event)`. None: no validation loss.
        held_out_cond: the conditions of `held_out`, tensors `(M, ...)`.
        folder: the folder of `checkpoint.safetensors`. Training continues from the file if it exists. None: nothing is stored.

    Raises:
        TypeError: a model that is no `ScoreModel`, data of integers or complex numbers, or with a folder a network that no file can hold.
        ValueError: data that are empty or not finite, conditions that do not fit the data or the network, a loss that this model cannot have,
            or a checkpoint of another run; names what differs.

    Attributes:
        averaged: the model with the moving average of the weights: the one to sample from.
        iteration: optimiser steps done.
        history: one row for each validation: the iteration, the mean training loss since the previous row, the validation loss of `averaged`,
            and the validation loss of a zero network on the same noise.
    """

    def __init__(
        self,
        model: ScoreModel,
        x: Tensor,
        recipe: Recipe,
        *,
        cond: Mapping[str, Tensor] | None = None,
        held_out: Tensor | None = None,
        held_out_cond: Mapping[str, Tensor] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        require_trainable(model, recipe)
        self.model, self.recipe = model, recipe
        self.x, self.cond = as_data("x", x, {} if cond is None else cond, model)
        self.held_out: Tensor | None = None
        self.held_out_cond: dict[str, Any] = {}
        if held_out is not None:
            self.held_out, self.held_out_cond = as_data("held_out", held_out, {} if held_out_cond is None else held_out_cond, model)
            if self.held_out.shape[1:] != self.x.shape[1:]:
                raise ValueError(f"held_out has events of shape {tuple(self.held_out.shape[1:])}, x of {tuple(self.x.shape[1:])}")
            if self.held_out_cond.keys() != self.cond.keys():
                raise ValueError(
                    f"held_out_cond has {', '.join(self.held_out_cond) or 'no entry'}, cond {', '.join(self.cond) or 'none'}"
                )
        self._null = null_label(model)
        if recipe.label_dropout and (self._null is None or "label" not in self.cond):
            raise ValueError("label_dropout needs the condition label, and a network with the attribute null, its label for none")
        self.folder = Path(folder) if folder is not None else None
        self.optimizer = _adamw(list(model.parameters()), recipe)
        self._ema = AveragedModel(model, multi_avg_fn=self._average)
        self._adaptive = losses.Adaptive() if recipe.time_sampler == "adaptive" else None
        self.iteration = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64, device="cpu")
        # The sum of the losses since the last row of the history, and their number.
        self._sum, self._count = 0.0, 0
        self.history: list[dict[str, float]] = []
        tried = try_loss(model, recipe, self._sampler)
        if self.folder is not None:
            # What a checkpoint must hold is found here, and not at the first checkpoint, when iterations would be lost.
            require_writable(self._tensors())
            if not torch.equal(tried, try_loss(model, recipe, self._sampler)):
                raise ValueError(
                    "time_sampler and weighting must depend on the seed of their generator alone, for a run to continue"
                )
            self._identity = identity(model, recipe, self.x, self.cond, tried)
            if (self.folder / CHECKPOINT).exists():
                self._load(self.folder / CHECKPOINT)

    @property
    def averaged(self) -> ScoreModel:
        """The model with averaged weights."""
        return cast(ScoreModel, self._ema.module)

    @property
    def _sampler(self) -> TimeSampler | None:
        return self._adaptive or self.recipe.time_sampler

    @torch.enable_grad()
    def run(self, progress: bool = True) -> ScoreModel:
        """Train to the end of the recipe.

        Args:
            progress: print a line for each validation and, on a terminal, show a progress bar.

        Returns:
            `averaged`. Both models are left in evaluation mode.

        Raises:
            FloatingPointError: a loss or a gradient became infinite or NaN; names the iteration and the times of the samples.
            ValueError: another run has written into the folder since this one began.
            OSError: the folder cannot be written.
        """
        recipe = self.recipe
        if self.folder is not None and self.iteration < recipe.iterations:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        self.model.train()
        try:
            # disable=None: tqdm draws the bar on a terminal only, and writes lines everywhere.
            with progress_bar(progress, total=recipe.iterations, initial=self.iteration, unit="it", disable=None) as bar:
                while self.iteration < recipe.iterations:
                    self._iterate(bar)
        finally:
            self.model.eval()
        return self.averaged.eval()

    def _iterate(self, bar: Bar) -> None:
        """One optimiser step with what is due after it: a validation, a checkpoint."""
        recipe = self.recipe
        self._sum, self._count = self._sum + self._step(), self._count + 1
        self.iteration += 1
        mean = self._sum / self._count
        bar.update()
        bar.set_postfix_str(f"loss {mean:.4f}, rate {recipe.rate(self.iteration - 1):.1e}", refresh=False)
        last = self.iteration == recipe.iterations
        if last or self.iteration % recipe.validate_every == 0:
            row = {"iteration": self.iteration, "loss": mean, **self.validate()}
            self.history.append(row)
            self._sum, self._count = 0.0, 0
            bar.write("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
        if self.folder is not None and (last or self.iteration % recipe.save_every == 0):
            self._save(self.folder / CHECKPOINT)

    def validate(self) -> dict[str, float]:
        """Mean held-out losses of the averaged model ("validation") and of a zero network ("zero"). The noise is the same in every call."""
        if self.held_out is None:
            return {}
        zero = ZeroModel(self.model.sde, self.model.prediction)
        time_sampler = None if self._adaptive else self._sampler
        sums = {"validation": 0.0, "zero": 0.0}
        self.averaged.eval()
        for part in batches(len(self.held_out), VALIDATION_BATCH):
            x, cond = self._select(self.held_out, self.held_out_cond, part)
            for name, model in (("validation", self.averaged), ("zero", zero)):
                generator = cpu_generator(derive_seed(self.recipe.seed, "validation", part.start))
                with torch.no_grad():
                    loss = losses.denoising(model, x, self.recipe.weighting, time_sampler, generator, **cond)
                sums[name] += float(loss.sum())
        return {name: total / len(self.held_out) for name, total in sums.items()}

    def _select(self, x: Tensor, cond: dict[str, object], index: Tensor | slice) -> tuple[Tensor, dict[str, Any]]:
        """Some samples of `x` and their conditions, on the model's device."""
        device = self.model.device
        return x[index].to(device), cond_to_device(index_cond(cond, index, len(x)), device)

    def _step(self) -> float:
        """One optimiser step; returns the loss."""
        recipe, device = self.recipe, self.model.device
        x, cond = self._select(self.x, self.cond, self._batch())
        if recipe.label_dropout:
            cond = cond | {"label": self._some_labels(cond["label"])}
        generator = Generator(device).manual_seed(derive_seed(recipe.seed, "noise", self.iteration))
        times = cpu_generator(derive_seed(recipe.seed, "times", self.iteration))
        t, importance = losses.draw_times(self.model.sde, len(x), self._sampler, times)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.iteration)
        # The network may draw from the global random state, for dropout: the state is a function of the iteration too.
        with (
            global_seed(derive_seed(recipe.seed, "network", self.iteration), device),
            torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16),
        ):
            per_sample = losses.denoising(self.model, x, recipe.weighting, generator=generator, t=t, **cond)
        loss = (expand(importance, per_sample) * per_sample).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clipped = torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        # Both numbers are read in one transfer, so that the host waits for the device once a step, and before any weight changes.
        value, norm = torch.stack([loss.detach(), clipped.to(loss.dtype)]).tolist()
        if not math.isfinite(value):
            bad = t[~per_sample.detach().isfinite().to(t.device)].tolist()
            raise FloatingPointError(f"the loss is {value} at iteration {self.iteration}, from samples at t = {bad}")
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is {norm} at iteration {self.iteration}, from samples at t = {t.tolist()}")
        if self._adaptive:
            self._adaptive.update(self.model.sde, t, per_sample)
        self.optimizer.step()
        self._ema.update_parameters(self.model)
        return value

    def _some_labels(self, label: Tensor) -> Tensor:
        """The labels of this iteration's batch, some of which are left out; which ones is a function of (seed, iteration)."""
        generator = cpu_generator(derive_seed(self.recipe.seed, "labels", self.iteration))
        dropped = torch.rand(len(label), generator=generator, device="cpu") < self.recipe.label_dropout
        assert self._null is not None
        return torch.where(dropped.to(label.device), self._null, label)

    def _batch(self) -> Tensor:
        """The indices of this iteration's batch. An epoch cuts one permutation into consecutive batches and drops the remainder."""
        size = min(self.recipe.batch_size, len(self.x))
        epoch, part = divmod(self.iteration, len(self.x) // size)
        if epoch != self._epoch:
            generator = cpu_generator(derive_seed(self.recipe.seed, "epoch", epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.x), generator=generator, device="cpu")
        return self._order[part * size : (part + 1) * size]

    def _average(self, averaged: Any, current: Any, _: object) -> None:
        decay = min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        tensors = prefixed("model", self.model.state_dict()) | prefixed("average", self._ema.state_dict())
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= prefixed(f"optimizer/{i}", moments)
        if self._adaptive:
            tensors |= prefixed("times", self._adaptive.state_dict())
        return tensors

    def _save(self, path: Path) -> None:
        about: dict[str, Any] = {}
        # A file that is damaged is written over.
        with suppress(FileNotFoundError, ValueError):
            about = about_checkpoint(path)
        if about:
            require_same(path, about, self._identity)
        state = {"iteration": self.iteration, "history": self.history, "sum": self._sum, "count": self._count}
        write_checkpoint(path, self._tensors(), state | self._identity)

    def _load(self, path: Path) -> None:
        tensors, about = read_checkpoint(path)
        # All is checked before any weight changes.
        with reading(path, said="is no checkpoint of this run"):
            average = subset("average", tensors)
            average.setdefault("n_averaged", torch.tensor(0))
            model = state_for(path, subset("model", tensors), self.model)
            average = state_for(path, average, self._ema)
            require_same(path, about, self._identity)
            moments = self._moments(subset("optimizer", tensors))
            iteration, history = int(about["iteration"]), list(about["history"])
            # Version 0.1 did not write these two.
            total, count = float(about.get("sum", 0.0)), int(about.get("count", 0))
            if self._adaptive:
                self._adaptive.load_state_dict(subset("times", tensors))
        self.model.load_state_dict(model)
        self._ema.load_state_dict(average)
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.iteration, self.history, self._sum, self._count = iteration, history, total, count

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's tensors of a checkpoint by the number of their weight.

        Raises:
            ValueError: there is no weight of that number, or it has another shape.
        """
        weights = self.optimizer.param_groups[0]["params"]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            i, name = key.split("/")
            if not 0 <= int(i) < len(weights) or value.shape not in ((), weights[int(i)].shape):
                raise ValueError(f"optimizer/{key} has shape {tuple(value.shape)}, which no weight has")
            moments.setdefault(int(i), {})[name] = value
        return moments


def _adamw(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """The optimiser, with one fused kernel for all weights where their device and dtype support it."""
    make = partial(torch.optim.AdamW, parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    # The fused kernel refuses complex weights in its first step, and other weights here.
    if any(weight.is_complex() for weight in parameters):
        return make()
    try:
        return make(fused=True)
    except RuntimeError:
        return make()
