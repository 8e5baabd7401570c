"""The betas of a chain, made anew from a scheduler's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sde.vp import VPSDE, zero_terminal_snr


def betas(config: Mapping[str, Any], scheduler: Any) -> Tensor:
    """The betas of a chain in float64, made anew from the configuration, as the scheduler's own have the rounding of float32.

    Raises:
        ValueError: an unknown `beta_schedule`.
    """
    steps, first, last = int(config["num_train_timesteps"]), float(config["beta_start"]), float(config["beta_end"])
    schedule = config["beta_schedule"]
    if config.get("trained_betas") is not None:
        made = torch.as_tensor(np.asarray(config["trained_betas"]), dtype=torch.float64)
    elif schedule == "linear":
        made = torch.linspace(first, last, steps, dtype=torch.float64)
    elif schedule == "scaled_linear":
        made = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    elif schedule == "squaredcos_cap_v2":
        made = VPSDE.cosine(steps).betas
    elif schedule == "sigmoid":
        made = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (last - first) + first
    elif schedule in ("laplace", "exp"):
        made = scheduler.betas.double()
        if config.get("rescale_betas_zero_snr"):
            return made
    else:
        raise ValueError(f"beta_schedule={schedule!r} is not known: give ScoreModel the path VPSDE.from_betas(scheduler.betas)")
    return zero_terminal_snr(made) if config.get("rescale_betas_zero_snr") else made
