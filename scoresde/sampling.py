"""Draw samples from a score model with any solver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch
from torch import Generator, Tensor

from . import grids, solvers
from .prediction import Model
from .random import BatchNoise, NoiseSource, SeededNoise
from .sde import SDE
from .solvers import Callback, Run, Solver, Tableau

GridLike = str | grids.Grid | Tensor


@overload
def sample(model: Model, shape: Sequence[int], solver: str | Solver = ..., *, trajectory: Literal[True], **options: Any) -> Run: ...
@overload
def sample(
    model: Model,
    shape: Sequence[int],
    solver: str | Solver = ...,
    *,
    trajectory: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...


def sample(
    model: Model,
    shape: Sequence[int],
    solver: str | Solver = "dpm++2m",
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    generator: Generator | None = None,
    seeds: Iterable[int] | None = None,
    z: Tensor | None = None,
    t_start: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    trajectory: bool = False,
    grad: bool = False,
    **cond: object,
) -> Tensor | Run:
    """Draw samples of shape `(B, *event)`.

    Args:
        model: a `ScoreModel`, or anything with the same four calls.
        shape: `(B, *event)`, the batch included.
        solver: a solver or the short name of one (`solvers.names()`).
        steps: number of grid intervals.
        nfe: an upper bound on network calls per sample; the solver takes as many steps as fit. Give `steps`, `nfe` or a tensor `grid`.
        grid: the name of a grid (`grids.names()`), a function `(sde, steps) -> times` (called with `t_start=` too where that is given), or
            the times themselves. By default the solver's own.
        generator: one stream of noise for the batch.
        seeds: one integer a sample; sample i then depends on `seeds[i]` alone, in any batch. With neither, every call differs.
        z: the state to start from, `(B, *event)`; by default the prior of `model.sde`. It is not changed.
        t_start: the time of `z`; 1 by default, or the first time of a tensor `grid`.
        dtype: of the samples; by default that of `z`, else float32 (float64 for a float64 network).
        device: of the samples; by default that of `z`, else the model's.
        callback: called as `callback(n, t, z, data)` at each grid time but the last, with the state and the data prediction there.
        progress: show a progress bar.
        trajectory: return a `Run` with `x`, `path` `(N+1, B, *event)`, `times` and `nfe` in place of the samples.
        grad: record the graph, so that gradients flow through the sampler to `z`, the network and `cond`.
        **cond: reaches the network untouched.

    Returns:
        The samples, `(B, *event)`, or a `Run` where `trajectory` is set.

    Raises:
        ValueError: arguments that contradict each other, a grid that does not decrease, a prediction that is undefined on the grid.
        FloatingPointError: a state became infinite or NaN; names the step and the time.
    """
    shape = tuple(shape)
    if generator is not None and seeds is not None:
        raise ValueError("give generator= (one stream) or seeds= (one per sample), not both")
    noise: NoiseSource = BatchNoise(generator) if seeds is None else SeededNoise(seeds)
    if isinstance(noise, SeededNoise) and len(noise) != shape[0]:
        raise ValueError(f"{len(noise)} seeds were given for a batch of shape {shape}")
    if z is not None and z.shape != shape:
        raise ValueError(f"z has shape {tuple(z.shape)}, but samples of shape {shape} were asked for")
    if z is not None and t_start is None and not isinstance(grid, Tensor):
        t_start = 1.0
    tableau = plan(model.sde, solver, steps=steps, nfe=nfe, grid=grid, t_start=t_start)
    if z is None:
        _check_noise_start(model.sde, tableau.times[0])

    def start() -> Tensor:
        if z is not None:
            return z.to(device=device, dtype=dtype, copy=True)
        where = torch.device(device if device is not None else model.device)
        return model.sde.prior_std * noise.draw(shape, dtype or model.dtype, where)

    with torch.set_grad_enabled(grad), _progress_bar(len(tableau.marks) - 1, progress) as tick:

        def watch(n: int, t: float, state: Tensor, data: Tensor) -> None:
            tick()
            if callback is not None:
                callback(n, t, state, data)

        watched = watch if callback is not None or progress else None
        out = solvers.run(tableau, model, start(), noise, callback=watched, trajectory=trajectory, cond=cond)
        if not bool(out.x.isfinite().all()):
            # Looking at every step of every run would make the host wait for the device: run again with the same noise and look.
            noise.rewind()
            _raise_non_finite(tableau, model, start(), noise, cond)
    return out if trajectory else out.x


def plan(
    sde: SDE,
    solver: str | Solver,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    t_start: float | None = None,
) -> Tableau:
    """The tableau that `sample` would run for these arguments, without a network.

    Raises:
        ValueError: the arguments contradict each other or no step fits into `nfe`.
    """
    if isinstance(solver, str):
        solver = solvers.get(solver)
    if isinstance(grid, Tensor):
        times = grids.check(grid)
        if steps is not None and steps != len(times) - 1:
            raise ValueError(f"steps={steps}, but the grid has {len(times) - 1} intervals")
        if t_start is not None and t_start != float(times[0]):
            raise ValueError(f"t_start={t_start}, but the grid starts at {float(times[0])}")
        tableau = solver.tableau(sde, times)
        if nfe is not None and tableau.nfe > nfe:
            raise ValueError(f"this grid takes {tableau.nfe} network calls, more than nfe={nfe}")
        return tableau
    make = grids.get(grid or solver.default_grid) if not callable(grid) else grid

    def at(steps: int) -> Tableau:
        times = grids.check(make(sde, steps) if t_start is None else make(sde, steps, t_start=t_start))
        if t_start is not None and abs(float(times[0]) - t_start) > 1e-9:
            raise ValueError(f"the grid starts at {float(times[0]):g}, but the state is at t_start={t_start:g}")
        return solver.tableau(sde, times)

    if (steps is None) == (nfe is None):
        raise ValueError("give steps= or nfe=, one of the two (or a tensor as grid=)")
    if steps is not None:
        return at(steps)
    assert nfe is not None
    if nfe < 1:
        raise ValueError(f"nfe must be at least 1, got {nfe}")
    steps = max(1, nfe // solver.calls_per_step)
    tableau = at(steps)
    while tableau.nfe > nfe and steps > 1:
        steps -= 1
        tableau = at(steps)
    if tableau.nfe > nfe:
        raise ValueError(f"{solver} needs more than nfe={nfe} network calls for a single step")
    if solver.calls_per_step > 1 and tableau.nfe < nfe:
        # Steps that are cheaper than a full one, such as the last of Heun, can leave room for one more.
        more = at(steps + 1)
        tableau = more if more.nfe <= nfe else tableau
    return tableau


def _check_noise_start(sde: SDE, t: float) -> None:
    """Without a given state, sampling may start only where the data has all but vanished."""
    ratio = float(sde.alpha(t) / sde.sigma(t))
    if ratio > 0.1:
        raise ValueError(
            f"sampling starts at t={t:g}, where alpha/sigma={ratio:.2g} and a state still depends on the data: give z=, for instance "
            "sde.perturb(x, t)[0]"
        )


def _raise_non_finite(tableau: Tableau, model: Model, start: Tensor, noise: NoiseSource, cond: dict[str, object]) -> None:
    """Run once more and raise at the first step with an infinite or NaN value."""
    last = len(tableau.marks) - 1

    def find(n: int, t: float, state: Tensor, data: Tensor) -> None:
        for what, tensor in (("state", state), ("data prediction", data)):
            if not bool(tensor.isfinite().all()):
                raise FloatingPointError(f"the {what} is not finite at step {n} of {last}, t={t:g}")

    solvers.run(tableau, model, start, noise, callback=find, cond=cond)
    raise FloatingPointError(f"the state is not finite after the last step, {last} of {last}, t={tableau.times[-1]:g}")


@contextmanager
def _progress_bar(steps: int, show: bool) -> Iterator[Callable[[], object]]:
    """What to call at every step."""
    if not show:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=steps, unit="step") as bar:
        yield bar.update
