"""What every rule is made from: its type, its checked arguments, and times at which a clock is uniform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..numerics.inputs import as_count, as_number, as_numbers
from ..sde.base import SDE, as_time


class Grid(Protocol):
    """A rule that makes a grid."""

    def __call__(self, sde: SDE, steps: int, *, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
        """`steps + 1` times from `t_start` to `t_end`."""
        ...


def check(grid: Tensor) -> Tensor:
    """`grid` as a float64 tensor on the CPU.

    Raises:
        TypeError: no real numbers.
        ValueError: fewer than two times, times outside [0, 1], or times that do not strictly decrease.
    """
    grid = as_numbers("grid", grid).detach().cpu()
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"a grid needs shape (N+1,) with N >= 1, got {tuple(grid.shape)}")
    if not bool(((grid >= 0) & (grid <= 1)).all()):
        raise ValueError(f"a grid must lie in [0, 1], got times from {grid.min().item():g} to {grid.max().item():g}")
    rising = (grid[1:] >= grid[:-1]).nonzero().flatten()
    if len(rising):
        n = int(rising[0])
        raise ValueError(
            f"a grid must strictly decrease, but its entries {n} and {n + 1} are {grid[n]:.17g} and {grid[n + 1]:.17g}"
        )
    return grid


def checked(sde: SDE, steps: int, t_start: float, t_end: float) -> tuple[int, float, float]:
    """The arguments of every rule.

    Raises:
        TypeError: another type.
        ValueError: `steps` below 1, `t_start` outside [t_min, 1] or `t_end` outside [0, t_start).
    """
    if not isinstance(sde, SDE):
        raise TypeError(f"sde must be a path such as VPSDE(), got {sde!r}")
    steps, t_start = as_count("steps", steps), as_number("t_start", t_start, above=0.0, high=1.0)
    t_end = as_number("t_end", t_end, low=0.0, below=1.0)
    if t_start < sde.t_min:
        raise ValueError(f"t_start={t_start:g} lies below t_min={sde.t_min:g}, the smallest time at which a grid calls the network")
    if not t_end < t_start:
        raise ValueError(f"t_end must be smaller than t_start={t_start:g}, got {t_end:g}")
    return steps, t_start, t_end


def uniform_in(
    clock: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sde: SDE,
    steps: int,
    t_start: float,
    t_end: float,
    t_last: float | None = None,
) -> Tensor:
    """The times at which `clock` is uniform; the ends are hit exactly. The last call before 0 is at `t_last`, by default `sde.t_min`."""
    steps, t_start, t_end = checked(sde, steps, t_start, t_end)
    last = as_time(t_end if t_end > 0 else t_last or sde.t_min)
    first = as_time(t_start)
    if t_end == 0 and steps == 1:
        return check(torch.stack([first, as_time(0.0)]))
    if not first > last:
        raise ValueError(f"{steps} steps need a start above {float(last):g}, got t_start={t_start:g}")
    u_first, u_last = clock(first), clock(last)
    if not bool(u_first.isfinite()):
        # Zero terminal signal: lambda = -inf at t = 1. Space the rest as if from t_max.
        u_first = clock(as_time(sde.t_max))
    points = steps + 1 if t_end > 0 else steps
    u = u_first + (u_last - u_first) * torch.linspace(0, 1, points, dtype=torch.float64, device="cpu")
    tail = [last] if t_end > 0 else [last, as_time(0.0)]
    return check(torch.cat([first[None], inverse(u[1:-1]), torch.stack(tail)]))


def down_to_zero(
    clock: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sde: SDE,
    steps: int,
    t_start: float,
    t_end: float,
) -> Tensor:
    """The times at which `clock`, which is 0 at t = 0, is uniform; with many steps the last call is at `sde.t_min`."""
    steps, t_start, t_end = checked(sde, steps, t_start, t_end)
    first = clock(as_time(t_start))
    if not bool(first.isfinite()):
        first = clock(as_time(sde.t_max))
    last = max(float(inverse(first / steps)), sde.t_min) if steps > 1 else sde.t_min
    return uniform_in(clock, inverse, sde, steps, t_start, t_end, last)
