"""The one loop that runs every tableau."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Run `tableau` from the state `z` under `model`. `z` is not changed; the states have its dtype and its memory format.

    Args:
        noise: where the noises xi come from, one draw of the shape of `z` each, in the order of the rows.
        callback: called in every step with `(n, t, z, data)`: the state and the time of its network call, and the data prediction there.
            It must not change them.
        trajectory: keep the states at the grid's times.
        cond: keyword arguments that reach the network untouched.

    Raises:
        ValueError: the model's prediction does not determine the data at some time, or an output has a wrong shape.
    """
    program = tableau.program(model.prediction)
    prepared = iter(model.prepare([tableau.times[k] for k in tableau.evaluated], z))
    step_of = {state: n for n, state in enumerate(tableau.looks)} if callback is not None else {}
    marks = set(tableau.marks) if trajectory else ()
    given = cond or {}
    shape, dtype, device, layout = z.shape, z.dtype, z.device, channels_last(z)
    held: list[Any] = [None] * program.places
    held[0] = z
    path = [z] if trajectory else None
    for k, (call, convert, fresh, terms, overwrite, unused, result) in enumerate(program.instructions):
        if call:
            at, to = call
            held[to] = model.output(held[at], next(prepared), **given)
            if callback is not None and k in step_of:
                t = tableau.times[k]
                c_z, c_out = (float(c) for c in conversion(model.sde, t, model.prediction, "data"))
                callback(step_of[k], t, held[at], combine([(held[at], c_z), (held[to], c_out)], dtype))
            if convert:
                held[to] = combine([(held[at], convert[0]), (held[to], convert[1])], dtype)
        for to, std in fresh:
            held[to] = noise.draw(shape, dtype, device, std)
        new = combine([(held[place], c) for place, c in terms], dtype, overwrite)
        if layout is not None:
            new = new.contiguous(memory_format=layout)
        for place in unused:
            held[place] = None
        held[result] = new
        if path is not None and k + 1 in marks:
            path.append(new)
    times = torch.tensor([tableau.times[state] for state in tableau.marks], dtype=torch.float64)
    return Run(held[result], torch.stack(path) if path is not None else None, times, tableau.nfe)


def channels_last(z: Tensor) -> torch.memory_format | None:
    """The layout of a state that keeps its channels last; None for any other state."""
    layout: torch.memory_format | None = {4: torch.channels_last, 5: torch.channels_last_3d}.get(z.ndim)
    return layout if layout and not z.is_contiguous() and z.is_contiguous(memory_format=layout) else None


def combine(terms: Sequence[tuple[Tensor, float]], dtype: torch.dtype, overwrite: bool = False) -> Tensor:
    """The linear combination of the terms, in the dtype of the states; it may take the memory of the first term if told so."""
    total, coefficient = terms[0]
    # A call that changes nothing costs as much as adding up a small state: it is left out, here and in every step of a loop.
    if total.dtype != dtype:
        total = total.to(torch.promote_types(total.dtype, dtype))
    # In place on a tensor of our own: the gradient of a sum needs no old value.
    if not overwrite:
        total = total * coefficient
    elif coefficient != 1:
        total.mul_(coefficient)
    for tensor, coefficient in terms[1:]:
        total.add_(tensor, alpha=coefficient)
    return total if total.dtype == dtype else total.to(dtype)
