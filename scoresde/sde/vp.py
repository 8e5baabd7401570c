"""Variance-preserving paths: alpha^2 + sigma^2 = 1.

    dz = -beta(t)/2 z dt + sqrt(beta(t)) dw,      B(t) = int_0^t beta,      alpha = e^{-B/2},  sigma^2 = 1 - e^{-B}.

Everything follows from the rate beta, its integral B and the inverse of B. `VPSDE` has the linear rate of Song et al.;
`VPChain` the piecewise constant rate whose path passes exactly through a DDPM chain.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.arrays import Time, as_float64
from ..numerics.inputs import as_count, as_number, as_numbers
from ..numerics.keywords import explained_keywords
from .base import SDE, as_time


class VPSDE(SDE):
    """The classical variance-preserving SDE, beta(t) = beta_min + t (beta_max - beta_min).

    (Song et al. 2021, arXiv 2011.13456, eq. 11 and appendix C.) This path only approaches a DDPM chain; `VPSDE.from_betas` passes through it
    exactly. Grids do not call the network below `t_min` = 1e-3.
    """

    @explained_keywords(betas="the chain of these betas is VPSDE.from_betas(betas)", num_steps="a chain is VPSDE.from_betas(betas)")
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if getattr(beta_min, "ndim", 0) or isinstance(beta_min, list | tuple | str):
            raise TypeError("beta_min must be a number: VPSDE.from_betas(betas) is the chain of these betas")
        self.beta_min, self.beta_max = as_number("beta_min", beta_min), as_number("beta_max", beta_max)
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max == 0:
            raise ValueError(f"need 0 <= beta_min <= beta_max and beta_max > 0, got {beta_min} and {beta_max}")

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> VPChain:
        """The DDPM chain z_t = sqrt(1 - beta_t) z_{t-1} + sqrt(beta_t) eps, t = 1..T, exactly, as an SDE."""
        return VPChain(betas)

    @classmethod
    def from_alphas_bar(cls, alphas_bar: Tensor | Sequence[float]) -> VPChain:
        """The chain with alphas_bar[t - 1] = prod_{i <= t} (1 - beta_i), t = 1..T: strictly decreasing; the last may be 0."""
        bar = as_numbers("alphas_bar", alphas_bar)
        if bar.ndim != 1 or len(bar) == 0:
            raise ValueError(f"alphas_bar must have shape (T,), got {tuple(bar.shape)}")
        before = torch.cat([bar.new_ones(1), bar[:-1]])
        if not bool(((bar >= 0) & (bar < before)).all()):
            rising = " These numbers rise, as betas do: VPSDE.from_betas(betas)" if bool((bar[1:] > bar[:-1]).all()) else ""
            raise ValueError(f"alphas_bar must fall strictly from below 1 to at least 0.{rising}")
        return VPChain(1 - bar / before)

    @classmethod
    def cosine(cls, steps: int = 1000, *, s: float = 0.008, max_beta: float = 0.999) -> VPChain:
        """The cosine chain of Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, with betas clipped at `max_beta`.

        Args:
            steps: T, at least 1.
            s: their offset, at least 0, without which the first betas would be tiny.
            max_beta: in (0, 1]; with 1 no signal is left at t = 1.
        """
        steps, s, max_beta = as_count("steps", steps), as_number("s", s, 0.0), as_number("max_beta", max_beta, above=0.0, high=1.0)
        u = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        bar = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        return VPChain((1 - bar[1:] / bar[:-1]).clamp(max=max_beta))

    def beta(self, t: Time) -> Tensor:
        """The rate beta(t) of the drift -beta/2 z."""
        return self.beta_min + as_time(t) * (self.beta_max - self.beta_min)

    def integrated_beta(self, t: Time) -> Tensor:
        """B(t) = int_0^t beta."""
        t = as_time(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time_of(self, integral: Tensor) -> Tensor:
        """The inverse of `integrated_beta`, by the form of the quadratic formula without cancellation."""
        discriminant = self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral
        return 2 * integral / (self.beta_min + discriminant.sqrt()).clamp(min=torch.finfo(torch.float64).tiny)

    def alpha(self, t: Time) -> Tensor:
        return torch.exp(-0.5 * self.integrated_beta(t))

    def sigma(self, t: Time) -> Tensor:
        return (-torch.expm1(-self.integrated_beta(t))).sqrt()

    def half_log_snr(self, t: Time) -> Tensor:
        integral = self.integrated_beta(t)
        return -0.5 * (integral + (-torch.expm1(-integral)).log())

    def time(self, half_log_snr: Time) -> Tensor:
        # e^{2 lambda} = alpha^2 / (1 - alpha^2), so B = -log alpha^2 = log(1 + e^{-2 lambda}).
        exponent = -2 * as_float64(half_log_snr)
        return self._time_of(torch.logaddexp(torch.zeros_like(exponent), exponent))

    def drift_rate(self, t: Time) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Time) -> Tensor:
        return self.beta(t).sqrt()

    def __repr__(self) -> str:
        return f"VPSDE(beta_min={self.beta_min:g}, beta_max={self.beta_max:g})"


class VPChain(VPSDE):
    """A DDPM chain as the VP SDE with rate beta(t) = -T log(1 - beta_i) on ((i-1)/T, i/T].

    Solving this SDE over one interval is exactly one step of the chain: marginals and transitions at t = i/T are the
    chain's. If the last beta is 1 (zero terminal signal-to-noise ratio), alpha falls linearly to 0 over the last interval.

    Args:
        betas: `(T,)`, each in (0, 1); the last may be 1.

    Raises:
        TypeError: `betas` are no real numbers.
        ValueError: none, another shape, or a beta outside.
    """

    def __init__(self, betas: Tensor | Sequence[float]) -> None:
        betas = _checked(betas, 1).detach().cpu().clone()
        self.betas = betas
        self.steps = len(betas)
        self.t_min = 1 / self.steps
        if float(betas[-1]) == 1:
            self.t_max = 1 - 1 / self.steps
        increments = -torch.log1p(-betas)
        self._increments = {torch.device("cpu"): increments}
        self._integrals = {torch.device("cpu"): torch.cat([increments.new_zeros(1), increments.cumsum(0)])}

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The increments of B over the intervals, and B at 0, 1/T, ..., 1; copied to a device once."""
        if device not in self._increments:
            self._increments[device] = self._increments[torch.device("cpu")].to(device)
            self._integrals[device] = self._integrals[torch.device("cpu")].to(device)
        return self._increments[device], self._integrals[device]

    def beta(self, t: Time) -> Tensor:
        u = as_time(t) * self.steps
        increments, _ = self._tables(u.device)
        # Intervals are closed on the right. For a float32 time, i/T times T can exceed i by a rounding error.
        u = torch.where((u - u.round()).abs() < 1e-6 * self.steps, u.round(), u)
        i = (torch.ceil(u).long() - 1).clamp(0, self.steps - 1)
        rate = self.steps * _at(increments, i)
        return torch.where(rate.isinf(), 2 * self.steps / (i + 1 - u), rate)

    def integrated_beta(self, t: Time) -> Tensor:
        u = as_time(t) * self.steps
        increments, integrals = self._tables(u.device)
        i = u.detach().floor().long().clamp(0, self.steps - 1)
        step, part = _at(increments, i), u - i
        if self.t_max == 1:
            return _at(integrals, i) + part * step
        finite = step.isfinite()
        # Mask before the product: 0 * inf in the branch that is not taken would make gradients NaN.
        linear = part * torch.where(finite, step, 0.0)
        return _at(integrals, i) + torch.where(finite, linear, -2 * torch.log1p(-torch.where(finite, 0.0, part)))

    def _time_of(self, integral: Tensor) -> Tensor:
        increments, integrals = self._tables(integral.device)
        i = (torch.searchsorted(integrals, integral.contiguous(), right=True) - 1).clamp(0, self.steps - 1)
        step, rest = _at(increments, i), integral - _at(integrals, i)
        return (i + torch.where(step.isfinite(), rest / step, -torch.expm1(-0.5 * rest))) / self.steps

    def __repr__(self) -> str:
        return f"VPChain(T={self.steps}, betas {self.betas[0].item():.3g}..{self.betas[-1].item():.3g})"


