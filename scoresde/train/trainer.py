"""Train a score model: AdamW, warm-up and cosine decay, clipping, and a moving average of the weights.

All randomness is a function of (seed, iteration): the batch, the times, the noise and the network's own draws. A killed run therefore
continues from its last checkpoint to the same weights, bit for bit on a CPU, and a checkpoint stores no random state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .. import losses
from ..models.analytic import ZeroModel
from ..models.score_model import ScoreModel
from ..numerics.arrays import expand
from ..numerics.batching import batches, cond_to_device, index_cond
from ..numerics.files import prefixed, subset
from ..numerics.progress import progress_bar
from ..numerics.random import derive_seed, global_seed
from .checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint
from .recipe import Recipe

# Held-out samples in one network call. A constant, as the index of a part's first sample is the key of its noise.
VALIDATION_BATCH = 256


class Trainer:
    """Trains `model` in place on data held in memory.

    Args:
        model: the score model; training runs on its device.
        x: data, `(N, *event)`, on any device.
        recipe: how to train.
        cond: keyword arguments for the network, tensors `(N, ...)` with one row a sample.
        held_out: data for the validation loss, `(M, *event)`. None: no validation loss.
        held_out_cond: the conditions of `held_out`, tensors `(M, ...)`.
        folder: the folder of `checkpoint.safetensors`. Training continues from the file if it exists. None: nothing is stored.

    Raises:
        ValueError: conditions with another number of rows than the data, or a checkpoint of another recipe or of other data.

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
        self.model, self.recipe = model, recipe
        self.x, self.held_out = x, held_out
        self.cond: dict[str, object] = dict(cond or {})
        self.held_out_cond: dict[str, object] = dict(held_out_cond or {})
        for name, values in (cond or {}).items():
            if len(values) != len(x):
                raise ValueError(f"{name} has {len(values)} entries for {len(x)} samples")
        self.folder = Path(folder) if folder is not None else None
        self.optimizer = _adamw(list(model.parameters()), recipe)
        self._ema = AveragedModel(model, multi_avg_fn=self._average)
        self._adaptive = losses.Adaptive() if recipe.time_sampler == "adaptive" else None
        self.iteration = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        self.history: list[dict[str, float]] = []
        if self.folder is not None and (self.folder / CHECKPOINT).exists():
            self._load(self.folder / CHECKPOINT)

    @property
    def averaged(self) -> ScoreModel:
        """The model with averaged weights."""
        module = self._ema.module
        assert isinstance(module, ScoreModel)
        return module

    def run(self, progress: bool = True) -> ScoreModel:
        """Train to the end of the recipe.

        Args:
            progress: print a line for each validation and, on a terminal, show a progress bar.

        Returns:
            `averaged`, in evaluation mode.

        Raises:
            FloatingPointError: a loss or a gradient became infinite or NaN; names the iteration and the times of the samples.
        """
        recipe, running, count = self.recipe, 0.0, 0
        self.model.train()
        # disable=None: tqdm draws the bar on a terminal only, and writes lines everywhere.
        with progress_bar(progress, total=recipe.iterations, initial=self.iteration, unit="it", disable=None) as bar:
            while self.iteration < recipe.iterations:
                loss = self._step()
                running, count = running + loss, count + 1
                self.iteration += 1
                bar.update()
                bar.set_postfix_str(f"loss {running / count:.4f}, rate {recipe.rate(self.iteration - 1):.1e}", refresh=False)
                last = self.iteration == recipe.iterations
                if last or self.iteration % recipe.validate_every == 0:
                    row = {"iteration": self.iteration, "loss": running / count, **self.validate()}
                    self.history.append(row)
                    running, count = 0.0, 0
                    bar.write("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
                if self.folder is not None and (last or self.iteration % recipe.save_every == 0):
                    self._save(self.folder / CHECKPOINT)
        return self.averaged.eval()

    def validate(self) -> dict[str, float]:
        """Mean held-out losses of the averaged model ("validation") and of a zero network ("zero"). The noise is the same in every call."""
        if self.held_out is None:
            return {}
        zero = ZeroModel(self.model.sde, self.model.prediction)
        time_sampler = None if self._adaptive else self.recipe.time_sampler
        sums = {"validation": 0.0, "zero": 0.0}
        self.averaged.eval()
        for part in batches(len(self.held_out), VALIDATION_BATCH):
            x, cond = self._select(self.held_out, self.held_out_cond, part)
            for name, model in (("validation", self.averaged), ("zero", zero)):
                generator = Generator().manual_seed(derive_seed(self.recipe.seed, "validation", part.start))
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
        generator = Generator(device).manual_seed(derive_seed(recipe.seed, "noise", self.iteration))
        times = Generator().manual_seed(derive_seed(recipe.seed, "times", self.iteration))
        t, importance = losses.draw_times(self.model.sde, len(x), self._adaptive or recipe.time_sampler, times)
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

    def _batch(self) -> Tensor:
        """The indices of this iteration's batch. An epoch cuts one permutation into consecutive batches and drops the remainder."""
        size = min(self.recipe.batch_size, len(self.x))
        epoch, part = divmod(self.iteration, len(self.x) // size)
        if epoch != self._epoch:
            generator = Generator().manual_seed(derive_seed(self.recipe.seed, "epoch", epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self.x), generator=generator)
        return self._order[part * size : (part + 1) * size]

    def _average(self, averaged: Any, current: Any, _: object) -> None:
        decay = min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _identity(self) -> dict[str, object]:
        """The recipe and a hash of the data: a run continues only from a checkpoint that has the same."""
        data = hashlib.blake2b(self.x.detach().cpu().contiguous().numpy().data, digest_size=8)
        return {"recipe": asdict(self.recipe), "data": f"{tuple(self.x.shape)} {data.hexdigest()}"}

    def _save(self, path: Path) -> None:
        tensors = prefixed("model", self.model.state_dict()) | prefixed("average", self._ema.state_dict())
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= prefixed(f"optimizer/{i}", moments)
        if self._adaptive:
            tensors |= prefixed("times", self._adaptive.state_dict())
        write_checkpoint(path, tensors, {"iteration": self.iteration, "history": self.history, **self._identity()})

    def _load(self, path: Path) -> None:
        tensors, about = read_checkpoint(path)
        for name, mine in self._identity().items():
            if about[name] != mine:
                raise ValueError(f"{path} is of another training run: its {name} is {about[name]}, here {mine}")
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in subset("optimizer", tensors).items():
            i, name = key.split("/")
            moments.setdefault(int(i), {})[name] = value
        self.model.load_state_dict(subset("model", tensors))
        self._ema.load_state_dict(subset("average", tensors))
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if self._adaptive:
            self._adaptive.load_state_dict(subset("times", tensors))
        self.iteration, self.history = about["iteration"], about["history"]


def _adamw(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """The optimiser, with one fused kernel for all weights where their device and dtype support it."""
    make = partial(torch.optim.AdamW, parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    try:
        return make(fused=True)
    except RuntimeError:
        return make()
