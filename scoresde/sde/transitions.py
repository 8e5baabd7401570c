"""Transition, posterior and the variances between them, for two times s < t of a path.

With h = lambda_t - lambda_s <= 0 and the variance fraction r = 1 - e^{2h},

    q(z_t | z_s)     = N( alpha_t/alpha_s z_s,                      sigma_t^2 r )
    q(z_s | z_t, x)  = N( (sigma_s/sigma_t) e^h z_t + alpha_s r x,  sigma_s^2 r ).

The generative step from t to s has a variance between the two, v = r sigma_t^{2u} sigma_s^{2 - 2u}. With u = 1 ("beta") it is that of the
forward transition, beta_t on a DDPM chain, and with u = 0 ("posterior") that of the posterior (Ho et al. 2020, arXiv 2006.11239, section 3.2;
Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 15).

Arguments and results are float64 tensors, scalar or `(B,)`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# "beta", "posterior" or u itself.
VarianceName = Literal["beta", "posterior"] | float


def variance_fraction(h: Tensor) -> Tensor:
    """r = 1 - e^{2h}."""
    return -torch.expm1(2 * h)


def posterior_coefficients(alpha_s: Tensor, sigma_s: Tensor, sigma_t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) with the mean a z_t + b x of q(z_s | z_t, x)."""
    # At s = 0 the product (sigma_s/sigma_t) e^h is 0 * 0: both factors vanish and the posterior is the data.
    return sigma_s / sigma_t * h.exp(), alpha_s * variance_fraction(h)


def step_variance(sigma_s: Tensor, sigma_t: Tensor, h: Tensor, u: float) -> Tensor:
    """v = r sigma_t^{2u} sigma_s^{2 - 2u}."""
    return variance_fraction(h) * sigma_t ** (2 * u) * sigma_s ** (2 - 2 * u)


def variance_exponent(variance: VarianceName, alternative: str) -> float:
    """u of `step_variance`.

    Args:
        variance: "beta", "posterior" or u.
        alternative: another type that the caller accepts, for the message.

    Raises:
        ValueError: another word, or a number outside [0, 1].
    """
    if variance in ("beta", "posterior"):
        return 1.0 if variance == "beta" else 0.0
    if not isinstance(variance, int | float | Tensor) or not 0 <= float(variance) <= 1:
        raise ValueError(f"variance must be 'beta', 'posterior', a number in [0, 1] or {alternative}, got {variance!r}")
    return float(variance)
