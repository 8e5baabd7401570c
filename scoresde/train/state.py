"""The tensors of a checkpoint: model, averages, moments, and what learns beside them. They are whole, however the weights are divided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.score_model import ScoreModel
from ..numerics.files import prefixed, subset
from .average import Average, PowerAverages
from .checkpoint import state_for
from .step import Step
from .world import divided_as, gathered


class State:
    """What a trainer keeps, as tensors by name. Every process asks for them, and process 0 writes them."""

    def __init__(self, model: ScoreModel, average: Average, step: Step, power: PowerAverages | None) -> None:
        self.model, self.average, self.step, self.power = model, average, step, power

    def tensors(self, keep: bool) -> dict[str, Tensor]:
        """All tensors, whole, on the process that keeps them; nothing on the others, which have to ask too."""
        found = prefixed("model", self.model.state_dict()) | prefixed("average", self.average.state_dict())
        for i, moments in self.step.optimizer.state_dict()["state"].items():
            found |= prefixed(f"optimizer/{i}", moments)
        if self.step.adaptive:
            found |= prefixed("times", self.step.adaptive.state_dict())
        if self.power is not None:
            found |= prefixed("power", self.power.state_dict())
        if self.step.scaler.is_enabled():
            found |= prefixed("scaler", self._scaler())
        return gathered(found, keep)

    def fitted(self, path: Path, tensors: Mapping[str, Tensor], check: Callable[[], object]) -> Callable[[], None]:
        """A function that loads the tensors, once all are found to fit.

        Args:
            path: of the checkpoint, for messages.
            tensors: of the checkpoint.
            check: raises where the checkpoint is of another run; called once the network is known to fit.

        Raises:
            ValueError: a tensor is missing or of another shape.
        """
        average = subset("average", tensors)
        average.setdefault("n_averaged", torch.tensor(0))
        model, average = state_for(path, subset("model", tensors), self.model), state_for(path, average, self.average)
        check()
        moments = self._moments(subset("optimizer", tensors))
        if self.step.adaptive:
            self.step.adaptive.load_state_dict(subset("times", tensors))
        if self.power is not None:
            averages = subset("power", tensors)
            if not averages:
                raise ValueError(
                    f"{path} has no averages for snapshots, which must see every iteration: snapshot_every must stay 0"
                )
            self.power.load_state_dict(averages)
        scaler = {name: float(value) for name, value in subset("scaler", tensors).items()}

        def restore() -> None:
            _load(self.model, model)
            _load(self.average, average)
            groups = self.step.optimizer.state_dict()["param_groups"]
            self.step.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            if self.step.scaler.is_enabled():
                own = self.step.scaler.state_dict()
                self.step.scaler.load_state_dict({**own, "scale": scaler["scale"], "_growth_tracker": int(scaler["grown"])})

        return restore

    def _scaler(self) -> dict[str, Tensor]:
        """The scale of the loss, and the steps since it last changed."""
        state = self.step.scaler.state_dict()
        return {
            "scale": torch.tensor(state["scale"], dtype=torch.float64, device="cpu"),
            "grown": torch.tensor(state["_growth_tracker"], dtype=torch.int64, device="cpu"),
        }

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's tensors of a checkpoint by the number of their weight, divided as the weight is.

        Raises:
            ValueError: there is no weight of that number, or it has another shape.
        """
        weights = self.step.optimizer.param_groups[0]["params"]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            i, name = key.split("/")
            if not 0 <= int(i) < len(weights) or value.shape not in ((), weights[int(i)].shape):
                raise ValueError(f"optimizer/{key} has shape {tuple(value.shape)}, which no weight has")
            weight: Any = weights[int(i)]
            moments.setdefault(int(i), {})[name] = value if value.shape != weight.shape else divided_as(value, weight)
        return moments


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    module.load_state_dict({name: divided_as(value, own[name]) for name, value in tensors.items()})
