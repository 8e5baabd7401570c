"""One optimiser step on a global batch.

With W processes and A micro-batches the B rows of the batch are cut into W A parts of n = B/(W A). Of the rows r, r + W, ... of process r, its
micro-batch a has n consecutive ones. The gradient is that of the whole batch,

    1/(W A) sum_(r, a) 1/n sum_(i in part (r, a)) grad w_i L_i = 1/B sum_i grad w_i L_i.

Times, importances w_i and noise are functions of (seed, iteration) for the whole batch. A part takes its rows of them, so that the weights do
not depend on W and A beyond rounding. What a network draws itself, as for dropout, is a function of the part too.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .. import losses
from ..losses.times import TimeSampler
from ..models.score_model import ScoreModel
from ..networks.labels import null_label
from ..numerics.arrays import expand
from ..numerics.batching import index_cond
from ..numerics.random import cpu_generator, derive_seed, global_seed, randn
from ..sde.linear import LinearSDE
from .objective import Denoising, LossFunction, OwnLoss
from .recipe import Recipe
from .world import Strategy, whole


class Step:
    """The optimiser and what one step of it needs.

    Args:
        model: the model, whose weights are divided among processes already.
        recipe: how to train.
        strategy: the processes.
        accumulate: micro-batches A of a step.
        loss: of the user's own; None: the denoising loss of the recipe.

    Attributes:
        adaptive: the time sampler that learns, if the recipe has one.
    """

    def __init__(
        self, model: ScoreModel, recipe: Recipe, strategy: Strategy, accumulate: int, loss: LossFunction | None = None
    ) -> None:
        self.model, self.recipe, self.strategy, self.accumulate, self.loss = model, recipe, strategy, accumulate, loss
        self.per_sample = strategy.wrap(Denoising(model, recipe) if loss is None else OwnLoss(model, loss))
        self.optimizer = _adamw(list(model.parameters()), recipe)
        self.adaptive = losses.Adaptive() if recipe.time_sampler == "adaptive" else None
        # A network whose weights have a fixed length, such as EDM2, sets it back after a step.
        self._normalise: Any = next((module.normalise for module in model.modules() if hasattr(module, "normalise")), None)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.float16)

    @property
    def sampler(self) -> TimeSampler | None:
        return self.adaptive or self.recipe.time_sampler

    def __call__(self, x: Tensor, cond: dict[str, Any], iteration: int) -> float:
        """Change the weights; the loss, a mean over the global batch.

        Args:
            x: the rows of this process, `(B/W, *event)`.
            cond: their conditions.
            iteration: counted from 0.

        Raises:
            FloatingPointError: a loss or a gradient became infinite or NaN, on every process; names the iteration and the times.
        """
        recipe, rank, size = self.recipe, self.strategy.rank, self.strategy.size
        rows, count = slice(rank, None, size), len(x) * size
        if recipe.label_dropout:
            cond = cond | {"label": self._some_labels(cond["label"], iteration, rows, count)}
        t, importance = self._times(count, iteration)
        noise = self._noise(x, count, iteration)[rows] if self.loss is None else None
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(iteration)
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        n = len(x) // self.accumulate
        for a in range(self.accumulate):
            part = slice(a * n, (a + 1) * n)
            number = a * size + rank
            drawn = (derive_seed(recipe.seed, "loss", iteration, number),) if noise is None else (t[rows][part], noise[part])
            inputs = x[part], index_cond(cond, part, len(x)), *drawn
            with self.strategy.synchronised(self.per_sample, last=a == self.accumulate - 1):
                found.append(self._backward(inputs, importance[rows][part], iteration, number))
        per_sample = self.strategy.gather(torch.cat(found))
        self.scaler.unscale_(self.optimizer)
        clipped = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip))
        loss = (expand(importance, per_sample) * per_sample).mean()
        # Both numbers are read in one transfer, so that the host waits for the device once a step, and before any weight changes.
        value, norm = torch.stack([loss, clipped.to(loss.dtype)]).tolist()
        if not math.isfinite(value):
            bad = f", from samples at t = {t[~per_sample.isfinite().to(t.device)].tolist()}" if self.loss is None else ""
            raise FloatingPointError(f"the loss is {value} at iteration {iteration}{bad}")
        if not math.isfinite(norm) and not (self.scaler.is_enabled() and self.scaler.get_scale() > 1):
            bad = f", from samples at t = {t.tolist()}" if self.loss is None else ""
            raise FloatingPointError(f"the gradient is {norm} at iteration {iteration}{bad}")
        if self.adaptive:
            self.adaptive.update(self.model.sde, t, per_sample)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._normalise is not None:
            self._normalise()
        return float(value)

    def _backward(self, inputs: tuple[Any, ...], importance: Tensor, iteration: int, part: int) -> Tensor:
        """Add the gradient of a micro-batch; its losses, `(n,)`."""
        recipe, device = self.recipe, self.model.device
        # The network may draw from the global random state, for dropout: the state is a function of the iteration too.
        key = ("network", iteration) if part == 0 else ("network", iteration, part)
        with (
            global_seed(derive_seed(recipe.seed, *key), device),
            torch.autocast(device.type, recipe.low, enabled=recipe.low is not None),
        ):
            per_sample: Tensor = self.per_sample(*inputs)
        loss = (expand(importance, per_sample) * per_sample).mean() / self.accumulate
        self.scaler.scale(loss).backward()
        return per_sample.detach()

    def _times(self, count: int, iteration: int) -> tuple[Tensor, Tensor]:
        """The times of the global batch and their weights, each `(count,)`. A loss of the user's own has none, and weights 1."""
        if self.loss is not None:
            return torch.zeros(0), torch.ones(count)
        generator = cpu_generator(derive_seed(self.recipe.seed, "times", iteration))
        return losses.draw_times(self.model.sde, count, self.sampler, generator)

    def _noise(self, x: Tensor, count: int, iteration: int) -> Tensor:
        """The noise of the global batch, of the shape of a state."""
        shape = (count, *x.shape[1:])
        sde, device = self.model.sde, self.model.device
        generator = Generator(device).manual_seed(derive_seed(self.recipe.seed, "noise", iteration))
        return randn(sde.state_shape(shape) if isinstance(sde, LinearSDE) else shape, generator, dtype=x.dtype, device=x.device)

    def _some_labels(self, label: Tensor, iteration: int, rows: slice, count: int) -> Tensor:
        """The labels of this process, some of which are left out; which ones is a function of (seed, iteration)."""
        generator = cpu_generator(derive_seed(self.recipe.seed, "labels", iteration))
        dropped = torch.rand(count, generator=generator, device="cpu") < self.recipe.label_dropout
        null = null_label(self.model)
        assert null is not None
        return torch.where(dropped[rows].to(label.device), null, label)


def _adamw(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """The optimiser, with one fused kernel for all weights where their device and dtype support it."""
    make = partial(torch.optim.AdamW, parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    # The fused kernel refuses complex weights in its first step, and other weights here.
    if any(weight.is_complex() for weight in parameters):
        return make()
    try:
        return make(fused=True)
    except RuntimeError:
        return make()
