"""Denoising score matching over the path (Vincent 2011; Ho et al. 2020, arXiv 2006.11239; Bishop, section 20.3.2).

With z = alpha x + sigma eps,

    L(x) = lambda(t) | s(z, t) - grad_z log q(z | x) |^2 / d,        grad_z log q(z | x) = -eps/sigma,

a mean over the d coordinates of the event. The error of any other prediction a x + b eps is a known factor times that of the score. Every
loss is therefore computed in the network's own output, where nothing cancels, and weighted by that factor in float64. The weighting "velocity"
on a rectified flow is flow matching, |v - (eps - x)|^2 / d (Lipman et al. 2023, arXiv 2210.02747, eq. 23).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..models.base import Model, require_model
from ..numerics.arrays import Time, event_mean, expand
from ..numerics.inputs import as_state
from ..numerics.random import as_generator, randn
from ..sde.base import as_time
from ..sde.linear import LinearSDE
from ..sde.prediction import direction
from .blocks import block_loss
from .times import TimeSampler, draw_times
from .weightings import WeightingLike, output_weight


def denoising(
    model: Model,
    x: Tensor,
    /,
    weighting: WeightingLike = "noise",
    time_sampler: TimeSampler | None = None,
    generator: Generator | None = None,
    *,
    t: Tensor | None = None,
    noise: Tensor | Literal["antithetic"] | None = None,
    **cond: Any,
) -> Tensor:
    """Denoising score matching over the path; one value per sample, a mean over the event's coordinates.

    Args:
        model: a `ScoreModel`, or anything with the same calls.
        x: data, `(B, *event)`.
        weighting: "noise": the simple loss of Ho et al., eq. 14, |noise error|^2, which is 1 for a network that predicts no noise;
            "data", "velocity": the squared error of that quantity; "sigma2": lambda = sigma^2 on the score, the same as "noise";
            "likelihood": lambda = g^2 on the score; "elbo": half of "likelihood"; "min_snr", "p2", "edm", "debiased", or with other parameters
            `losses.min_snr(gamma)`, `losses.p2(k, gamma)`, `losses.edm(sigma_data)`; or a function `(sde, t) -> lambda(t)` on the score's
            squared error. `scoresde.losses.weightings` has the table.
        time_sampler: "uniform" on [t_min, 1], "stratified", "low_discrepancy", "discrete" (a chain's own times), "likelihood" (importance
            sampling for that weighting, corrected), "log_normal" (EDM's density, not corrected), or a function
            `(sde, n, generator) -> times`, or `Times(times, weights)`. By default "discrete" on a chain and "uniform" elsewhere.
        generator: the source of times and noise.
        t: times `(B,)` in place of random ones.
        noise: noise of the shape of the state (that of `x`, unless blocks have several channels) in place of random noise; or "antithetic":
            the mean of the losses at eps and at -eps, for two network calls. Terms odd in eps cancel; |eps|^2 is even and stays.
        **cond: passed to the network.

    Returns:
        The loss of each sample, `(B,)`, in float32 or higher precision. Multiply by the event's size for the sum over coordinates.

    Raises:
        TypeError: `x` or `noise` holds no real numbers, or another argument has a wrong type; names it.
        ValueError: an unknown weighting or time sampler, a weight that is infinite or negative at some t, times outside [0, 1] or of another
            shape than `(B,)`, or noise of another shape than `x`.
    """
    require_model(model, "output", "prediction")
    x, generator = as_state("x", x), as_generator(generator)
    if t is None:
        t, importance = draw_times(model.sde, len(x), time_sampler, generator)
        loss = denoising(model, x, weighting, None, generator, t=t, noise=noise, **cond)
        return expand(importance, loss) * loss
    if isinstance(noise, str):
        if noise != "antithetic":
            raise ValueError(f"noise must be a tensor or 'antithetic', got {noise!r}")
        shape = model.sde.state_shape(x.shape) if isinstance(model.sde, LinearSDE) else x.shape
        eps = randn(shape, generator, dtype=x.dtype, device=x.device)
        return 0.5 * (
            denoising(model, x, weighting, t=t, noise=eps, **cond) + denoising(model, x, weighting, t=t, noise=-eps, **cond)
        )
    t = as_time(t)
    z, noise = model.sde.perturb(x, t, generator, noise)
    if isinstance(model.sde, LinearSDE):
        return block_loss(model, model.sde, x, t, z, noise, weighting, cond)
    a, b = direction(model.sde, t, model.prediction)
    target = expand(a, x) * x + expand(b, x) * noise
    error = model.output(z, t, **cond) - target
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    squared = event_mean(error**2)
    return expand(output_weight(model.sde, t, model.prediction, weighting), squared) * squared


def denoising_at(
    model: Model, x: Tensor, /, t: Time, generator: Generator | None = None, *, noise: Tensor | None = None, **cond: Any
) -> Tensor:
    """Vincent's denoising score matching at one noise level, 1/2 |s(z, t) - grad_z log q(z | x)|^2 / d, of shape `(B,)`.

    On average over x and z this loss is `explicit` at z plus a constant that does not depend on the model (Vincent 2011, eq. 11).

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: data, `(B, *event)`.
        t: the time, a number or `(B,)`.
        generator: the source of the noise.
        noise: noise of the shape of `x` in place of random noise.
        **cond: passed to the network.
    """
    x, t = as_state("x", x), as_time(t)
    t = t if t.ndim else t.expand(len(x))
    return 0.5 * denoising(model, x, lambda sde, t: torch.ones_like(t), generator=generator, t=t, noise=noise, **cond)
