"""Errors and losses of a model as functions of t.

With z = alpha x + sigma eps, S the exact score and lambda(t) a weighting on the squared score error (`losses.weightings`),

    error(t)   = lambda(t) E | s(z, t) - S(z, t) |^2 / d
    loss(t)    = lambda(t) E | s(z, t) - grad_z log q(z | x) |^2 / d        Vincent 2011, eq. 11: loss(t) = error(t) + optimal(t)
    optimal(t) = lambda(t) E | S(z, t) - grad_z log q(z | x) |^2 / d = lambda(t) E tr Cov( grad_z log q(z | x) | z ) / d.

The optimal loss is the lower bound of every model, and `zero` the loss of a model that predicts 0. A loss means little without these two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ..losses.denoising import denoising
from ..losses.weightings import WeightingLike, output_weight
from ..models.analytic import ZeroModel
from ..models.base import Model, require_model
from ..numerics.arrays import event_mean, expand
from ..numerics.brief import line, shown
from ..numerics.inputs import as_numbers, as_state
from ..numerics.random import as_generator, randn
from ..sde.base import as_time
from ..sde.fingerprint import require_same_process


class Curve(NamedTuple):
    """A mean over samples at each time.

    Attributes:
        t: `(T,)` times.
        mean: `(T,)` means.
        stderr: `(T,)` their standard errors.
    """

    t: Tensor
    mean: Tensor
    stderr: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))

    def __str__(self) -> str:
        rows = zip(self.t.tolist(), self.mean.tolist(), self.stderr.tolist(), strict=True)
        return "\n".join(
            [f"{'t':>8} {'mean':>10} {'stderr':>9}", *(f"{t:8.4g} {mean:10.4g} {error:9.2g}" for t, mean, error in rows)]
        )


class LossByTime(NamedTuple):
    """Losses on the same noise.

    Attributes:
        loss: loss of the model.
        zero: loss of a network that predicts 0.
        optimal: loss of the exact model; None without one.
    """

    loss: Curve
    zero: Curve
    optimal: Curve | None


@torch.no_grad()
def score_error(
    model: Model,
    exact: Model,
    x: Tensor,
    times: Tensor | Sequence[float],
    weighting: WeightingLike = "sigma2",
    generator: Generator | None = None,
    **cond: Any,
) -> Curve:
    """lambda(t) E|s - S|^2 / d at each time, with fresh noise on `x` at each.

    Args:
        model: the evaluated model, on the path of `exact`.
        exact: the exact model of the distribution of `x`, for example `GaussianMixture.model(sde)`.
        x: data, `(B, *event)`.
        times: `(T,)`.
        weighting: as in `losses.denoising`: "sigma2" gives the error of the noise prediction, `lambda sde, t: torch.ones_like(t)` that of the
            score itself, "likelihood" the integrand whose half bounds the KL divergence (Song et al. 2021, arXiv 2101.09258, theorem 1).
        generator: the source of the noise.
        **cond: passed to the model, not to `exact`.

    Raises:
        TypeError: `model` or `exact` is no model.
        ValueError: fewer than two samples, an unknown weighting, or models of two paths.
    """
    require_model(model, "score")
    if not hasattr(exact, "sde"):
        raise TypeError(f"exact must be the exact model of the data, got {shown(exact)}: of a mixture it is mixture.model(sde)")
    require_model(exact, "score")
    require_same_process(model.sde, exact.sde, "the exact model")
    x, generator = as_state("x", x), as_generator(generator)

    def error(t: Tensor) -> Tensor:
        z, _ = model.sde.perturb(x, t, generator)
        squared = event_mean((model.score(z, t, **cond) - exact.score(z, t)).double().square())
        return expand(output_weight(model.sde, t, "score", weighting), squared) * squared

    t = _times(times)
    return _curve(t, [error(at) for at in t])


@torch.no_grad()
def loss_by_time(
    model: Model,
    x: Tensor,
    /,
    times: Tensor | Sequence[float],
    weighting: WeightingLike = "noise",
    exact: Model | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> LossByTime:
    """The denoising loss at each time, of the model, of a zero prediction and of the exact model, on the same noise.

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: data, `(B, *event)`.
        times: `(T,)`.
        weighting: as in `losses.denoising`.
        exact: the exact model of the distribution of `x`, for the optimal loss.
        generator: the source of the noise.
        **cond: passed to the model, not to `exact`.

    Raises:
        ValueError: fewer than two samples, or an unknown weighting.
    """
    require_model(model, "output", "prediction")
    x, generator = as_state("x", x), as_generator(generator)
    t = _times(times)
    noises = [randn(x.shape, generator, dtype=x.dtype, device=x.device) for _ in t]

    def curve(model: Model, **cond: Any) -> Curve:
        values = (
            denoising(model, x, weighting, t=at.expand(len(x)), noise=noise, **cond) for at, noise in zip(t, noises, strict=True)
        )
        return _curve(t, list(values))

    return LossByTime(curve(model, **cond), curve(ZeroModel(model.sde, model.prediction)), None if exact is None else curve(exact))


def _times(times: Tensor | Sequence[float]) -> Tensor:
    """The times of a curve, `(T,)`.

    Raises:
        TypeError: no real numbers.
        ValueError: another shape, none at all, or a time outside [0, 1].
    """
    t = as_time(as_numbers("times", times), "times")
    if t.ndim != 1 or len(t) == 0:
        raise ValueError(f"times must have shape (T,) with T >= 1, got {tuple(t.shape)}")
    return t


def _curve(t: Tensor, values: list[Tensor]) -> Curve:
    """The mean and its standard error at each time, from one tensor `(B,)` for each."""
    stacked = torch.stack(values).double().cpu()
    if stacked.shape[1] < 2:
        raise ValueError(f"a standard error needs at least 2 samples, got {stacked.shape[1]}")
    return Curve(t.cpu(), stacked.mean(1), stacked.std(1) / math.sqrt(stacked.shape[1]))
