"""Denoising score matching on a linear SDE: the error of the network's own output, weighted block by block in the basis.

The weightings of `weightings` keep their meaning where they have one. The noise is that of the last channel, whose score the flow needs. SNR is
that of the process's clock. "likelihood" is |G^T score error|^2, which is the squared data error of a block times
A^T Sigma^{-1} G G^T Sigma^{-1} A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import event_mean, expand
from ..numerics.coefficients import inverse, is_matrix, product
from ..numerics.inputs import as_values
from ..sde.linear import LinearSDE
from ..sde.linear_prediction import linear_conversion
from ..sde.prediction import Prediction
from .weightings import WeightingLike, resolve


def block_loss(
    model: Model, sde: LinearSDE, x: Tensor, t: Tensor, z: Tensor, noise: Tensor, weighting: WeightingLike, cond: dict[str, object]
) -> Tensor:
    """The weighted squared error of the model at the states `z` = A x + R `noise`, a mean over the coordinates of the data, `(B,)`."""
    error = model.output(z, t, **cond) - target(sde, x, t, z, noise, model.prediction)
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    on_error, factor = block_weights(sde, t, model.prediction, weighting)
    squared = event_mean(sde.times(on_error, error).square())
    return expand(factor, squared) * squared


def target(sde: LinearSDE, x: Tensor, t: Tensor, z: Tensor, noise: Tensor, prediction: Prediction) -> Tensor:
    """What the network should return, of the shape of `x`."""
    if prediction == "data":
        return x
    if prediction == "noise":
        return noise if sde.channels == 1 else noise[:, -1]
    c_z, c_x = linear_conversion(sde, t, "data", prediction)
    return sde.times(c_z, z) + sde.times(c_x, x)


def block_weights(sde: LinearSDE, t: Tensor, prediction: Prediction, weighting: WeightingLike) -> tuple[Tensor, Tensor]:
    """What multiplies the error of a network's output in each block, `(n, K)`, and the factor on its square, `(n,)`.

    Raises:
        TypeError: the weighting is a function that returns no numbers, or one for paths of one sigma(t).
        ValueError: an unknown weighting, or one that is infinite at some t.
    """
    if weighting in ("likelihood", "elbo"):
        _, slope = linear_conversion(sde, t, prediction, "data")
        a, covariance = sde.signal(t), sde.covariance(t)
        # What is known has no noise, and adds nothing.
        pull = inverse(covariance) if is_matrix(a) else torch.where(covariance == 0, 0.0, 1 / covariance)
        if is_matrix(a):
            row = product(pull, a)
            rate = (row.mT @ sde.noise_rates(t) @ row)[..., 0, 0]
        else:
            rate = (a * pull) ** 2 * sde.noise_rates(t)
        return slope * rate.sqrt(), torch.full_like(t, 0.5 if weighting == "elbo" else 1.0)
    resolved = resolve(weighting, prediction)
    _, slope = linear_conversion(sde, t, prediction, resolved.quantity)
    return slope, as_values("weighting", resolved.factor(sde, t.clone()), t)
