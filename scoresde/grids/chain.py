"""The rule of chains: their own indices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..sde.base import SDE
from ..sde.vp import VPChain
from .base import check, checked


def ddpm(
    sde: SDE,
    steps: int,
    *,
    spacing: Literal["trailing", "leading", "linspace"] = "trailing",
    t_start: float | None = None,
    t_end: float = 0.0,
) -> Tensor:
    """The chain's own indices i in 1..T, thinned, then 0.

    `t_start` is the time of the first; by default 1, or what the spacing "leading" makes of it.

    "trailing" starts at T; "linspace" takes both T and 1; "leading" takes 1, 1+T//N, ... and so starts below T, as DDIM's code does
    (the names are those of Lin et al. 2023, arXiv 2305.08891, table 2).

    Raises:
        ValueError: `sde` is not a chain, `t_start` is not a time of the chain or not the first one, `t_end` is not 0, or there are more steps
            than indices.
    """
    if not isinstance(sde, VPChain):
        raise ValueError(f"grid 'ddpm' needs a discrete chain (VPSDE.from_betas), got {sde!r}")
    steps, start, t_end = checked(sde, steps, 1.0 if t_start is None else t_start, t_end)
    if t_end != 0:
        raise ValueError(f"grid 'ddpm' ends at 0, got t_end={t_end:g}")
    top = round(start * sde.steps)
    if abs(start * sde.steps - top) > 1e-6:
        raise ValueError(f"grid 'ddpm' starts at a time i/{sde.steps} of the chain, got t_start={start:g}")
    if steps > top:
        raise ValueError(f"grid 'ddpm' takes 1 to {top} steps on this chain from t_start={start:g}, got {steps}")
    n = torch.arange(steps, dtype=torch.float64, device="cpu")
    if spacing == "trailing":
        indices = (top - n * top / steps).round()
    elif spacing == "leading":
        indices = 1 + (steps - 1 - n) * (top // steps)
    elif spacing == "linspace":
        indices = torch.linspace(top, 1, steps, dtype=torch.float64, device="cpu").round()
    else:
        raise ValueError(f"spacing must be 'trailing', 'leading' or 'linspace', got {spacing!r}")
    times = torch.cat([indices, indices.new_zeros(1)]) / sde.steps
    if t_start is not None:
        if indices[0] != top:
            raise ValueError(f"spacing={spacing!r} starts at {times[0]:g} with {steps} steps, not at t_start={start:g}")
        times[0] = start
    return check(times)
