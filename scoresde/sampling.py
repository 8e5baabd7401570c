"""Draw samples from a score model with any solver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, TypeVar, overload

import torch
from torch import Generator, Tensor

from . import grids, solvers
from .cuda_graph import GraphedModel
from .default import default
from .model import ScoreModel
from .prediction import Model
from .random import BatchNoise, NoiseSource, SeededNoise
from .sde import SDE, schedule_values
from .solvers import AdaptiveLoop, BoundSolver, Callback, GridLoop, Ladder, LoopSolver, Run, Schedule, Solver, Tableau
from .solvers.loop import rows

GridLike = str | grids.Grid | Tensor
SolverLike = str | Solver | LoopSolver | Ladder


@overload
def sample(
    model: Model, shape: Sequence[int], solver: SolverLike | None = ..., *, trajectory: Literal[True], **options: Any
) -> Run: ...
@overload
def sample(
    model: Model,
    shape: Sequence[int],
    solver: SolverLike | None = ...,
    *,
    trajectory: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...


def sample(
    model: Model,
    shape: Sequence[int],
    solver: SolverLike | None = None,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    tol: float | None = None,
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
    batch_size: int | None = None,
    compile: bool = False,
    cuda_graph: bool = False,
    **cond: object,
) -> Tensor | Run:
    """Draw samples of shape `(B, *event)`.

    Args:
        model: a `ScoreModel`, or anything with the same four calls.
        shape: `(B, *event)`, the batch included.
        solver: a solver, the short name of one (`solvers.names()`), the file of a fitted one, or a ladder, which needs `tol`. By default the
            measured choice for the budget, `scoresde.default`.
        steps: number of grid intervals. For an adaptive solver the most steps that it may try; then neither `nfe` nor `grid` is possible.
        nfe: an upper bound on network calls per sample; the solver takes as many steps as fit. Give `steps`, `nfe` or a tensor `grid`.
        grid: the name of a grid (`grids.names()`), a function `(sde, steps) -> times` (called with `t_start=` too where that is given), or
            the times themselves. By default the solver's own; one that was selected for a model or fitted to it brings the times.
        tol: the error that is asked of a `solvers.Ladder`, rms per coordinate. With `trajectory` the result has each sample's `bound`.
        generator: one stream of noise for the batch.
        seeds: one integer a sample; sample i then depends on `seeds[i]` alone, in any batch. With neither, every call differs.
        z: the state to start from, `(B, *event)`; by default the prior of `model.sde`, at `t_start` < 1 with the noise scale of that time.
            It is not changed.
        t_start: the time of `z`; 1 by default, or the first time of a tensor `grid`.
        dtype: of the samples; by default that of `z`, else float32 (float64 for a float64 network).
        device: of the samples; by default that of `z`, else the model's.
        callback: called in every step n as `callback(n, t, z, data)`, with the state and the time of its network call and the data prediction
            there. From an adaptive solver t is `(B,)`: every sample has its own time.
        progress: show a progress bar.
        trajectory: return a `Run` with `x`, `path` `(N+1, B, *event)`, `times` and `nfe` in place of the samples.
        grad: record the graph, so that gradients flow through the sampler to `z`, the network and `cond`.
        batch_size: how many samples to work on at once; all by default. The samples are the same, up to what the network makes of another
            batch size; the noise is the same to the bit. Tensors in `cond` with one row a sample are split too.
        compile: run the network under `torch.compile`; the first call compiles it.
        cuda_graph: capture the network call in a CUDA graph and replay it, for small networks on a GPU.
        **cond: reaches the network untouched.

    Returns:
        The samples, `(B, *event)`, or a `Run` where `trajectory` is set.

    Raises:
        ValueError: arguments that contradict each other, a grid that does not decrease, a prediction that is undefined on the grid.
        FloatingPointError: a state became infinite or NaN; names the step and the time.
        StepLimitError: an adaptive solver needs more than `steps`; names the time that it reached.
    """
    shape = tuple(shape)
    if isinstance(solver, str):
        solver = solvers.get(solver)
    if solver is None:
        calls = len(grid) - 1 if isinstance(grid, Tensor) else nfe or steps or 0
        solver, suited = default(calls)
        grid = suited if grid is None else grid
    if isinstance(solver, Ladder) != (tol is not None):
        raise ValueError("a ladder needs tol=, the error to stay below, and no other solver takes it")
    if isinstance(solver, Ladder) and tol is not None:
        solver = solver.at(tol)
    if isinstance(solver, BoundSolver):
        solver.check(model)
        grid = solver.grid if grid is None else grid
    assert not isinstance(solver, Ladder)
    if generator is not None and seeds is not None:
        raise ValueError("give generator= (one stream) or seeds= (one per sample), not both")
    noise: NoiseSource = BatchNoise(generator) if seeds is None else SeededNoise(seeds)
    if isinstance(noise, SeededNoise) and len(noise) != shape[0]:
        raise ValueError(f"{len(noise)} seeds were given for a batch of shape {shape}")
    if z is not None and z.shape != shape:
        raise ValueError(f"z has shape {tuple(z.shape)}, but samples of shape {shape} were asked for")
    if z is not None and t_start is None and not isinstance(grid, Tensor):
        t_start = 1.0
    job: Callable[..., Run]
    if isinstance(solver, LoopSolver):
        times = _loop_times(model.sde, solver, steps=steps, nfe=nfe, grid=grid, t_start=t_start)
        first_time, intervals = float(times[0]), None if isinstance(solver, AdaptiveLoop) else len(times) - 1
        job = partial(solver.run, times=times, steps=steps)
    else:
        tableau = plan(model.sde, solver, steps=steps, nfe=nfe, grid=grid, t_start=t_start)
        first_time, intervals = tableau.times[0], len(tableau.marks) - 1
        job = partial(solvers.run, tableau)
    adaptive = isinstance(solver, AdaptiveLoop)
    start_std = _noise_start(model.sde, first_time) if z is None else 0.0
    where = torch.device(device if device is not None else model.device)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size is not None and adaptive and trajectory:
        raise ValueError(f"the parts of a batch take different numbers of steps with {solver}: no trajectory with batch_size=")
    if cuda_graph and (grad or adaptive):
        raise ValueError("cuda_graph=True replays one network call without gradients and with one time for the batch")
    if compile:
        if not isinstance(model, ScoreModel):
            raise ValueError(f"compile=True compiles the network of a ScoreModel, got {type(model).__name__}")
        model = model.compiled()

    def solve(noise: NoiseSource, first: int, last: int, callback: Callback | None) -> Run:
        """Of the samples first..last-1."""
        if z is not None:
            state = z[first:last].to(device=device, dtype=dtype, copy=True)
        else:
            state = start_std * noise.draw((last - first, *shape[1:]), dtype or model.dtype, where)
        whole = last - first == shape[0]
        given = cond if whole else rows(cond, torch.arange(first, last), shape[0])
        net = GraphedModel(model) if cuda_graph else model
        return job(model=net, z=state, noise=noise, callback=callback, trajectory=trajectory, cond=given)

    starts = range(0, shape[0], min(batch_size or shape[0], shape[0]) or 1)

    def solve_all(callback: Callback | None) -> Run:
        if len(starts) <= 1:
            return solve(noise, 0, shape[0], callback)
        bounds = [(first, min(first + starts.step, shape[0])) for first in starts]
        return _joined([solve(noise.part(first, last, shape[0]), first, last, callback) for first, last in bounds])

    with torch.set_grad_enabled(grad), _progress_bar(intervals, len(starts), progress) as tick:

        def watch(n: int, t: Any, state: Tensor, data: Tensor) -> None:
            tick(n)
            if callback is not None:
                callback(n, t, state, data)

        out = solve_all(watch if callback is not None or progress else None)
        if not bool(out.x.isfinite().all()):
            # Looking at every step of every run would make the host wait for the device: run again with the same noise and look.
            noise.rewind()
            _raise_non_finite(solve_all, intervals)
    return out if trajectory else out.x


def plan(
    sde: SDE,
    solver: str | Solver | LoopSolver,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    t_start: float | None = None,
) -> Tableau:
    """The tableau that `sample` would run for these arguments, without a network.

    Raises:
        ValueError: the arguments contradict each other, no step fits into `nfe`, or the solver is no table.
    """
    if isinstance(solver, str):
        solver = solvers.get(solver)
    if isinstance(solver, LoopSolver):
        raise ValueError(f"{solver} is no tableau: it has a loop of its own")
    values = schedule_values(sde)
    # A solver that is not compared by all of its values could be the same with other ones; so could a subclass that adds some.
    by_value = "__dataclass_fields__" in vars(type(solver)) and type(solver).__hash__ not in (None, object.__hash__)
    if values is not None and not callable(grid) and by_value:
        with suppress(TypeError):  # values without a hash
            return _remembered(solver, sde, values, steps, nfe, tuple(grid.tolist()) if isinstance(grid, Tensor) else grid, t_start)
    return _fit(sde, solver, partial(solver.tableau, sde), steps=steps, nfe=nfe, grid=grid, t_start=t_start)


@lru_cache(maxsize=16)
def _remembered(
    solver: Solver,
    sde: SDE,
    values: tuple[tuple[str, float], ...],
    steps: int | None,
    nfe: int | None,
    grid: str | tuple[float, ...] | None,
    t_start: float | None,
) -> Tableau:
    """The plan, remembered for the next batch; the solver, the path and its `values` are all that it depends on."""
    times = torch.tensor(grid, dtype=torch.float64) if isinstance(grid, tuple) else grid
    return _fit(sde, solver, partial(solver.tableau, sde), steps=steps, nfe=nfe, grid=times, t_start=t_start)


def _loop_times(
    sde: SDE, solver: LoopSolver, *, steps: int | None, nfe: int | None, grid: GridLike | None, t_start: float | None
) -> Tensor:
    """The grid of a `GridLoop`, or the first and the last time of an `AdaptiveLoop`."""
    if isinstance(solver, GridLoop):
        build = partial(Schedule, solver, sde)
        return _fit(sde, solver, build, steps=steps, nfe=nfe, grid=grid, t_start=t_start).times
    if not isinstance(solver, AdaptiveLoop):
        raise TypeError(f"{solver} must be a GridLoop or an AdaptiveLoop")
    for name, value in (("grid", grid), ("nfe", nfe)):
        if value is not None:
            raise ValueError(
                f"{name}= means nothing to {solver}, which chooses its steps by its tolerances; steps= is the most that it may try"
            )
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.tensor([1.0 if t_start is None else float(t_start), solver.t_end], dtype=torch.float64)


class _Planned(Protocol):
    @property
    def nfe(self) -> int: ...


P = TypeVar("P", bound=_Planned)


def _fit(
    sde: SDE,
    solver: Solver | GridLoop,
    build: Callable[[Tensor], P],
    *,
    steps: int | None,
    nfe: int | None,
    grid: GridLike | None,
    t_start: float | None,
) -> P:
    """What `build` makes of the grid that the arguments ask for."""
    if isinstance(grid, Tensor):
        times = grids.check(grid)
        if steps is not None and steps != len(times) - 1:
            raise ValueError(f"steps={steps}, but the grid has {len(times) - 1} intervals")
        if t_start is not None and t_start != float(times[0]):
            raise ValueError(f"t_start={t_start}, but the grid starts at {float(times[0])}")
        planned = build(times)
        if nfe is not None and planned.nfe > nfe:
            raise ValueError(f"this grid takes {planned.nfe} network calls, more than nfe={nfe}")
        return planned
    make = grids.get(grid or solver.default_grid) if not callable(grid) else grid

    def at(steps: int) -> P:
        times = grids.check(make(sde, steps) if t_start is None else make(sde, steps, t_start=t_start))
        if t_start is not None and abs(float(times[0]) - t_start) > 1e-9:
            raise ValueError(f"the grid starts at {float(times[0]):g}, but the state is at t_start={t_start:g}")
        return build(times)

    if (steps is None) == (nfe is None):
        raise ValueError("give steps= or nfe=, one of the two (or a tensor as grid=)")
    if steps is not None:
        return at(steps)
    assert nfe is not None
    if nfe < 1:
        raise ValueError(f"nfe must be at least 1, got {nfe}")
    steps = max(1, nfe // solver.calls_per_step)
    planned = at(steps)
    while planned.nfe > nfe and steps > 1:
        steps -= 1
        planned = at(steps)
    if planned.nfe > nfe:
        raise ValueError(f"{solver} needs more than nfe={nfe} network calls for a single step")
    if planned.nfe < nfe:
        # Steps that are cheaper than a full one, such as the last of Heun, can leave room for one more, if the grid has one.
        with suppress(ValueError):
            more = at(steps + 1)
            planned = more if more.nfe <= nfe else planned
    return planned


def _noise_start(sde: SDE, t: float) -> float:
    """The standard deviation of the noise to start from at t: that of the prior at the end of the path, and less before it as sigma is less.

    Raises:
        ValueError: the data has not all but vanished at t.
    """
    if t == 1:
        return sde.prior_std
    ratio = float(sde.alpha(t) / sde.sigma(t))
    if ratio > 0.1:
        raise ValueError(
            f"sampling starts at t={t:g}, where alpha/sigma={ratio:.2g} and a state still depends on the data: give z=, for instance "
            "sde.perturb(x, t)[0]"
        )
    return sde.prior_std * float(sde.sigma(t) / sde.sigma(1.0))


def _joined(parts: Sequence[Run]) -> Run:
    """The runs of parts of a batch as one."""
    first = parts[0]
    path = torch.cat([part.path for part in parts if part.path is not None], 1) if first.path is not None else None
    calls = torch.cat([part.calls for part in parts if part.calls is not None]) if first.calls is not None else None
    bound = torch.cat([part.bound for part in parts if part.bound is not None]) if first.bound is not None else None
    return Run(torch.cat([part.x for part in parts]), path, first.times, max(part.nfe for part in parts), calls, bound)


def _raise_non_finite(solve: Callable[[Callback], Run], intervals: int | None) -> None:
    """Run once more and raise at the first step with an infinite or NaN value."""
    last = "" if intervals is None else f" of {intervals}"

    def find(n: int, t: Any, state: Tensor, data: Tensor) -> None:
        for what, tensor in (("state", state), ("data prediction", data)):
            if not bool(tensor.isfinite().all()):
                raise FloatingPointError(f"the {what} is not finite at step {n}{last}, t={float(torch.as_tensor(t).max()):g}")

    out = solve(find)
    raise FloatingPointError(
        f"the state is not finite after the last step, {len(out.times) - 1}{last}, t={float(out.times[-1].max()):g}"
    )


@contextmanager
def _progress_bar(steps: int | None, parts: int, show: bool) -> Iterator[Callable[[int], object]]:
    """What to call in step n = 0, 1, ... of every part; steps in which it was not called count as done."""
    if not show:
        yield lambda n: None
        return
    from tqdm.auto import tqdm

    done, before = 0, -1

    def tick(n: int) -> None:
        nonlocal done, before
        # A part begins anew where n does not rise.
        done += (steps or before + 1) if n <= before else 0
        before = n
        bar.update(done + n + 1 - bar.n)

    with tqdm(total=steps and steps * parts, unit="step") as bar:
        yield tick
