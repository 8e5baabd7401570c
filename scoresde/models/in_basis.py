"""A model on a `LinearSDE` whose states and data are coordinates in the basis of the process.

Solvers and the probability flow work there, where every coefficient is a number or a small matrix. The model inside, and its network, see the
event's own coordinates. As the basis is orthogonal, white noise and distances are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..numerics.arrays import Time
from ..sde.bases import Identity
from ..sde.linear import LinearSDE
from .base import Model
from .wrapper import Wrapper


class InBasis(Wrapper):
    """`model` in the basis of its process.

    Attributes:
        sde: the process without its basis.
    """

    def __init__(self, model: Model, sde: LinearSDE) -> None:
        super().__init__(model)
        self.basis, self.sde, self.prediction = sde.basis, sde.in_basis(), model.prediction

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        return self.basis.to(self.model.output(self.basis.back(z), t, **cond))

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[Any]:
        return self.model.prepare(times, z)


def in_basis(model: Model) -> Model:
    """`model` itself where its process acts on the event's own coordinates, and else `InBasis`."""
    sde = getattr(model, "sde", None)
    if not isinstance(sde, LinearSDE) or isinstance(sde.basis, Identity):
        return model
    return InBasis(model, sde)
