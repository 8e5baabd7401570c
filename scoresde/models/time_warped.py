"""A model of one path on another path: the same states up to a factor, at times of equal noise-to-signal ratio.

Let the model's own path have the scales alpha_o, sigma_o. Its states at the time u with

    sigma_o(u)/alpha_o(u) = sigma(t)/alpha(t)

are those of the other path at t, times alpha_o(u)/alpha(t) = sigma_o(u)/sigma(t). Data and noise are the same, so that

    D(z, t) = D_o(sigma_o(u)/sigma(t) z, u).

(Karras et al. 2022, arXiv 2206.00364, section 3 and appendix C.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..numerics.arrays import Time, expand, values_are_known
from ..numerics.inputs import as_state
from ..sde.base import SDE, as_time
from ..sde.prediction import Direction, Preconditioned, Prediction, direction
from .base import Model
from .wrapper import Wrapper


class WarpedTime(NamedTuple):
    """A time of a call: as the model on its own path prepared it, and the factor on the state."""

    inner: Any
    scale: float


class TimeWarped(Wrapper):
    """A model on another path; the formulas are in the docstring of the module. One call of it is one call of the model.

    Args:
        model: any model. Its prediction stays the same combination of data and noise.
        sde: the path of the states here. The model's own path must reach its noise-to-signal ratios, wherever it is called.

    Raises:
        TypeError: `model` is no model, or `sde` is no path.
    """

    def __init__(self, model: Model, sde: SDE) -> None:
        super().__init__(model)
        if not isinstance(sde, SDE):
            raise TypeError(f"sde must be a path such as EDM(), got {sde!r}")
        self.sde = sde
        self.prediction: Prediction = _on_both(model)

    def own_time(self, t: Time) -> Tensor:
        """u(t), float64 of the shape of `t`.

        Raises:
            ValueError: the model's own path does not reach the noise-to-signal ratio at some time. Only known values are checked
                (`values_are_known`).
        """
        return own_time(self.model.sde, self.sde, t)

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[WarpedTime]:
        """What the model prepares at its own times, and the factors on the state.

        Raises:
            ValueError: as `own_time`.
        """
        t = as_time(torch.tensor(times, dtype=torch.float64, device="cpu"))
        u = self.own_time(t)
        scales = (self.model.sde.sigma(u) / self.sde.sigma(t)).tolist()
        return [WarpedTime(*each) for each in zip(self.model.prepare(u.tolist(), z), scales, strict=True)]

    def output(self, z: Tensor, t: Time | WarpedTime, **cond: object) -> Tensor:
        """The model's own prediction, of the shape of `z`."""
        z = as_state("z", z)
        if isinstance(t, WarpedTime):
            return self.model.output(t.scale * z, t.inner, **cond)
        u = self.own_time(t)
        return self.model.output(expand(self.model.sde.sigma(u) / self.sde.sigma(t), z) * z, u, **cond)


def own_time(own: SDE, sde: SDE, t: Time) -> Tensor:
    """u with sigma/alpha of `own` at u equal to that of `sde` at `t`.

    Raises:
        ValueError: there is no such u.
    """
    target = sde.half_log_snr(t)
    u = own.time(target)
    if values_are_known(u):
        # A bisection that finds nothing ends at an end of the path.
        inside = (u >= 0) & (u <= 1 + 1e-9)
        reached = own.half_log_snr(u.clamp(0, 1))
        found = inside & ((reached == target) | ((reached - target).abs() <= 1e-8 * (1 + target.abs())))
        if not bool(found.all()):
            ratio = float((-target[~found].flatten()[0]).exp())
            raise ValueError(
                f"{own!r} has no time at which sigma/alpha is {ratio:g}: keep the path {sde!r}, or the times of the steps, to its range"
            )
    return u.clamp(0, 1)


def _on_both(model: Model) -> Prediction:
    """The model's prediction on the other path. Data, noise and F depend on the noise-to-signal ratio alone and keep their names."""
    prediction = model.prediction
    if prediction in ("data", "noise") or isinstance(prediction, Preconditioned):
        return prediction
    return Direction(*(partial(_part, model.sde, prediction, part) for part in (0, 1)))


def _part(own: SDE, prediction: Prediction, part: int, sde: SDE, t: Tensor) -> Tensor:
    return direction(own, own_time(own, sde, t), prediction)[part]
