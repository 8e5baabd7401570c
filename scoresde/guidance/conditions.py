"""Conditions of several predictions at once: one value for all samples, and two conditions in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..models.base import Model
from ..models.wrapper import Wrapper
from ..numerics.brief import line, shown
from ..sde.prediction import Prediction


class Conditions(NamedTuple):
    """The conditions of c, those of u, and those of one call for both, where that is possible."""

    strong: dict[str, Any]
    weak: dict[str, Any]
    both: dict[str, Any] | None


class Conditioned(Wrapper):
    """A model with some conditions given for good: one value for all samples, as a number or a tensor without the batch.

    A product of conditional models needs it, and so does a call that takes no conditions.
    """

    def __init__(self, model: Model, **cond: object) -> None:
        super().__init__(model)
        self.prediction: Prediction = model.prediction
        self.cond = cond

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[Any]:
        return self.model.prepare(times, z)

    def output(self, z: Tensor, t: Any, **cond: object) -> Tensor:
        """The output of the model under the given conditions.

        Raises:
            TypeError: a condition that is given for good comes with the call too.
        """
        if twice := set(cond) & set(self.cond):
            raise TypeError(f"{', '.join(sorted(twice))} is given for good: leave it out of the call")
        return self.model.output(z, t, **cond, **{name: like(value, None, z) for name, value in self.cond.items()})

    def extra_repr(self) -> str:
        return f"{self.cond}"

    def __repr__(self) -> str:
        return line("Conditioned", shown(self.model), shown(self.cond))


def conditioned(model: Model, **cond: object) -> Conditioned:
    """`model` under conditions that are the same in every call; see `Conditioned`."""
    return Conditioned(model, **cond)


def like(value: object, given: object, z: Tensor) -> object:
    """One value for all samples as a condition of the batch of `z`, in the form of the condition `given` that it stands for.

    A number becomes a tensor `(B,)`, or one of the shape of `given`. A tensor is repeated for every sample. All else stays as it is.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return value
    if isinstance(given, Tensor) and given.shape[:1] == z.shape[:1]:
        made = torch.as_tensor(value, dtype=given.dtype, device=given.device)
        return made.expand(given.shape)
    made = value.to(z.device) if isinstance(value, Tensor) else torch.tensor(value, device=z.device)
    if made.ndim and made.shape[0] == 1:
        made = made[0]
    return made.expand(len(z), *made.shape)


def stackable(z: Tensor, strong: dict[str, Any], weak: dict[str, Any]) -> bool:
    """Whether the conditions that differ are tensors of one row a sample, equal in shape and dtype."""
    if strong.keys() != weak.keys():
        return False
    for name, value in strong.items():
        other = weak[name]
        if value is other:
            continue
        if not (isinstance(value, Tensor) and isinstance(other, Tensor) and value.shape[:1] == z.shape[:1]):
            return False
        if value.shape != other.shape or value.dtype != other.dtype or value.device != other.device:
            return False
    return True


def twice(strong: Any, weak: Any, count: int) -> Any:
    """A condition of the batch of c followed by that of u."""
    if strong is not weak:
        return torch.cat([strong, weak])
    return tree_map(
        lambda value: torch.cat([value, value]) if isinstance(value, Tensor) and value.shape[:1] == (count,) else value, strong
    )
