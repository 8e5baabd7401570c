"""The way down and up of a U-Net whose every output on the way down is a skip (Ho et al. 2020; Dhariwal and Nichol 2021).

    down:   enter   [w0] * n    shrink [w1] * n    shrink [w2] * n          every output is kept, that of `enter` too
    bottom: [w2] [w2]                                                       the first with attention
    up:     [w2] * (n + 1)      grow   [w1] * (n + 1)     grow [w0] * (n + 1)   the blocks in brackets join a skip, the last one kept first

`ADM` and `EDM2` differ in their blocks and in how a block joins a skip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from .recompute import run


class Place(NamedTuple):
    """Where a block stands: the level of its output, its channels, whether it joins a skip, and whether it attends."""

    level: int
    inputs: int
    outputs: int
    joins: bool
    attends: bool


def places(widths: Sequence[int], blocks: int, attention: Sequence[int]) -> tuple[list[Place], list[Place]]:
    """The places on the way down, and those of the bottom and the way up.

    Args:
        widths: channels of each level, from the top.
        blocks: n above.
        attention: levels whose blocks attend; a block that shrinks or grows does not.
    """
    down: list[Place] = []
    kept = [widths[0]]
    for level, w in enumerate(widths):
        if level:
            down.append(Place(level, kept[-1], kept[-1], False, False))
            kept.append(kept[-1])
        for _ in range(blocks):
            down.append(Place(level, kept[-1], w, False, level in attention))
            kept.append(w)
    last, h = len(widths) - 1, kept[-1]
    up = [Place(last, h, h, False, True), Place(last, h, h, False, False)]
    for level, w in reversed(list(enumerate(widths))):
        if level < last:
            up.append(Place(level, h, h, False, False))
        for _ in range(blocks + 1):
            up.append(Place(level, h + kept.pop(), w, True, level in attention))
            h = w
    return down, up


def through(
    down: nn.ModuleList, up: nn.ModuleList, h: Tensor, embedded: Tensor, join: Callable[[Tensor, Tensor], Tensor], recompute: bool
) -> Tensor:
    """`(B, w0, y, x)` -> `(B, w0, y, x)`: all blocks, each called with `(h, embedded, size)`, the sides at the level of its `place`."""
    down_blocks: Any = down
    up_blocks: Any = up
    sizes = [tuple(h.shape[-2:])]
    for _ in range(up_blocks[0].place.level):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    skips = [h]
    for block in down_blocks:
        h = run(block, recompute, h, embedded, sizes[block.place.level])
        skips.append(h)
    for block in up_blocks:
        h = join(h, skips.pop()) if block.place.joins else h
        h = run(block, recompute, h, embedded, sizes[block.place.level])
    return h
