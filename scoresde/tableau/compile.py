"""A table as instructions for a loop: what to evaluate, draw, add up and release, decided before the first network call.

For DDIM in two steps, folded for a noise prediction (z_1 = a_0 z_0 + b_0 eps_0, then z_2 = a_1 z_1 + b_1 eps_1), the program is

    evaluate z_0;  z_1 = a_0 z_0 + b_0 data_0;  release z_0, data_0
    evaluate z_1;  z_2 = a_1 z_1 + b_1 data_1;  release z_1, data_1

and ancestral sampling draws xi_0 with its coefficient as standard deviation, which saves a multiplication, and adds the rest to that tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..numerics.arrays import to_device
from ..numerics.coefficients import Coefficient

Operand = tuple[Literal["z", "data", "xi"], int]


class Instruction(NamedTuple):
    """What the loop does to make the state `result`.

    Attributes:
        evaluate: the state at which the network is called and the name of its output; None where this row calls nothing.
        keep: a later row needs the output too, so it is copied: a network may use one memory for all its outputs.
        convert: (c_z, c_out) that turn the output into what the terms multiply; None where they multiply the output itself.
        draw: noises to draw, each with a standard deviation.
        terms: coefficients by operand; 1 for a noise that was drawn with its coefficient as standard deviation.
        in_place: the first term is a noise that nothing else needs, so its memory takes the sum.
        release: operands that no later row needs.
        result: the new state.
    """

    evaluate: tuple[Operand, Operand] | None
    keep: bool
    convert: tuple[Coefficient, Coefficient] | None
    draw: tuple[tuple[Operand, float], ...]
    terms: tuple[tuple[Operand, Coefficient], ...]
    in_place: bool
    release: tuple[Operand, ...]
    result: Operand


Program = tuple[Instruction, ...]


def compile_rows(
    rows: Sequence[Mapping[Operand, Coefficient]],
    evaluated: Collection[int],
    conversions: Mapping[int, tuple[Coefficient, Coefficient]],
) -> Program:
    """The program of `rows`, the terms of each, with the network called at the states `evaluated`.

    Args:
        conversions: (c_z, c_out) of every evaluated state whose output is converted.
    """
    last_use: dict[Operand, int] = {}
    for k, terms in enumerate(rows):
        last_use.update(dict.fromkeys(terms, k))
    for j in evaluated:
        last_use["z", j] = max(last_use.get(("z", j), j), j)
    release: list[list[Operand]] = [[] for _ in rows]
    for operand, k in last_use.items():
        release[k].append(operand)
    drawn = set[Operand]()
    program = []
    for k, terms in enumerate(rows):
        draw, single_use = list[tuple[Operand, float]](), dict[Operand, Coefficient]()
        for operand, c in terms.items():
            if operand[0] != "xi":
                continue
            is_new, is_last = operand not in drawn, last_use[operand] == k
            std = c if is_new and is_last and not isinstance(c, Tensor) and c > 0 else None
            if is_new:
                draw.append((operand, 1.0 if std is None else std))
                drawn.add(operand)
            if is_last:
                single_use[operand] = c if std is None else 1.0
        ordered = single_use | {operand: c for operand, c in terms.items() if operand not in single_use}
        evaluate: tuple[Operand, Operand] | None = (("z", k), ("data", k)) if k in evaluated else None
        program.append(
            Instruction(
                evaluate,
                evaluate is not None and last_use["data", k] > k,
                conversions.get(k),
                tuple(draw),
                tuple(ordered.items()),
                bool(single_use),
                tuple(release[k]),
                ("z", k + 1),
            )
        )
    return tuple(program)


def place(program: Program, dtype: torch.dtype, device: torch.device) -> Program:
    """`program` with its tensors in the dtype and on the device of the states."""

    def placed(c: Coefficient) -> Coefficient:
        return to_device(c.to(dtype), device) if isinstance(c, Tensor) else c

    return tuple(
        step._replace(
            convert=None if step.convert is None else (placed(step.convert[0]), placed(step.convert[1])),
            terms=tuple((operand, placed(c)) for operand, c in step.terms),
        )
        for step in program
    )
