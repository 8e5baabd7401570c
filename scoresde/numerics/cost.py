"""What a run costs beyond one network evaluation for each call of its solver: counted where it is spent.

A wrapper that evaluates a network twice in one call, or differentiates it, says so with `spend`. `counted` sums it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass
class Cost:
    """Work of the network, in samples.

    Attributes:
        network: evaluations beyond one for each call of the solver; negative where calls were saved.
        vjps: vector-Jacobian products, each one backward pass through the network.
    """

    network: int = 0
    vjps: int = 0


_COSTS: ContextVar[tuple[Cost, ...]] = ContextVar("scoresde_costs", default=())


@contextmanager
def counted() -> Iterator[Cost]:
    """The cost of what is computed within."""
    cost = Cost()
    token = _COSTS.set((*_COSTS.get(), cost))
    try:
        yield cost
    finally:
        _COSTS.reset(token)


def spend(samples: int, *, network: int = 0, vjps: int = 0) -> None:
    """Add `network` evaluations and `vjps` products for each of so many samples to every cost that is being counted."""
    if torch.compiler.is_compiling():
        return
    for cost in _COSTS.get():
        cost.network += samples * network
        cost.vjps += samples * vjps
