"""Wrappers that change the data prediction of a model, with or without its derivative.

At alpha = 0 the state says nothing of the data: conversions divide 0 by 0, and so do covariances. A wrapper that needs them therefore
evaluates the model at the time t' at which alpha/sigma is `least_signal`, where the state is as good as noise still,

    D(z, t)  ~  D(sigma(t')/sigma(t) z, t').
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..numerics.arrays import Time, expand
from ..numerics.inputs import as_state
from ..sde.base import SDE, as_time
from ..sde.prediction import Prediction, conversion
from .base import Model
from .wrapper import Wrapper
from .wrappers import GraphedModel


class PreparedData(NamedTuple):
    """A time of a call.

    Attributes:
        t: the time t' at which the model inside is evaluated; a float, or float64 of shape `(B,)`.
        scale: sigma(t')/sigma(t), the factor on the state.
        inner: t' as the model inside prepared it.
        c_z, c_out: the factors in data = c_z z + c_out output.
    """

    t: Time
    scale: Time
    inner: Any
    c_z: Time
    c_out: Time


class DataWrapper(Wrapper):
    """A wrapper whose own prediction is made from the data prediction of the model inside.

    Attributes:
        least_signal: the smallest alpha/sigma at which the model inside is evaluated; 0 for any.
    """

    prediction: Prediction = "data"
    least_signal: ClassVar[float] = 0.0

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedData]:
        """What the model inside prepares, and the factors of the data prediction at each time.

        Raises:
            ValueError: the prediction of the model inside does not determine the data at some time.
        """
        t, scale = self._evaluated(as_time(torch.tensor(times, dtype=torch.float64, device="cpu")))
        factors = conversion(self.sde, t, self.model.prediction, "data")
        columns = t.tolist(), scale.tolist(), self.model.prepare(t.tolist(), z), *(c.tolist() for c in factors)
        return [PreparedData(*each) for each in zip(*columns, strict=True)]

    def at(self, t: Time | PreparedData) -> PreparedData:
        """A time of a call as `prepare` makes it; one that is prepared stays as it is."""
        if isinstance(t, PreparedData):
            return t
        at, scale = self._evaluated(as_time(t))
        return PreparedData(at, scale, at, *conversion(self.sde, at, self.model.prediction, "data"))

    def inner_data(self, z: Tensor, at: PreparedData, **cond: object) -> Tensor:
        """D of the model inside at t', in the dtype of the state there, `z`; see `PreparedData.scale`."""
        out = self.model.output(z, at.inner, **cond)
        dtype = torch.promote_types(z.dtype, out.dtype)
        return (times(at.c_z, z.to(dtype)) + times(at.c_out, out.to(dtype))).to(z.dtype)

    def inner_state(self, z: Tensor, at: PreparedData) -> Tensor:
        """The state at t' that stands for the state `z` at t."""
        z = as_state("z", z)
        return z if isinstance(at.scale, float) and at.scale == 1 else times(at.scale, z)

    def _evaluated(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t' and sigma(t')/sigma(t), float64 of the shape of `t`."""
        if not self.least_signal:
            return t, torch.ones_like(t)
        return with_signal(self.sde, t, self.least_signal)


def with_signal(sde: SDE, t: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The latest time t' <= t at which alpha/sigma is at least `least`, and sigma(t')/sigma(t)."""
    lowest = math.log(least)
    low = sde.half_log_snr(t) < lowest
    at = torch.where(low, sde.time(torch.full_like(t, lowest)), t)
    return at, torch.where(low, sde.sigma(at) / sde.sigma(t), 1.0)


def times(factor: Time, z: Tensor) -> Tensor:
    """`factor`, a number or a float64 tensor `(B,)`, times a state."""
    return factor * z if isinstance(factor, float) else expand(torch.as_tensor(factor), z) * z


def differentiable(z: Tensor) -> Tensor:
    """`z` as the variable of a derivative: itself where a caller differentiates by it too, else a copy without history.

    Raises:
        RuntimeError: inside torch.inference_mode, which records no graph.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("this model needs the gradient of its network: use torch.no_grad() in place of torch.inference_mode()")
    return z if torch.is_grad_enabled() and z.requires_grad else z.detach().clone().requires_grad_()


def require_differentiable(wrapper: Model, model: Model) -> None:
    """Raise for a model that records no graph, as one that is replayed from a CUDA graph does.

    Raises:
        ValueError: names both.
    """
    if isinstance(model, GraphedModel):
        raise ValueError(
            f"{type(wrapper).__name__} differentiates its model, and a CUDA graph records no gradients: give the model itself"
        )
