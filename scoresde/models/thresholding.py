"""Data predictions held to the range of the data, for networks whose samples leave it.

With the centre c = (low + high)/2 and the half range r = (high - low)/2, the data prediction D of a model becomes, in each sample alone,

    static:     D' = clamp(D, low, high)
    dynamic:    D' = c + r clamp(y, -s, s)/s,      y = (D - c)/r,      s = min(max(1, quantile_q |y|), s_max).

Static thresholding is the clipping of Ho et al. 2020, arXiv 2006.11239 (their code). Dynamic thresholding is Saharia et al. 2022 (Imagen),
arXiv 2205.11487, section 2.3, with c = 0, r = 1 and no s_max there.

D' is another field than D. It defines another probability flow, to which samples, encodings and densities of the wrapped model belong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.arrays import Time, expand, flatten_events
from ..numerics.inputs import as_number, as_state
from .base import Model
from .data_wrapper import DataWrapper, PreparedData


def thresholded(
    model: Model, low: float = -1.0, high: float = 1.0, *, quantile: float | None = None, max_scale: float | None = None
) -> ThresholdedModel:
    """`model` with its data prediction held to [low, high]; the formulas are in the docstring of the module.

    For networks whose samples leave the range of the data. It changes the distribution of the samples, so that a model whose predictions stay
    inside should go without it.

    Args:
        model: any model; the wrapper calls it once in each of its own calls.
        low, high: the range of the data, in the units of the model.
        quantile: q of dynamic thresholding, 0.995 for example; None for static thresholding.
        max_scale: s_max, the largest s of dynamic thresholding; None for no limit.

    Raises:
        TypeError: `model` is no model, or an argument is no number; names it.
        ValueError: `high` is not above `low`, `quantile` is outside (0, 1], `max_scale` is below 1 or comes without `quantile`.
    """
    return ThresholdedModel(model, low, high, quantile=quantile, max_scale=max_scale)


class ThresholdedModel(DataWrapper):
    """A model whose own prediction is the thresholded data prediction of another one; see `thresholded`.

    Gradients flow through it: where D is clipped, the gradient of D' is 0 (static) or that of 1/s (dynamic).

    `compile=True` compiles the network inside. `cuda_graph=True` works on a `ScoreModel` alone: threshold the faster model,
    `thresholded(graphed(model))`.
    """

    def __init__(
        self, model: Model, low: float = -1.0, high: float = 1.0, *, quantile: float | None = None, max_scale: float | None = None
    ) -> None:
        super().__init__(model)
        self.low = as_number("low", low)
        self.high = as_number("high", high, above=self.low)
        self.quantile = None if quantile is None else as_number("quantile", quantile, high=1.0, above=0.0)
        self.max_scale = math.inf if max_scale is None else as_number("max_scale", max_scale, 1.0)
        if max_scale is not None and quantile is None:
            raise ValueError("max_scale= limits the scale of dynamic thresholding: give quantile= too")

    def output(self, z: Tensor, t: Time | PreparedData, **cond: object) -> Tensor:
        """D', of the shape and the dtype of `z`."""
        return self.threshold(self.inner_data(as_state("z", z), self.at(t), **cond))

    def threshold(self, data: Tensor) -> Tensor:
        """D' from D, both `(B, *event)`."""
        if self.quantile is None:
            return data.clamp(self.low, self.high)
        c, r = (self.low + self.high) / 2, (self.high - self.low) / 2
        y = (data.to(torch.promote_types(data.dtype, torch.float32)) - c) / r
        s = expand(quantile_of_rows(flatten_events(y.abs()), self.quantile).clamp(1, self.max_scale), y)
        return (c + r * y.clamp(-s, s) / s).to(data.dtype)

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}, quantile={self.quantile}, max_scale={self.max_scale:g}"


def quantile_of_rows(values: Tensor, q: float) -> Tensor:
    """The quantile of each row of `(B, d)`, `(B,)`: linear between the two neighbours of rank q (d - 1).

    `torch.quantile` sorts all values, and older versions refuse 16 million of them. The largest (1 - q) d are enough.
    """
    rank = q * (values.shape[1] - 1)
    below = math.floor(rank)
    largest = values.topk(values.shape[1] - below, dim=1).values  # in falling order: the last one has the rank `below`
    lower, upper = largest[:, -1], largest[:, max(0, largest.shape[1] - 2)]
    return lower + (rank - below) * (upper - lower)
