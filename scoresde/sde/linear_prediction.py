"""What a network predicts on a linear SDE, and the conversions between predictions, block by block.

A block of one channel has the predictions of `prediction`. With m channels and R the Cholesky factor of Sigma,

    data     D, one channel
    noise    e = [R^{-1} (z - A D)]_m, the unit noise of the last channel. It is all that the flow needs: -e/R_mm is the last channel's score,
             as in CLD (Dockhorn et al. 2022, arXiv 2112.07068, section 3.2)
    edm      F = (D - c z)/c_F, with c z the best linear estimate of data N(0, s^2) and c_F the rms of what it leaves. A zero network is then
             exact for these data, as is one with the mixed score of CLD
    score    -Sigma^{-1} (z - A D), all m channels; only a model has it, no network predicts it
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics.arrays import values_are_known
from ..numerics.coefficients import Coefficient, add, compose, inverse, root
from .linear import LinearSDE
from .prediction import PREDICTIONS, Direction, Preconditioned, Prediction, convert

# Coefficients of the state and of a prediction.
Pair = tuple[Tensor, Tensor]


def linear_conversion(sde: LinearSDE, t: Tensor, source: Prediction, target: Prediction) -> Pair:
    """(c_z, c_out) with target = c_z z + c_out source in the basis, at the times `(n,)`.

    Raises:
        ValueError: a prediction that this process does not have, or one that does not determine the target at some t.
    """
    pair = _of_numbers(sde, t, source, target) if sde.channels == 1 else _of_matrices(sde, t, source, target)
    if values_are_known(pair[1]) and not bool(pair[0].isfinite().all() and pair[1].isfinite().all()):
        bad = ~(pair[0].flatten(1).isfinite().all(1) & pair[1].flatten(1).isfinite().all(1))
        remedy = "stop at a larger t" if source == "data" else "at zero signal use prediction='data', or start at a smaller t"
        raise ValueError(
            f"prediction={source!r} does not determine the {target} at t={float(t.expand(len(bad))[bad][0]):g} on {sde!r}: {remedy}"
        )
    return pair


def _of_numbers(sde: LinearSDE, t: Tensor, source: Prediction, target: Prediction) -> Pair:
    alpha, variance = sde.signal(t), sde.covariance(t)
    sigma = variance.sqrt()
    if source == target:
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if (source, target) in (("noise", "score"), ("score", "noise")):
        pair = torch.zeros_like(alpha), -sigma if target == "noise" else -1 / sigma
    else:
        pair = convert(alpha, sigma, _direction(sde, alpha, sigma, source), _direction(sde, alpha, sigma, target))
    # What is known has no noise, and no score.
    known = (sigma == 0) if target in ("noise", "score") else torch.zeros_like(sigma, dtype=torch.bool)
    return torch.where(known, 0.0, pair[0]), torch.where(known, 0.0, pair[1])


def _direction(sde: LinearSDE, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Pair:
    """(a, b) with prediction = a x + b eps in each block."""
    if isinstance(prediction, Direction):
        raise ValueError(f"a Direction has one a and one b, and {sde!r} needs them for each block: use a named prediction")
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    if isinstance(prediction, Preconditioned):
        s = prediction.scale()
        c_in = (alpha**2 * s**2 + sigma**2).rsqrt()
        return prediction.sign * sigma / s * c_in, -prediction.sign * alpha * s * c_in
    known: dict[str, Pair] = {"data": (one, zero), "noise": (zero, one), "score": (zero, -1 / sigma), "velocity": (-sigma, alpha)}
    if prediction not in known:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}; got {prediction!r}")
    return known[prediction]


def _of_matrices(sde: LinearSDE, t: Tensor, source: Prediction, target: Prediction) -> Pair:
    a, covariance = sde.signal(t), sde.covariance(t)
    if source == target and source != "score":
        return torch.zeros_like(a).mT, torch.ones_like(a[..., 0, 0])
    c_z, c_out = _to_data(sde, a, covariance, source)
    e_z, e_data = _from_data(sde, a, covariance, target)
    whole = add(e_z, compose(e_data, c_z)), compose(e_data, c_out)
    assert isinstance(whole[0], Tensor)
    assert isinstance(whole[1], Tensor)
    return whole[0], whole[1]


def _to_data(sde: LinearSDE, a: Tensor, covariance: Tensor, source: Prediction) -> tuple[Tensor, Tensor]:
    """(c_z, c_out) with D = c_z z + c_out source: (n, K, 1, m) and (n, K)."""
    if source == "data":
        return torch.zeros_like(a).mT, torch.ones_like(a[..., 0, 0])
    if source == "noise":
        w = inverse(root(covariance))[..., -1:, :]
        gain = w @ a
        return w / gain, -1 / gain[..., 0, 0]
    if isinstance(source, Preconditioned):
        s = source.scale()
        skip = s**2 * torch.linalg.solve(s**2 * a @ a.mT + covariance, a).mT
        return skip, source.sign * s * (1 - (skip @ a)[..., 0, 0]).clamp(min=0).sqrt()
    raise ValueError(f"a network on {sde!r} predicts 'data', 'noise' or 'edm', got prediction={source!r}")


def _from_data(sde: LinearSDE, a: Tensor, covariance: Tensor, target: Prediction) -> tuple[Coefficient, Coefficient]:
    """(e_z, e_data) with target = e_z z + e_data D."""
    if target == "data":
        return torch.zeros_like(a).mT, torch.ones_like(a[..., 0, 0])
    if target == "noise":
        w = inverse(root(covariance))[..., -1:, :]
        return w, -(w @ a)[..., 0, 0]
    if target == "score":
        precision = inverse(covariance)
        return -precision, precision @ a
    if isinstance(target, Preconditioned):
        c_z, c_out = _to_data(sde, a, covariance, target)
        return -c_z / c_out[..., None, None], 1 / c_out
    raise ValueError(f"there is no {target} on {sde!r}: it has 'data', 'noise', 'edm' and 'score'")
