"""The one loop that runs every tableau."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..prediction import Model, conversion
from ..random import NoiseSource
from .tableau import Operand, Tableau

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
        bound: the bound on the error of each sample, `(B,)` float64, from a `Ladder`.
    """

    x: Tensor
    path: Tensor | None
    times: Tensor
    nfe: int
    calls: Tensor | None = None
    bound: Tensor | None = None


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
    instructions = tableau.instructions(model.prediction)
    prepared = dict(zip(tableau.evaluated, model.prepare([tableau.times[k] for k in tableau.evaluated], z), strict=True))
    step_of = {state: n for n, state in enumerate(tableau.looks)} if callback is not None else {}
    marks = set(tableau.marks) if trajectory else ()
    given = cond or {}
    shape, dtype, device = z.shape, z.dtype, z.device
    held: dict[Operand, Tensor] = {("z", 0): z}
    path = [z] if trajectory else None
    for k, (call, convert, fresh, terms, overwrite, unused) in enumerate(instructions):
        if call:
            state = held["z", k]
            out = model.output(state, prepared[k], **given)
            held["data", k] = out if convert is None else combine([(state, convert[0]), (out, convert[1])], dtype)
            if callback is not None and k in step_of:
                t = tableau.times[k]
                c_z, c_out = (float(c) for c in conversion(model.sde, t, model.prediction, "data"))
                callback(step_of[k], t, state, combine([(state, c_z), (out, c_out)], dtype))
        for j, std in fresh:
            held["noise", j] = noise.draw(shape, dtype, device, std)
        held["z", k + 1] = combine([(held[operand], c) for operand, c in terms], dtype, overwrite)
        for operand in unused:
            del held[operand]
        if path is not None and k + 1 in marks:
            path.append(held["z", k + 1])
    times = torch.tensor([tableau.times[state] for state in tableau.marks], dtype=torch.float64)
    return Run(held["z", len(tableau.rows)], torch.stack(path) if path is not None else None, times, tableau.nfe)


def combine(terms: Sequence[tuple[Tensor, float]], dtype: torch.dtype, overwrite: bool = False) -> Tensor:
    """The linear combination of the terms, in the dtype of the states; it may take the memory of the first term if told so."""
    (total, coefficient), *rest = terms
    # A call that changes nothing costs as much as adding up a small state: it is left out, here and in every step of a loop.
    if total.dtype != dtype:
        total = total.to(torch.promote_types(total.dtype, dtype))
    # In place on a tensor of our own: the gradient of a sum needs no old value.
    if not overwrite:
        total = total * coefficient
    elif coefficient != 1:
        total.mul_(coefficient)
    for tensor, coefficient in rest:
        total.add_(tensor, alpha=coefficient)
    return total if total.dtype == dtype else total.to(dtype)