def _at(table: Tensor, i: Tensor) -> Tensor:
    """`table[i]`, by the one operator that nested transforms of `torch.func`, `vmap` and `torch.export` all take."""
    return table.index_select(0, i.reshape(-1)).reshape(i.shape)


def zero_terminal_snr(betas: Tensor | Sequence[float]) -> Tensor:
    """Betas shifted and scaled so that no signal is left at t = 1 (Lin et al. 2024, arXiv 2305.08891, algorithm 1).

    sqrt(alpha_bar) keeps its first value and becomes 0 at its last. Noise and score predictions are undefined there.

    Raises:
        TypeError: `betas` are no real numbers.
        ValueError: fewer than two betas, or one outside (0, 1); only the last may be 1.
    """
    root = torch.cumprod(1 - _checked(betas, 2), 0).sqrt()
    if float(root[0]) == float(root[-1]):
        raise ValueError("betas after the first are too small for float64: the signal does not fall")
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bar = torch.cat([root.new_ones(1), root**2])
    return 1 - bar[1:] / bar[:-1]


def _checked(betas: Tensor | Sequence[float], least: int) -> Tensor:
    """The betas in float64, at least `least` of them.

    Raises:
        TypeError: no real numbers.
        ValueError: fewer or of another shape, or one outside (0, 1); only the last may be 1.
    """
    if isinstance(betas, str):
        raise TypeError(
            f"betas must be numbers, got {betas!r}: the linear ones of DDPM are torch.linspace(1e-4, 0.02, 1000), and VPSDE.cosine() is the "
            "cosine chain"
        )
    out = as_numbers("betas", betas)
    if out.ndim != 1 or len(out) < least:
        raise ValueError(f"betas must have shape (T,) with T >= {least}, got {tuple(out.shape)}")
    if not (bool((out > 0).all()) and bool((out[:-1] < 1).all()) and bool(out[-1] <= 1)):
        raise ValueError("betas: every beta must lie in (0, 1); only the last may be 1")
    if out[0] > 0.5 and bool((out.diff() < 0).all()):
        warnings.warn(
            f"betas fall from {float(out[0]):.4g} to {float(out[-1]):.4g}: these look like 1 - beta or its products, for which there is "
            "VPSDE.from_alphas_bar(alphas_cumprod)",
            UserWarning,
            stacklevel=4,
        )
    return out
