"""The one loop that runs every tableau."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..prediction import Model, conversion
from ..random import NoiseSource
from .tableau import Tableau

# (n, t, z, data); t is a float, and a tensor (B,) where every sample has its own time.
Callback = Callable[[int, Any, Tensor, Tensor], object]


@dataclass
class Run:
    """What a run of a solver gives back.

    Attributes:
        x: the last state, `(B, *event)`.
        path: the states at the grid's times, first to last, `(N+1, B, *event)`; None unless asked for.
        times: the grid, `(N+1,)` float64; `(N+1, B)` where every sample has its own.
        nfe: network calls made, counted; the most of any sample.
        calls: the network calls of each sample, `(B,)`, where they differ.
    """

    x: Tensor
    path: Tensor | None
    times: Tensor
    nfe: int
    calls: Tensor | None = None


def run(
    tableau: Tableau,
    model: Model,
    z: Tensor,
    noise: NoiseSource,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
    cond: dict[str, object] | None = None,
) -> Run:
    """Run `tableau` from the state `z` under `model`. `z` is not changed.

    Args:
        noise: where the noises xi come from, one draw of the shape of `z` each, in the order of the rows.
        callback: called in every step with `(n, t, z, data)`: the state and the time of its network call, and the data prediction there.
            It must not change them.
        trajectory: keep the states at the grid's times.
        cond: keyword arguments that reach the network untouched.

    Raises:
        ValueError: the model's prediction does not determine the data at some time, or an output has a wrong shape.
    """
    folded = tableau.folded(model.prediction)
    evaluated = set(folded.evaluated)
    step_of = {state: n for n, state in enumerate(tableau.looks)}
    marks = set(tableau.marks)
    last_noise = {j: k for k, row in enumerate(folded.rows) for j in row.noise}
    states, outputs, noises = {0: z}, dict[int, Tensor](), dict[int, Tensor]()
    path = [z] if trajectory else None
    nfe = 0
    for k, row in enumerate(folded.rows):
        t = folded.times[k]
        if k in evaluated:
            outputs[k] = model.output(states[k], t, **(cond or {}))
            nfe += 1
            if callback is not None and k in step_of:
                c_z, c_out = (float(c) for c in conversion(model.sde, t, model.prediction, "data"))
                callback(step_of[k], t, states[k], (c_z * states[k] + c_out * outputs[k]).to(z.dtype))
        for j in row.noise:
            if j not in noises:
                noises[j] = noise.draw(z.shape, z.dtype, z.device)
        parts = ((row.z, states), (row.data, outputs), (row.noise, noises))
        terms = ((tensors[j], c) for coefficients, tensors in parts for j, c in coefficients.items())
        states[k + 1] = combine(terms, z.dtype)
        for j in folded.last_used_by(k):
            del states[j]
            outputs.pop(j, None)
        for j in row.noise:
            if last_noise[j] == k:
                del noises[j]
        if path is not None and k + 1 in marks:
            path.append(states[k + 1])
    times = torch.tensor([tableau.times[state] for state in tableau.marks], dtype=torch.float64)
    return Run(states[len(folded.rows)], torch.stack(path) if path is not None else None, times, nfe)


def combine(terms: Iterable[tuple[Tensor, float]], dtype: torch.dtype) -> Tensor:
    """The linear combination of the terms, in the dtype of the states."""
    terms = iter(terms)
    tensor, coefficient = next(terms)
    result = tensor.to(torch.promote_types(tensor.dtype, dtype)) * coefficient
    for tensor, coefficient in terms:
        # In place on a tensor made here: the gradient of a sum needs no old value.
        result = result.add_(tensor, alpha=coefficient)
    return result.to(dtype)
