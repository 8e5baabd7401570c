"""Noisy observations of the data itself, y = x + sigma_y n: the posterior is exact for every prior, without a derivative.

State and observation are two Gaussian observations of x. They are as good as one, with r = sigma/alpha:

    rho^2 = 1/(1/r^2 + 1/sigma_y^2),        u = rho^2 (alpha z/sigma^2 + y/sigma_y^2),
    E[x | z, y] = D(alpha' u, t')            at the time t' with sigma'/alpha' = rho.

Without a state this is Bayes' formula itself: samples of p(x | y) are samples from z = alpha(t) y on, at the time with sigma/alpha = sigma_y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.base import Model
from ..models.data_wrapper import times as scaled
from ..models.wrapper import Wrapper
from ..numerics.arrays import Time
from ..numerics.inputs import as_number, as_state, as_state_like
from ..sde.base import as_time
from ..sde.prediction import Prediction, conversion


class PreparedObservation(NamedTuple):
    """A time of a call: t' as the model inside prepared it, the factors of alpha' u = on_z z + on_y y, and those of its data prediction."""

    inner: Any
    on_z: Time
    on_y: Time
    c_z: Time
    c_out: Time


class Denoising(Wrapper):
    """E[x | z, y] for y = x + sigma_y n; see `denoising`."""

    prediction: Prediction = "data"

    def __init__(self, model: Model, std: float) -> None:
        super().__init__(model)
        self.std = as_number("std", std, above=0.0)

    def prepare(self, times: Sequence[float], z: Tensor) -> Sequence[PreparedObservation]:
        """What the model inside prepares at the times t', and the factors of the state and of the observation."""
        own, *factors = self._factors(as_time(torch.tensor(times, dtype=torch.float64, device="cpu")))
        columns = self.model.prepare(own.tolist(), z), *(factor.tolist() for factor in factors)
        return [PreparedObservation(*each) for each in zip(*columns, strict=True)]

    def output(self, z: Tensor, t: Time | PreparedObservation, **cond: Any) -> Tensor:
        """E[x | z, y], of the shape of `z`. `y` has that shape, or one row for all samples.

        Raises:
            TypeError: y is missing.
        """
        z = as_state("z", z)
        y = cond.pop("y", None)
        if not isinstance(y, Tensor):
            raise TypeError(f"the posterior needs its observation, y=, a tensor with one row a sample, got {type(y).__name__}")
        y = as_state_like("y", y.to(z).expand_as(z) if y.shape[:1] == (1,) else y.to(z), z, "z")
        if not isinstance(t, PreparedObservation):
            own, *factors = self._factors(as_time(t))
            t = PreparedObservation(own, *factors)
        v = scaled(t.on_z, z) + scaled(t.on_y, y)
        out = self.model.output(v, t.inner, **cond)
        dtype = torch.promote_types(v.dtype, out.dtype)
        return (scaled(t.c_z, v.to(dtype)) + scaled(t.c_out, out.to(dtype))).to(z.dtype)

    def _factors(self, t: Tensor) -> tuple[Tensor, ...]:
        """t', the factors on z and on y of the state there, and (c_z, c_out) of the data prediction there."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        # 1/r^2 = alpha^2/sigma^2 is 0 without a signal.
        rho2 = 1 / ((alpha / sigma) ** 2 + self.std**-2)
        own = self.sde.time(-0.5 * rho2.log())
        scale = self.sde.alpha(own) * rho2
        return own, scale * alpha / sigma**2, scale / self.std**2, *conversion(self.sde, own, self.model.prediction, "data")

    def extra_repr(self) -> str:
        return f"std={self.std:g}"


def denoising(model: Model, std: float) -> Denoising:
    """The model of x given y = x + `std` n, with y in the call, `y=`; the formulas are in the docstring of the module.

        ss.sample(denoising(model, 0.3), y.shape, steps=20, y=y)

    The model is evaluated at noise levels a little below those of the states, and never above `std`: they must lie on its path.

    Raises:
        TypeError: `model` is no model, or `std` is no number.
        ValueError: `std` is not positive.
    """
    return Denoising(model, std)
