"""A rule made from another one: every noise level shifted by one factor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..numerics.inputs import as_function, as_number
from ..sde.base import SDE
from .base import Grid, check, checked
from .rules import uniform


def shifted(
    sde: SDE, steps: int, *, shift: float = 1.0, rule: Grid = uniform, t_start: float = 1.0, t_end: float = 0.0, **options: Any
) -> Tensor:
    """The times between the ends of another rule with lambda' = lambda - log(shift), so that sigma/alpha is `shift` times larger.

    On a rectified flow this is sigma' = s sigma/(1 + (s - 1) sigma) (Esser et al. 2024, arXiv 2403.03206, eq. 23), for images of higher
    resolution. With mu as the logarithm of the shift it is the dynamic shift of Flux. On a path that starts at a finite sigma/alpha the shifted
    times must stay below the start.

    Args:
        rule: makes the times that are shifted.
        options: of the rule.

    Raises:
        TypeError: `rule` is no function.
        ValueError: `shift` is not positive and finite, or moves a time to the start of the path or below `sde.t_min`.
    """
    steps, t_start, t_end = checked(sde, steps, t_start, t_end)
    shift = as_number("shift", shift, above=0.0)
    as_function("rule", rule, 2, "t_start", "t_end")
    times = rule(sde, steps, t_start=t_start, t_end=t_end, **options)
    inner = times[1:-1]
    moved = sde.time(sde.half_log_snr(inner) - math.log(shift))
    if len(moved) and not bool(((moved < times[0]) & (moved > times[-1])).all()):
        raise ValueError(f"shift={shift:g} moves times of {steps} steps out of ({float(times[-1]):g}, {float(times[0]):g})")
    return check(torch.cat([times[:1], moved, times[-1:]]))
