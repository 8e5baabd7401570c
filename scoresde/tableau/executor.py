"""The one loop that runs every tableau, as a coroutine.

`execute` yields a state whenever it needs the network's output there, is sent that output, and returns the last state. The driver decides what
happens in between: `run` calls a model and a callback, a host with its own loop calls its pipeline.

    loop = execute(tableau, "noise", z, noise)
    call = next(loop)                                  # Call(k, z): the network is wanted at state k
    while True:
        call = loop.send(model.output(call.z, tableau.times[call.k]))      # StopIteration.value is the last state
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.brief import Brief
from ..numerics.coefficients import Coefficient, apply
from ..numerics.cost import Cost
from ..numerics.random import NoiseSource
from ..sde.base import as_time
from ..sde.linear import LinearSDE, at_state
from ..sde.linear_prediction import linear_conversion
from ..sde.prediction import Prediction, conversion
from .compile import Operand
from .tableau import Tableau

# (n, t, z, data); t is a float, and a tensor (B,) where every sample has its own time.
Callback = Callable[[int, Any, Tensor, Tensor], object]


@dataclass(repr=False)
class Run(Brief):
    """What a run of a solver gives back.

    Attributes:
        x: the last state, `(B, *event)`.
        path: the states at the grid's times, first to last, `(N+1, B, *event)`; None unless asked for.
        times: the grid, `(N+1,)` float64; `(N+1, B)` where every sample has its own.
        nfe: network calls made, counted; the most of any sample.
        calls: the network calls of each sample, `(B,)`, where they differ.
        bound: the bound on the error of each sample, `(B,)` float64, from a cascade.
        network_calls: evaluations of networks per sample, the mean over the batch. A model around others may evaluate one twice in a call.
        vjps: vector-Jacobian products per sample, each a backward pass through a network; the mean over the batch.
        log_weights: of the samples of a particle method, `(B,)` float64 nats, normalised in each group of particles.
        log_evidence: what a particle method says of the normaliser of its target, float64 nats, one for each group.
    """

    x: Tensor
    path: Tensor | None
    times: Tensor
    nfe: int
    calls: Tensor | None = None
    bound: Tensor | None = None
    network_calls: float | None = None
    vjps: float | None = None
    log_weights: Tensor | None = None
    log_evidence: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Run]) -> Run:
        """The runs of consecutive parts of a batch as one."""
        if len(parts) == 1:
            return parts[0]

        def cat(tensors: Sequence[Tensor | None], dim: int = 0) -> Tensor | None:
            present = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(present, dim) if present else None

        x, path = torch.cat([part.x for part in parts]), cat([part.path for part in parts], 1)
        calls, bound = cat([part.calls for part in parts]), cat([part.bound for part in parts])
        log_weights, log_evidence = cat([part.log_weights for part in parts]), cat([part.log_evidence for part in parts])

        def mean(costs: Sequence[float | None]) -> float | None:
            known = [(cost, len(part.x)) for cost, part in zip(costs, parts, strict=True) if cost is not None]
            return sum(cost * n for cost, n in known) / max(1, len(x)) if known else None

        costs = mean([part.network_calls for part in parts]), mean([part.vjps for part in parts])
        return cls(x, path, parts[0].times, max(part.nfe for part in parts), calls, bound, *costs, log_weights, log_evidence)

    def with_cost(self, cost: Cost) -> Run:
        """This run with the cost of its network beyond one evaluation for each call of the solver."""
        calls = float(self.nfe) if self.calls is None else float(self.calls.double().mean()) if len(self.x) else 0.0
        n = max(1, len(self.x))
        return replace(self, network_calls=calls + cost.network / n, vjps=cost.vjps / n)


class Call(NamedTuple):
    """A request of `execute`: the network's output at state k."""

    k: int
    z: Tensor


# (k, z_k) -> the state to go on with.
StateHook = Callable[[int, Tensor], Tensor]


def execute(
    tableau: Tableau, prediction: Prediction, z: Tensor, noise: NoiseSource, on_state: StateHook | None = None
) -> Generator[Call, Tensor, Tensor]:
    """Run `tableau` from the state `z`, which is not changed; yields the evaluations it needs and returns the last state.

    States have the dtype and the memory format of `z`. Those that no later row needs are released at once.

    Args:
        prediction: of the outputs that will be sent.
        noise: where the noises xi come from, one draw of the shape of `z` each, in the order of the rows.
        on_state: called with `(k, z_k)` for every new state, k = 1, 2, ...; the loop goes on with what it returns, so it may record a state
            or correct it.

    Raises:
        ValueError: the prediction does not determine the data at some time.
    """
    shape, dtype, device, layout = z.shape, z.dtype, z.device, channels_last(z)
    held: dict[Operand, Tensor] = {("z", 0): z}
    program = tableau.placed(prediction, dtype, device)
    for k, (evaluate, keep, convert, draw, terms, in_place, release, result) in enumerate(program):
        if evaluate:
            at, out = evaluate
            held[out] = yield Call(k, held[at])
            if convert:
                held[out] = combine([(held[at], convert[0]), (held[out], convert[1])], dtype)
            elif keep:
                held[out] = held[out].clone()
        for xi, std in draw:
            held[xi] = noise.draw(shape, dtype, device, std)
        new = combine([(held[operand], c) for operand, c in terms], dtype, in_place)
        if layout is not None:
            new = new.contiguous(memory_format=layout)
        for operand in release:
            del held[operand]
        held[result] = new if on_state is None else on_state(k + 1, new)
    return held[result]


