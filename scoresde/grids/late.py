"""A rule made from another one: the second time at a given noise level."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..numerics.inputs import as_function, as_number
from ..sde.base import SDE, as_time
from .base import Grid, check, checked
from .rules import flow


def late(
    sde: SDE, steps: int, *, rule: Grid = flow, ratio: float = 10.0, t_start: float = 1.0, t_end: float = 0.0, **options: Any
) -> Tensor:
    """One step from `t_start` to the time where sigma/alpha = `ratio`, then N - 1 steps of another rule. For `solvers.LateFirstCall`.

    A single step, and the times from a start where sigma/alpha is not above `ratio`, are the other rule's.

    Args:
        rule: makes the times after the first.
        options: of the rule.

    Raises:
        TypeError: `rule` is no function.
        ValueError: `ratio` is not positive and finite, or below what the other rule can start from.
    """
    steps, t_start, t_end = checked(sde, steps, t_start, t_end)
    ratio = as_number("ratio", ratio, above=0.0)
    as_function("rule", rule, 2, "t_start", "t_end")
    second = float(sde.time(torch.tensor(-math.log(ratio), dtype=torch.float64, device="cpu")))
    if steps == 1 or not second < t_start:
        return rule(sde, steps, t_start=t_start, t_end=t_end, **options)
    times = rule(sde, steps - 1, t_start=second, t_end=t_end, **options)
    return check(torch.cat([as_time(t_start)[None], times]))
