"""The processes that a run can have, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..sde.base import SDE
from ..sde.families import EDM, VESDE, RectifiedFlow, SubVPSDE
from ..sde.momentum import CLD, HOLD
from ..sde.prediction import Prediction
from ..sde.spectral import BlurringSDE, ColouredSDE
from ..sde.vp import VPSDE

Event = tuple[int, ...]


def linear_chain(event: Event, steps: int) -> SDE:
    """The DDPM chain of Ho et al. 2020: betas from 1e-4 to 0.02 at 1000 steps, scaled by 1000/T so that the path hardly depends on T.

    Raises:
        ValueError: 20 steps or fewer, whose last beta would reach 1.
    """
    scale = 1000 / steps
    if scale * 0.02 >= 1:
        raise ValueError(f"the linear chain needs more than 20 steps, got {steps}")
    return VPSDE.from_betas(torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64))


PROCESSES: Mapping[str, Callable[[Event, int], SDE]] = {
    "linear": linear_chain,
    "cosine": lambda event, steps: VPSDE.cosine(steps),
    "vp": lambda event, steps: VPSDE(),
    "sub-vp": lambda event, steps: SubVPSDE(),
    "ve": lambda event, steps: VESDE(),
    "edm": lambda event, steps: EDM(),
    "flow": lambda event, steps: RectifiedFlow(),
    "blur": lambda event, steps: BlurringSDE(event, blur=0.5 * max(event[-2:])),
    "coloured": lambda event, steps: ColouredSDE.power_law(event),
    "cld": lambda event, steps: CLD(),
    "hold": lambda event, steps: HOLD(),
}
# Those with steps of their own.
CHAINS = ("linear", "cosine")
# What a network on them returns unless a run says otherwise. Where signal and noise are bounded, a velocity has errors of one size at all
# times, and short runs draw recognisable samples. Where the noise is much larger than the data, preconditioning does the same.
USUAL: Mapping[str, Prediction | str] = {
    **dict.fromkeys(("linear", "cosine", "vp", "sub-vp", "flow"), "velocity"),
    **dict.fromkeys(("ve", "edm"), "edm"),
    **dict.fromkeys(("blur", "coloured", "cld", "hold"), "noise"),
}
