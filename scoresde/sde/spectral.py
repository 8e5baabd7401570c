"""Processes whose coordinates in a basis have a spectrum: blurring, coloured noise, Ornstein-Uhlenbeck."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..numerics.inputs import as_number, as_numbers
from .base import SDE
from .bases import DCT, Basis, Fourier, Identity, Orthogonal
from .diagonal import DiagonalSDE, OnScalarPath, positive, scalar_path
from .vp import VPSDE


class BlurringSDE(OnScalarPath):
    """Blurring diffusion: heat flow and noise together (Hoogeboom and Salimans 2022, arXiv 2209.05557, sections 3 and 4).

        alpha_k = alpha(t) [ (1 - d_min) e^{-omega_k^2 tau(t)} + d_min ],       tau = blur^2/2 sin^4(pi t/2),       sigma_k = sigma(t),

    with omega_k the frequency of coordinate k of the cosine transform, in radians for each pixel: heat flow for a time tau is blurring by a
    Gaussian of sqrt(2 tau) pixels.

    Args:
        shape: of an event; its last two axes are blurred (one axis for a sequence).
        sde: the scalar path of alpha and sigma; by default `VPSDE()`. The paper takes alpha = cos(pi t/2), as `VPSDE.cosine` nearly does.
        blur: the width of the blur at t = 1, in pixels. The paper takes 20 for 32 to 128 pixels.
        least: d_min, what is left of the highest frequencies.

    Raises:
        TypeError: an argument of another type.
        ValueError: `blur` is negative, or `least` outside (0, 1].
    """

    def __init__(self, shape: Sequence[int], sde: SDE | None = None, *, blur: float = 20.0, least: float = 1e-3) -> None:
        self.sde = scalar_path(sde)
        self.blur, self.least = as_number("blur", blur, 0.0), as_number("least", least, above=0.0, high=1.0)
        self.basis = DCT(min(2, len(tuple(shape))))
        self.frequencies = (self.basis.frequencies(shape) ** 2).sum(0).sqrt()
        self.t_min, self.t_max = self.sde.t_min, self.sde.t_max

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[:, None]
        tau = 0.5 * self.blur**2 * torch.sin(0.5 * math.pi * t) ** 4
        kept = (1 - self.least) * torch.exp(-(self.frequencies.to(t.device) ** 2) * tau) + self.least
        return self.sde.alpha(t) * kept, self.sde.sigma(t).expand_as(kept)

    def __repr__(self) -> str:
        return f"BlurringSDE(blur={self.blur:g}, sde={self.sde!r})"


class ColouredSDE(OnScalarPath):
    """A scalar path with coloured noise: z = alpha(t) x + sigma(t) C^{1/2} eps, where C has the eigenvalues `spectrum` in the basis.

    Args:
        spectrum: the variances c_k, `(K,)`, positive; scaled here to a mean of 1.
        sde: the path of alpha and sigma; by default `VPSDE()`.
        basis: in which C is diagonal: `Fourier` or `DCT` for noise with a power spectrum, `Orthogonal` for any covariance.

    Raises:
        TypeError: an argument of another type.
        ValueError: a variance is not positive and finite.
    """

    def __init__(self, spectrum: Tensor, sde: SDE | None = None, basis: Basis | None = None) -> None:
        self.sde, self.basis = scalar_path(sde), basis or Identity()
        spectrum = positive("spectrum", spectrum)
        self.spectrum = spectrum / spectrum.mean()
        self.t_min, self.t_max = self.sde.t_min, self.sde.t_max

    @classmethod
    def power_law(cls, shape: Sequence[int], exponent: float = 1.0, sde: SDE | None = None, *, floor: float = 1.0) -> ColouredSDE:
        """Noise whose spectral density falls as frequency^-exponent on periodic axes: 0 is white, 2 is brown, and below 0 is blue.

        Args:
            shape: of an event; its last two axes carry the spectrum (one axis for a sequence).
            floor: the frequency, in multiples of the lowest one, below which the density is flat.
        """
        basis = Fourier(min(2, len(tuple(shape))))
        omega = (basis.frequencies(shape) ** 2).sum(0).sqrt()
        lowest = as_number("floor", floor, above=0.0) * float(omega[omega > 0].min()) if bool((omega > 0).any()) else 1.0
        return cls(omega.clamp(min=lowest) ** -as_number("exponent", exponent), sde, basis)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[:, None]
        spectrum = self.spectrum.to(t.device)
        return self.sde.alpha(t) * torch.ones_like(spectrum), self.sde.sigma(t) * spectrum.sqrt()

    def __repr__(self) -> str:
        return f"ColouredSDE(K={len(self.spectrum)}, basis={self.basis!r}, sde={self.sde!r})"


class OUSDE(DiagonalSDE):
    """An Ornstein-Uhlenbeck process with any stationary covariance C, and a rate for each of its axes:

        dz_k = -theta_k beta(t)/2 z_k dt + sqrt(theta_k beta(t) c_k) dw_k,       B = int_0^t beta,

        alpha_k = e^{-theta_k B/2},       sigma_k^2 = c_k (1 - e^{-theta_k B}).

    For C = I and all theta_k = 1 it is the VP SDE.

    Args:
        covariance: C over the flattened event, `(d, d)`, or its eigenvalues `(K,)` in `basis`.
        rates: theta_k of each axis, `(K,)`, in the order of the eigenvalues (of a matrix: smallest first); 1 by default.
        sde: the VP SDE of beta(t); by default `VPSDE()`.
        basis: for eigenvalues.
        event: the shape of an event, for a matrix.

    Raises:
        TypeError: an argument of another type.
        ValueError: C is not symmetric and positive, or a rate is not positive.
    """

    def __init__(
        self,
        covariance: Tensor,
        rates: Tensor | None = None,
        sde: VPSDE | None = None,
        basis: Basis | None = None,
        event: Sequence[int] | None = None,
    ) -> None:
        covariance = as_numbers("covariance", covariance)
        if covariance.ndim == 2:
            if covariance.shape[0] != covariance.shape[1] or not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
                raise ValueError(f"covariance must be symmetric, (d, d), got {tuple(covariance.shape)}")
            covariance, vectors = torch.linalg.eigh(covariance)
            basis = Orthogonal(vectors.T, event)
        self.variances, self.basis = positive("covariance", covariance), basis or Identity()
        self.theta = positive("rates", torch.ones_like(self.variances) if rates is None else rates)
        if self.theta.shape != self.variances.shape:
            raise ValueError(f"rates must have shape {tuple(self.variances.shape)}, got {tuple(self.theta.shape)}")
        self.sde = VPSDE() if sde is None else sde
        if not isinstance(self.sde, VPSDE):
            raise TypeError(f"sde must be a VPSDE, whose beta(t) is the rate, got {sde!r}")
        self.t_min = self.sde.t_min

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral = self.theta.to(t.device) * self.sde.integrated_beta(t[:, None])
        return torch.exp(-0.5 * integral), (self.variances.to(t.device) * -torch.expm1(-integral)).sqrt()

    def __repr__(self) -> str:
        return f"OUSDE(K={len(self.variances)}, basis={self.basis!r}, sde={self.sde!r})"
