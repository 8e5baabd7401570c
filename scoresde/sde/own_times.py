"""A time of its own for each coordinate: inpainting, diffusion forcing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics.inputs import as_count, as_function, as_number
from .base import SDE
from .diagonal import OnScalarPath, scalar_path


class TimesSDE(OnScalarPath):
    """A time of its own for each coordinate: coordinate k of the path at t is that of a scalar path at tau_k(t).

        inpainting         tau = 0 where the data are known, so that they stay, and t elsewhere: `TimesSDE.inpainting`
        diffusion forcing  the start of a sequence is denoised before its end (Chen et al. 2024, arXiv 2407.01392): `TimesSDE.forcing`

    Args:
        times: t `(n,)` in float64 -> tau `(n, K)` in [0, 1], 0 at t = 0, never falling with t; written with torch.
        sde: the scalar path; by default `VPSDE()`.

    Raises:
        TypeError: an argument of another type.
        ValueError: times of another shape or outside [0, 1], that fall somewhere, or are not 0 at t = 0.
    """

    def __init__(self, times: Callable[[Tensor], Tensor], sde: SDE | None = None) -> None:
        self.sde = scalar_path(sde)
        self.own_times: Callable[[Tensor], Tensor] = as_function("times", times, 1)
        self.t_min, self.t_max = self.sde.t_min, self.sde.t_max
        t = torch.linspace(0, 1, 257, dtype=torch.float64, device="cpu")
        tau = self.own_times(t)
        if tau.ndim != 2 or len(tau) != len(t) or not bool(((tau >= 0) & (tau <= 1)).all()):
            raise ValueError(f"times must return (n, K) numbers in [0, 1] for n times, got shape {tuple(tau.shape)}")
        if bool((tau[0] != 0).any()) or bool((tau.diff(dim=0) < 0).any()):
            raise ValueError("the time of each coordinate starts at 0 and never falls")

    @classmethod
    def inpainting(cls, known: Tensor, sde: SDE | None = None) -> TimesSDE:
        """Coordinates where `known` `(*event)` is true stay as they are."""
        return cls(_Inpainting(~torch.as_tensor(known, dtype=torch.bool).reshape(-1)), sde)

    @classmethod
    def forcing(cls, length: int, sde: SDE | None = None, *, lag: float = 1.0) -> TimesSDE:
        """The last axis of an event, of that length, is denoised from its start to its end.

        tau_k = clip(t (1 + lag) - lag (1 - u_k), 0, 1) with u_k from 0 for the first coordinate to 1 for the last; `lag` 0 is one time for all.
        """
        return cls(_Forcing(as_count("length", length), as_number("lag", lag, 0.0)), sde)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        tau = self.own_times(t)
        return self.sde.alpha(tau), torch.where(tau > 0, self.sde.sigma(torch.where(tau > 0, tau, 1.0)), 0.0)

    def __repr__(self) -> str:
        return f"TimesSDE({self.own_times!r}, sde={self.sde!r})"


class _Inpainting:
    def __init__(self, unknown: Tensor) -> None:
        self.unknown = unknown

    def __call__(self, t: Tensor) -> Tensor:
        return t[:, None] * self.unknown.to(device=t.device, dtype=t.dtype)

    def __repr__(self) -> str:
        return f"{int((~self.unknown).sum())} of {len(self.unknown)} known"


class _Forcing:
    def __init__(self, length: int, lag: float) -> None:
        self.lag, self.place = lag, torch.linspace(0, 1, length, dtype=torch.float64, device="cpu")

    def __call__(self, t: Tensor) -> Tensor:
        late = self.lag * (1 - self.place.to(t.device))
        return (t[:, None] * (1 + self.lag) - late).clamp(0, 1)

    def __repr__(self) -> str:
        return f"lag {self.lag:g} over {len(self.place)}"
