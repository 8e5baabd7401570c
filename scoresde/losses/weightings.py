"""Weightings of the denoising loss, lambda(t) on a squared error.

A weighting is a quantity and a factor on its squared error. The errors of all quantities are equal up to known factors: with
SNR = alpha^2/sigma^2 = e^{2 lambda},

    |data error|^2 = |noise error|^2 / SNR = sigma^4/alpha^2 |score error|^2,

so that each weighting is also a factor on the squared noise error:

    name          quantity and factor                      on the noise error      source
    noise         1 on the noise                           1                       Ho et al. 2020, arXiv 2006.11239, eq. 14
    data          1 on the data                            1/SNR
    velocity      1 on the velocity                        (alpha^2 + sigma^2)^2/alpha^2    Salimans and Ho 2022, arXiv 2202.00512
    sigma2        sigma^2 on the score                     1                       Song and Ermon 2019, arXiv 1907.05600, section 4.2
    likelihood    g^2 on the score                         g^2/sigma^2             Song et al. 2021, arXiv 2101.09258, eq. 7
    elbo          g^2/2 on the score                       g^2/(2 sigma^2)         Kingma et al. 2021, arXiv 2107.00630, eq. 17
    min_snr       min(SNR, gamma) on the data              min(1, gamma/SNR)       Hang et al. 2023, arXiv 2303.09556
    p2            (k + SNR)^-gamma on the noise            (k + SNR)^-gamma        Choi et al. 2022, arXiv 2204.00227, eq. 8
    edm           1 on F, the prediction of EDM            1 + 1/(SNR sigma_data^2)        Karras et al. 2022, arXiv 2206.00364, table 1
    debiased      sqrt(SNR) on the data                    1/sqrt(SNR)             Yu et al. 2023, arXiv 2310.08442

The factor on the quantity of the first column is free of cancellation, and finite wherever the product is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..numerics.arrays import Time, values_are_known
from ..numerics.inputs import as_function, as_number, as_values
from ..sde.base import SDE, as_time
from ..sde.prediction import Preconditioned, Prediction, slope


@dataclass(frozen=True)
class Weighting:
    """`factor(sde, t)` on the squared error of `quantity`.

    Raises:
        TypeError: a factor that does not take these two.
    """

    quantity: Prediction
    factor: Callable[[SDE, Tensor], Tensor]

    def __post_init__(self) -> None:
        as_function("factor", self.factor, 2, of="(sde, t)")


WeightingLike = str | Weighting | Callable[[SDE, Tensor], Tensor]


def _one(sde: SDE, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the squared data error: a clamp from above, so that small noise does not dominate.

    For a noise network the factor is min(1, gamma/SNR), and for a velocity network on a variance-preserving path min(SNR, gamma)/(SNR + 1): the
    three forms of Hang et al. are one loss. At alpha = 0 the factor on the noise error is 1.

    Raises:
        ValueError: when a loss uses it: `gamma` is not positive and finite.
    """
    return Weighting("noise", partial(_min_snr, gamma=gamma))


def _min_snr(sde: SDE, t: Tensor, gamma: float) -> Tensor:
    gamma = as_number("gamma", gamma, above=0.0)
    return (gamma * torch.exp(-2 * sde.half_log_snr(t))).clamp(max=1)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
    """(k + SNR)^-gamma on the squared noise error: less weight where the noise is too small to be visible.

    Raises:
        ValueError: when a loss uses it: `k` is negative, or one of the two is not finite.
    """
    return Weighting("noise", partial(_p2, k=k, gamma=gamma))


def _p2(sde: SDE, t: Tensor, k: float, gamma: float) -> Tensor:
    k, gamma = as_number("k", k, 0.0), as_number("gamma", gamma)
    return (k + torch.exp(2 * sde.half_log_snr(t))) ** -gamma


def edm(sigma_data: float = 0.5) -> Weighting:
    """(r^2 + sigma_data^2)/(r sigma_data)^2 on the squared data error, r = sigma/alpha: the plain error of EDM's network F.

    A zero F then has an expected loss of 1 for data of that standard deviation, at every t.

    Raises:
        ValueError: when a loss uses it: `sigma_data` is not positive and finite.
    """
    return Weighting(Preconditioned(sigma_data), _one)


def debiased() -> Weighting:
    """1/sqrt(SNR) on the squared noise error, or equally sqrt(SNR) on the squared data error."""
    return Weighting("data", _root_snr)


def _root_snr(sde: SDE, t: Tensor) -> Tensor:
    return torch.exp(sde.half_log_snr(t))


WEIGHTINGS: dict[str, Weighting] = {
    "noise": Weighting("noise", _one),
    "data": Weighting("data", _one),
    "velocity": Weighting("velocity", _one),
    "sigma2": Weighting("score", lambda sde, t: sde.sigma(t) ** 2),
    "likelihood": Weighting("score", lambda sde, t: sde.diffusion(t) ** 2),
    "elbo": Weighting("score", lambda sde, t: 0.5 * sde.diffusion(t) ** 2),
    "min_snr": min_snr(),
    "p2": p2(),
    "edm": edm(),
    "debiased": debiased(),
}


def resolve(weighting: WeightingLike, prediction: Prediction) -> Weighting:
    """The weighting of that name, or around a function of one's own.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(weighting, Weighting):
        return weighting
    if callable(weighting):
        return Weighting("score", as_function("weighting", weighting, 2, of="(sde, t)"))
    if weighting == "edm" and isinstance(prediction, Preconditioned):
        return edm(prediction.sigma_data)  # one scale of the data for the network and for its loss
    if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)} or a function of (sde, t); got {weighting!r}")
    return WEIGHTINGS[weighting]


def output_weight(sde: SDE, t: Time, prediction: Prediction, weighting: WeightingLike) -> Tensor:
    """The factor on the squared error of a network's own output that makes it the weighted loss; float64, like `t`.

    Raises:
        TypeError: the weighting is a function that returns no numbers.
        ValueError: an unknown weighting, or a factor that is infinite or negative at some t, where it is known (`values_are_known`).
    """
    resolved = resolve(weighting, prediction)
    error = slope(sde, t, prediction, resolved.quantity)
    t = as_time(t)
    # A copy: a function of the user may work in place.
    factor = as_values("weighting", resolved.factor(sde, t.clone()), t)
    weight = factor * error**2
    if values_are_known(weight) and not bool((weight.isfinite() & (weight >= 0)).all()):
        wrong = ~(weight.isfinite() & (weight >= 0))
        at, value = t.broadcast_to(weight.shape)[wrong].flatten()[0].item(), weight[wrong].flatten()[0].item()
        what = "negative" if value < 0 and value > -torch.inf else "not finite"
        raise ValueError(f"weighting {weighting!r} is {what} at t={at:g} for a network that predicts {prediction!r}")
    return weight