def run(
    tableau: Tableau,
    model: Model,
    z: Tensor,
    noise: NoiseSource,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
    on_state: StateHook | None = None,
    cond: dict[str, object] | None = None,
) -> Run:
    """Run `tableau` from the state `z` under `model`. `z` is not changed; the states have its dtype and its memory format.

    Args:
        noise: where the noises xi come from.
        callback: called in every step with `(n, t, z, data)`: the state and the time of its network call, and the data prediction there.
            It must not change them.
        trajectory: keep the states at the grid's times.
        on_state: as in `execute`.
        cond: keyword arguments that reach the network untouched.

    Raises:
        ValueError: the model's prediction does not determine the data at some time, or an output has a wrong shape.
    """
    cond = cond or {}
    network_times = iter(model.prepare([tableau.times[k] for k in tableau.evaluated], z))
    step_of = {state: n for n, state in enumerate(tableau.step_evals)} if callback is not None else {}
    path = [z] if trajectory else None
    grid_states = set(tableau.grid_states)

    def visit(k: int, state: Tensor) -> Tensor:
        state = state if on_state is None else on_state(k, state)
        if path is not None and k in grid_states:
            path.append(state)
        return state

    loop = execute(tableau, model.prediction, z, noise, visit if trajectory else on_state)
    try:
        k, state = next(loop)
        while True:
            out = model.output(state, next(network_times), **cond)
            if callback is not None and k in step_of:
                t = tableau.times[k]
                version = state._version if not state.is_inference() else 0
                callback(step_of[k], t, state, data_prediction(model, t, state, out))
                if not state.is_inference() and state._version != version:
                    raise ValueError(
                        f"the callback changed the state of step {step_of[k]} in place: use on_state of scoresde.tableau.run"
                    )
            k, state = loop.send(out)
    except StopIteration as end:
        x: Tensor = end.value
    return Run(x, stacked_path(path) if path is not None else None, tableau.grid, tableau.nfe)


def stacked_path(states: Sequence[Tensor]) -> Tensor:
    """The states of a path as one tensor. Where a block has several channels, the data at its end get zeros for the others, their mean."""
    *before, last = states
    if last.shape != states[0].shape:
        last = torch.cat([last[:, None], torch.zeros_like(states[0][:, 1:])], 1)
    return torch.stack([*before, last])


def data_prediction(model: Model, t: float, z: Tensor, out: Tensor) -> Tensor:
    """The data prediction that the model's output `out` at `(z, t)` stands for, in the dtype of `z`."""
    c_z: Coefficient
    c_out: Coefficient
    if isinstance(model.sde, LinearSDE):
        pair = linear_conversion(model.sde, as_time(t).reshape(1), model.prediction, "data")
        c_z, c_out = (at_state(c, z) for c in pair)
    else:
        c_z, c_out = (float(c) for c in conversion(model.sde, t, model.prediction, "data"))
    return combine([(z, c_z), (out, c_out)], z.dtype)


def channels_last(z: Tensor) -> torch.memory_format | None:
    """The layout of a state that keeps its channels last; None for any other state."""
    layout: torch.memory_format | None = {4: torch.channels_last, 5: torch.channels_last_3d}.get(z.ndim)
    return layout if layout and not z.is_contiguous() and z.is_contiguous(memory_format=layout) else None


def combine(terms: Sequence[tuple[Tensor, Coefficient]], dtype: torch.dtype, in_place: bool = False) -> Tensor:
    """The linear combination of the terms, in `dtype`; with `in_place` the sum takes the memory of the first term."""
    total, coefficient = terms[0]
    # A conversion that changes nothing still costs 1 us, a third of adding a small state.
    if total.dtype != dtype:
        total = total.to(torch.promote_types(total.dtype, dtype))
    if isinstance(coefficient, Tensor):
        total = apply(coefficient, total)
    elif not in_place:
        total = total * coefficient
    elif coefficient != 1:
        total.mul_(coefficient)
    # In place, on a tensor that nobody else holds: the gradient of a sum needs no old value.
    for tensor, coefficient in terms[1:]:
        if isinstance(coefficient, Tensor):
            total = total + apply(coefficient, tensor.to(total.dtype))
        else:
            total.add_(tensor, alpha=coefficient)
    return total if total.dtype == dtype else total.to(dtype)
