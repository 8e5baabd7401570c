"""The other named paths: sub-VP, variance exploding, EDM and rectified flow.

All run from data at t = 0, where sigma = 0, to noise at t = 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.arrays import Time, as_float64
from ..numerics.inputs import as_number
from .base import SDE, as_time
from .vp import VPSDE


def _sigmas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The smallest and the largest noise scale.

    Raises:
        TypeError: no numbers.
        ValueError: not 0 < sigma_min < sigma_max, both finite, or a ratio whose square float64 does not hold.
    """
    low, high = as_number("sigma_min", sigma_min), as_number("sigma_max", sigma_max)
    if not 0 < low < high:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if high / low > 1e150:
        raise ValueError(f"sigma_max/sigma_min must be at most 1e150, got {sigma_max} and {sigma_min}")
    return low, high


class SubVPSDE(VPSDE):
    """The sub-VP SDE: the drift of the VP SDE with less noise (Song et al. 2021, arXiv 2011.13456, eq. 14 and appendix C).

    alpha = e^{-B/2},   sigma = 1 - e^{-B},   g^2 = beta (1 - e^{-2B}).
    """

    def sigma(self, t: Time) -> Tensor:
        return -torch.expm1(-self.integrated_beta(t))

    def half_log_snr(self, t: Time) -> Tensor:
        return -0.5 * self.integrated_beta(t) - self.sigma(t).log()

    def time(self, half_log_snr: Time) -> Tensor:
        # e^{-lambda} = e^{B/2} - e^{-B/2} = 2 sinh(B/2).
        return self._time_of(2 * torch.asinh(0.5 * torch.exp(-as_float64(half_log_snr))))

    def diffusion(self, t: Time) -> Tensor:
        return (self.beta(t) * -torch.expm1(-2 * self.integrated_beta(t))).sqrt()

    def __repr__(self) -> str:
        return f"SubVPSDE(beta_min={self.beta_min:g}, beta_max={self.beta_max:g})"


class VESDE(SDE):
    """The variance-exploding SDE: alpha = 1, sigma^2 = sigma_min^2 (r^{2t} - 1) with r = sigma_max/sigma_min.

    This is the exact kernel of dz = sigma_min r^t sqrt(2 log r) dw from z_0 = x (Song et al. 2021, arXiv 2011.13456, eq. 30, less the variance
    at 0). Their scale sigma_min r^t belongs to a path that starts at data with noise sigma_min. The two differ by less than 1 % where
    sigma > 7 sigma_min. Grids do not call the network below sigma = sigma_min.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min, self.sigma_max = _sigmas(sigma_min, sigma_max)
        self.log_ratio = math.log(self.sigma_max / self.sigma_min)
        self.t_min = 0.5 * math.log(2) / self.log_ratio
        self.prior_std = float(self.sigma(1.0))

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * torch.expm1(2 * self.log_ratio * as_time(t)).sqrt()

    def time(self, half_log_snr: Time) -> Tensor:
        return torch.log1p((torch.exp(-as_float64(half_log_snr)) / self.sigma_min) ** 2) / (2 * self.log_ratio)

    def drift_rate(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Time) -> Tensor:
        return self.sigma_min * torch.exp(self.log_ratio * as_time(t)) * math.sqrt(2 * self.log_ratio)

    def __repr__(self) -> str:
        return f"VESDE(sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g})"


class EDM(SDE):
    """The path of Karras et al. 2022, arXiv 2206.00364, table 1: alpha = 1 and sigma linear in time.

    Their time is sigma itself, on [0, sigma_max]. Here t = sigma/sigma_max, so that every path runs over [0, 1]. Grids do not call the network
    below sigma_min.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.sigma_min, self.sigma_max = _sigmas(sigma_min, sigma_max)
        self.t_min = self.sigma_min / self.sigma_max
        self.prior_std = self.sigma_max

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_max * as_time(t)

    def time(self, half_log_snr: Time) -> Tensor:
        return torch.exp(-as_float64(half_log_snr)) / self.sigma_max

    def drift_rate(self, t: Time) -> Tensor:
        return torch.zeros_like(as_time(t))

    def diffusion(self, t: Time) -> Tensor:
        return self.sigma_max * (2 * as_time(t)).sqrt()

    def __repr__(self) -> str:
        return f"EDM(sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g})"


class RectifiedFlow(SDE):
    """The straight path z = (1 - t) x + t eps (Liu et al. 2023, arXiv 2209.03003; Lipman et al. 2023, arXiv 2210.02747).

    Its velocity is dz/dt = eps - x, and t = 1 is noise: `interop.formats.velocity` reads networks whose time runs the other way. At t = 1 no
    signal is left: noise and score predictions are refused there.
    """

    t_max = 0.999

    def alpha(self, t: Time) -> Tensor:
        return 1 - as_time(t)

    def sigma(self, t: Time) -> Tensor:
        return as_time(t).clone()

    def half_log_snr(self, t: Time) -> Tensor:
        return -torch.special.logit(as_time(t))

    def time(self, half_log_snr: Time) -> Tensor:
        return torch.sigmoid(-as_float64(half_log_snr))

    def drift_rate(self, t: Time) -> Tensor:
        return -1 / (1 - as_time(t))

    def diffusion(self, t: Time) -> Tensor:
        t = as_time(t)
        return (2 * t / (1 - t)).sqrt()

    def velocity_direction(self, t: Time) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(as_time(t))
        return -one, one

    def __repr__(self) -> str:
        return "RectifiedFlow()"
