"""Draw samples from a score model with any solver: choose a plan, make the start, run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any, Literal, overload

import torch
from torch import Generator, Tensor

from ..loops.base import Job
from ..models.base import Model, as_model
from ..models.failures import explained
from ..models.training_mode import warn_if_training
from ..models.wrappers import compiled, graphed
from ..numerics.batching import batches, index_cond
from ..numerics.cost import counted
from ..numerics.inputs import as_count, as_shape
from ..numerics.random import noise_source
from ..solvers.tuned import TunedSolver
from ..tableau.executor import Callback, Run
from ..tableau.tableau import Tableau
from ..tuning.cascade import BoundedSolver, CascadeSolver
from .auto import auto
from .frames import frame_of
from .growth import warn_of_divergence, warn_of_flow, warn_of_growth
from .keywords import require_known
from .monitor import monitor, raise_non_finite
from .planning import AnySolver, plan
from .plans import Plan
from .registry import is_auto
from .request import GridLike
from .start import Start

SolverLike = str | PathLike[str] | AnySolver | Tableau | Plan


@overload
def sample(
    model: Model, shape: Sequence[int], solver: SolverLike | None = ..., *, trajectory: Literal[True], **options: Any
) -> Run: ...
@overload
def sample(model: Model, shape: Sequence[int], solver: SolverLike | None = ..., *, error: Literal[True], **options: Any) -> Run: ...
@overload
def sample(
    model: Model,
    shape: Sequence[int],
    solver: SolverLike | None = ...,
    *,
    trajectory: Literal[False] = ...,
    error: Literal[False] = ...,
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
    generator: Generator | Sequence[Generator] | None = None,
    seeds: Iterable[int] | None = None,
    z: Tensor | None = None,
    t_start: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    trajectory: bool = False,
    error: bool = False,
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
        solver: a solver, the short name of one (`solvers.names()`), the file of a fitted one, a `Tableau`, a `Plan`, or a cascade, which
            needs `tol`. Without one, or with the name "default", the measured choice for the budget, `scoresde.sampling.default`. With the
            name "auto" a pilot tries about sixty pairs of a solver and a grid on 32 starts, once for each model and `nfe`, and the best is
            taken (`solvers.select`).
        steps: number of grid intervals. For an adaptive solver the most steps that it may try; then neither `nfe` nor `grid` is possible.
        nfe: an upper bound on network calls per sample; the solver takes as many steps as fit. Give `steps`, `nfe` or a tensor `grid`.
        grid: the name of a grid (`grids.names()`), a function `(sde, steps) -> times` (called with `t_start=` too where that is given), or
            the times themselves. By default the solver's own; a solver that was selected for a model or fitted to it brings its times.
        tol: the error to stay below, rms per coordinate, for a cascade of `solvers.calibrate`. Warns where a bound stays above it.
        generator: one stream of noise for the batch, or a list with one generator a sample.
        seeds: one integer a sample; sample i then depends on `seeds[i]` alone, in any batch. With neither, every call differs.
        z: the state to start from, `(B, *event)`; by default the prior of `model.sde`, at `t_start` < 1 with the noise scale of that time.
            It is not changed.
        t_start: the time of `z`; 1 by default, or the first time of a tensor `grid`.
        dtype: of the samples; by default that of `z`, else float32 (float64 for a float64 network).
        device: of the samples; by default that of `z`, else the model's.
        callback: called in every step n as `callback(n, t, z, data)`, with the state and the time of its network call and the data prediction
            there. From an adaptive solver t is `(B,)`: every sample has its own time.
        progress: show a progress bar.
        trajectory: return a `Run` with `x`, `path` `(N+1, B, *event)`, `times`, `nfe` and the cost of the network in place of the samples.
        error: return a `Run` with `x` and the `bound` on the error of each sample, rms per coordinate, from a cascade of `solvers.calibrate`.
            Without `tol` all samples have the level of `nfe` calls, by default the last one.
        grad: record the graph, so that gradients flow through the sampler to `z`, the network and `cond`.
        batch_size: how many samples to work on at once; all by default. The samples are the same, up to what the network makes of another
            batch size; the noise is the same to the bit. Tensors in `cond` with one row a sample are split too.
        compile: run `models.compiled(model)`; its first call compiles the network.
        cuda_graph: run `models.graphed(model)`, which replays the network from a CUDA graph: for small networks on a GPU.
        **cond: reaches the network untouched. With `batch_size` or an adaptive solver, tensors with one row a sample are split, also inside
            dicts, lists and tuples.

    Returns:
        The samples, `(B, *event)`, or a `Run` where `trajectory` or `error` is set.

    Raises:
        TypeError: an argument of a wrong type, or a state that holds no real numbers; names it.
        ValueError: arguments that contradict each other, a grid that does not decrease, a prediction that is undefined on the grid.
        FloatingPointError: a state became infinite or NaN; names the step and the time.
        StepLimitError: an adaptive solver needs more than `steps`; names the time that it reached.
    """
    model = as_model(model)
    require_known(model, solver, cond, OPTIONS)
    shape = as_shape("shape", shape)
    warn_if_training(model)
    if (
        z is not None
        and t_start is None
        and (grid is None or isinstance(grid, str) or callable(grid))
        and not isinstance(solver, Plan | Tableau)
    ):
        t_start = 1.0
    if is_auto(solver):
        solver, nfe = auto(model, shape[1:], nfe, cond, shape[0]), None
    planned = plan(model, solver, steps=steps, nfe=nfe, grid=grid, tol=tol, t_start=t_start, event=shape[1:], error=error)
    planned.check(model, shape[1:])
    warn_of_growth(planned)
    warn_of_flow(planned, model)
    if error and not isinstance(planned.solver, BoundedSolver | CascadeSolver):
        raise ValueError(f"error=True needs a calibrated solver: {calibration_of(planned.solver)}")
    require_compatible(planned, batch_size, trajectory=trajectory, grad=grad, cuda_graph=cuda_graph)
    noise = noise_source(generator, seeds, shape[0])
    start = Start.of(model, planned.t_start, shape, z, dtype, device)
    network = compiled(model) if compile else model
    parts = batches(shape[0], None if batch_size is None else as_count("batch_size", batch_size))

    def solve(on_step: Callback | None) -> Run:
        def solve_part(part: slice) -> Run:
            stream = noise if len(parts) == 1 else noise.part(part.start, part.stop, shape[0])
            part_cond = index_cond(cond, part, shape[0])
            frame = frame_of(graphed(network) if cuda_graph else network, part_cond)
            state = start.draw(part, stream, frame)
            job = Job(frame.model, state, stream, planned.times, planned.max_steps, frame.outside(on_step), trajectory, part_cond)
            with counted() as cost:
                ran = planned.run(job)
            return frame.leave_run(ran).with_cost(cost)

        return Run.joined([solve_part(part) for part in parts])

    with (
        explained(model, shape, cond),
        torch.set_grad_enabled(grad),
        monitor(callback, progress, planned.steps, len(parts)) as on_step,
    ):
        run = solve(on_step)
        if not bool(run.x.isfinite().all()):
            noise.rewind()
            raise_non_finite(solve, planned.steps)
        warn_of_divergence(run.x, start, model)
    if isinstance(planned.solver, CascadeSolver) and run.bound is not None:
        planned.solver.warn_of_excess(run.bound)
    return run if trajectory or error else run.x


# What `sample` takes.
OPTIONS = tuple(name for name in inspect.signature(sample).parameters if name != "cond")


def calibration_of(solver: object) -> str:
    """The call that makes a calibrated solver of a fitted one, or of none."""
    levels = ", levels=[solver]" if isinstance(solver, TunedSolver) else ""
    return f"solver = solvers.calibrate(model, event{levels}), with event the shape of one sample"


def require_compatible(planned: Plan, batch_size: int | None, *, trajectory: bool, grad: bool, cuda_graph: bool) -> None:
    """Raise for options that the plan cannot have together.

    Raises:
        ValueError: names them.
    """
    adaptive = planned.steps is None
    if batch_size is not None and adaptive and trajectory:
        raise ValueError(
            f"the parts of a batch take different numbers of steps with {planned.solver}: no trajectory with batch_size="
        )
    if cuda_graph and (grad or adaptive):
        raise ValueError("cuda_graph=True replays one network call without gradients and with one time for the batch")
