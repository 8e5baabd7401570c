"""Processes that act on every coordinate of a basis alone.

    z_k = alpha_k(t) x_k + sigma_k(t) eps_k,       F = alpha'/alpha,       G G^T = (sigma^2)' - 2 F sigma^2,

    Phi(t, s) = alpha_t/alpha_s,       Psi_eta(t, s) = sigma_t/sigma_s e^{-eta^2 (lambda_t - lambda_s)},       lambda = log(alpha/sigma).

Derivatives of the scales are taken by autodiff.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics.arrays import Time
from ..numerics.inputs import as_function, as_number, as_numbers
from .base import SDE, as_time
from .bases import Basis, Identity
from .linear import LinearSDE
from .vp import VPSDE


class DiagonalSDE(LinearSDE):
    """A path with alpha_k(t) and sigma_k(t) for each coordinate of a basis. A family gives `scales`."""

    @abstractmethod
    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_k and sigma_k at the times `(n,)`, `(n, K)` float64. Written with torch: their derivatives are taken."""

    def signal(self, t: Tensor) -> Tensor:
        return self.scales(t)[0]

    def covariance(self, t: Tensor) -> Tensor:
        return self.scales(t)[1] ** 2

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and their derivatives by time, each `(n, K)`."""
        # Inference mode records no graph. Two reverse passes: forward mode compiles TorchScript when it is first used.
        with torch.inference_mode(False), torch.enable_grad():
            t = t.detach().clone()
            both, both_rates = torch.autograd.functional.jvp(self.scales, t, torch.ones_like(t))
        return (*both, *both_rates)

    def drift_rates(self, t: Tensor) -> Tensor:
        alpha, _, alpha_rate, _ = self.rates(t)
        return alpha_rate / alpha

    def noise_rates(self, t: Tensor) -> Tensor:
        alpha, sigma, alpha_rate, sigma_rate = self.rates(t)
        return (2 * sigma * (sigma_rate - alpha_rate / alpha * sigma)).clamp(min=0)

    def flow_rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sigma'/sigma and alpha' - alpha sigma'/sigma, finite where no signal is left. What is known does not flow."""
        alpha, sigma, alpha_rate, sigma_rate = self.rates(t)
        pull = torch.where(sigma > 0, sigma_rate / torch.where(sigma > 0, sigma, 1.0), 0.0)
        return pull, alpha_rate - alpha * pull

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        return self.signal(t) / self.signal(s)

    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.scales(s), self.scales(t)
        # A coordinate whose scales do not move is carried along, also where it has no noise at all.
        still = (alpha_s == alpha_t) & (sigma_s == sigma_t)
        ratio = sigma_t / torch.where(still, 1.0, sigma_s)
        if eta:
            ratio = ratio * ((alpha_s / sigma_s) / (alpha_t / sigma_t)) ** eta**2
        return torch.where(still, 1.0, torch.where(sigma_t == 0, 0.0, ratio))


