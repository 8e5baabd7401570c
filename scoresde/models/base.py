"""What every score model can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..numerics.arrays import Time, expand, require_one_each
from ..numerics.brief import line, shown
from ..numerics.inputs import as_state
from ..sde.base import SDE, as_time
from ..sde.linear import LinearSDE
from ..sde.linear_prediction import linear_conversion
from ..sde.prediction import Prediction, conversion


class Model(ABC):
    """Anything that knows the score of a diffused distribution: `data`, `noise`, `score` and `velocity` of `(z, t)`.

    A subclass gives `sde`, `prediction` and `output`, its own prediction; the four calls are conversions of one output.
    States are `(B, *event)`, times scalar or `(B,)`; `**cond` reaches `output` untouched. Results have the dtype of `z`.

    Attributes:
        start_scale: the standard deviation that sampling starts with, in units of the prior's. It is 1 unless the model's law at t = 1 is
            another, as that of a product is.
    """

    sde: SDE
    prediction: Prediction
    start_scale: float = 1.0

    def __repr__(self) -> str:
        return line(type(self).__name__, repr(getattr(self, "sde", None)), f"prediction={shown(getattr(self, 'prediction', None))}")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that samples are drawn in when nothing else says it."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The device that samples are drawn on when nothing else says it."""
        return torch.device("cpu")

    @abstractmethod
    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """The model's own prediction at `(z, t)`, of the shape of `z`."""

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[Any]:
        """Everything about the `times` that `output` can use in their place, computed once before a loop; by default the times themselves.

        What it returns serves batches of any size, as a model around this one may call it at twice the batch.

        Args:
            times: of all network calls to come.
            z: a state of the shape, dtype and device of those to come.
        """
        return times

    def data(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[x | z_t = z]."""
        return self._read("data", z, t, cond)

    def noise(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[eps | z_t = z]."""
        return self._read("noise", z, t, cond)

    def score(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """grad_z log q(z_t = z) = -noise / sigma."""
        return self._read("score", z, t, cond)

    def velocity(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        """E[alpha eps - sigma x | z_t = z]."""
        return self._read("velocity", z, t, cond)

    def _read(self, target: Prediction, z: Tensor, t: Time, cond: dict[str, object]) -> Tensor:
        if isinstance(self.sde, LinearSDE):
            return self._read_blocks(self.sde, target, z, t, cond)
        z = as_state("z", z)
        c_z, c_out = conversion(self.sde, t, self.prediction, target)
        require_one_each(c_out, z)
        out = self.output(z, t, **cond)
        dtype = torch.promote_types(z.dtype, out.dtype)
        return (expand(c_z, z, dtype) * z.to(dtype) + expand(c_out, z, dtype) * out.to(dtype)).to(z.dtype)

    def _read_blocks(self, sde: LinearSDE, target: Prediction, z: Tensor, t: Time, cond: dict[str, object]) -> Tensor:
        """`_read` on a path with coefficients for each block."""
        z = sde.as_state("z", z)
        t = as_time(t)
        c_z, c_out = linear_conversion(sde, t.reshape(-1), self.prediction, target)
        require_one_each(t, z)
        out = self.output(z, t, **cond)
        dtype = torch.promote_types(z.dtype, out.dtype)
        return (sde.times(c_z, z.to(dtype)) + sde.times(c_out, out.to(dtype))).to(z.dtype)


def require_model(model: Any, *calls: str) -> None:
    """Raise for an object without a path or without one of these calls. A subclass of `Model` has them; anything else may.

    Raises:
        TypeError: names what is missing.
    """
    missing = [name for name in ("sde", *calls) if not hasattr(model, name)]
    if missing or isinstance(model, type):
        raise TypeError(f"{no_model(model)}: {type(model).__name__} has no {', '.join(missing) or 'instance'}")


def as_model(model: Any) -> Model:
    """A model.

    Raises:
        TypeError: anything else; for a network says how to wrap it.
    """
    if not isinstance(model, Model):
        raise TypeError(f"{no_model(model)}, got {shown(model)}")
    return model


def no_model(model: Any) -> str:
    """What is wrong with an object in place of a model."""
    if isinstance(getattr(model, "module", None), Model):
        hint = ", which is its attribute module"
    elif callable(model) and not isinstance(model, type) and not hasattr(model, "sde"):
        hint = "; wrap the network: ss.ScoreModel(net, sde, prediction=...)"
    else:
        hint = ""
    return f"model must be a ScoreModel or another scoresde.Model{hint}"