class ScaledSDE(DiagonalSDE):
    """A `DiagonalSDE` from functions of one's own.

    Args:
        scales: the times `(n,)` in float64 -> (alpha_k, sigma_k), each `(n, K)`, written with torch. At t = 0 every sigma_k is 0.
        basis: of the coordinates.
        t_min: the smallest time at which a grid calls the network.

    Raises:
        TypeError: `scales` is no function.
        ValueError: the scales have other shapes or are not finite, there is noise at t = 0, or alpha_k/sigma_k rises somewhere.
    """

    def __init__(
        self, scales: Callable[[Tensor], tuple[Tensor, Tensor]], basis: Basis | None = None, *, t_min: float = 1e-3
    ) -> None:
        self._scales: Callable[[Tensor], tuple[Tensor, Tensor]] = as_function("scales", scales, 1)
        self.basis, self.t_min = basis or Identity(), as_number("t_min", t_min, above=0.0, below=1.0)
        t = torch.linspace(0, 1, 257, dtype=torch.float64, device="cpu")
        alpha, sigma = self.scales(t)
        if alpha.ndim != 2 or alpha.shape != sigma.shape or len(alpha) != len(t):
            raise ValueError(
                f"scales must return two tensors (n, K) for n times, got {tuple(alpha.shape)} and {tuple(sigma.shape)}"
            )
        if not bool((alpha + sigma).isfinite().all()) or bool((sigma < 0).any()):
            raise ValueError("scales must be finite, and sigma not negative, on [0, 1]")
        if bool((sigma[0] != 0).any()):
            raise ValueError(f"a path starts at the data, but sigma(0) reaches {float(sigma[0].max()):g}")
        rising = (alpha[1:] * sigma[:-1] > alpha[:-1] * sigma[1:] * (1 + 1e-12)).nonzero()
        if len(rising):
            n, k = rising[0].tolist()
            raise ValueError(f"alpha/sigma must not rise with time, but that of block {k} does at t = {float(t[n]):g}")

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._scales(t)
        return alpha.to(device=t.device, dtype=torch.float64), sigma.to(device=t.device, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"ScaledSDE(basis={self.basis!r})"


class OnScalarPath(DiagonalSDE):
    """A `DiagonalSDE` made from a scalar path, whose lambda is its clock.

    Attributes:
        sde: the scalar path.
    """

    sde: SDE

    def half_log_snr(self, t: Time) -> Tensor:
        """That of the scalar path."""
        return self.sde.half_log_snr(t)

    def time(self, half_log_snr: Time) -> Tensor:
        return self.sde.time(half_log_snr)


def scalar_path(sde: SDE | None) -> SDE:
    """A path of one alpha and one sigma; `VPSDE()` by default.

    Raises:
        TypeError: none.
        ValueError: one whose scales have no derivatives, as those of `CoefficientsSDE`.
    """
    sde = VPSDE() if sde is None else sde
    if not isinstance(sde, SDE) or isinstance(sde, LinearSDE):
        raise TypeError(f"sde must be a path of one alpha(t) and one sigma(t) such as VPSDE(), got {sde!r}")
    with torch.enable_grad():
        differentiable = sde.sigma(torch.full((), 0.5, dtype=torch.float64, requires_grad=True)).requires_grad
    if not differentiable:
        raise ValueError(f"{sde!r} has scales that cannot be differentiated: take one of formulas in torch")
    return sde


def positive(name: str, values: Tensor) -> Tensor:
    """Positive numbers `(K,)` in float64; those of an event in its shape are flattened.

    Raises:
        TypeError: no real numbers.
        ValueError: one is not positive and finite.
    """
    out = as_numbers(name, values).cpu().reshape(-1)
    if not bool(((out > 0) & out.isfinite()).all()):
        raise ValueError(f"{name} must be positive and finite, got a smallest entry of {float(out.min()):g}")
    return out


class ScalarBlock(SDE):
    """Block k of a `LinearSDE` of one channel as a path of its own."""

    def __init__(self, whole: LinearSDE, k: int) -> None:
        self.whole, self.k = whole, k
        self.t_min, self.t_max = whole.t_min, whole.t_max
        self.prior_std = float(self.sigma(1.0))

    def _column(self, values: Tensor, t: Tensor) -> Tensor:
        return values[:, min(self.k, values.shape[1] - 1)].reshape(t.shape)

    def alpha(self, t: Time) -> Tensor:
        t = as_time(t)
        return self._column(self.whole.signal(t.reshape(-1)), t)

    def sigma(self, t: Time) -> Tensor:
        t = as_time(t)
        return self._column(self.whole.covariance(t.reshape(-1)), t).sqrt()

    def drift_rate(self, t: Time) -> Tensor:
        t = as_time(t)
        return self._column(self.whole.drift_rates(t.reshape(-1)), t)

    def diffusion(self, t: Time) -> Tensor:
        t = as_time(t)
        return self._column(self.whole.noise_rates(t.reshape(-1)), t).sqrt()

    def __repr__(self) -> str:
        return f"block {self.k} of {self.whole!r}"
