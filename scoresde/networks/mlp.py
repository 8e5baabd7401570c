"""A residual multilayer perceptron for vectors, or for small events of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from .embedding import Embedding


class Block(nn.Module):
    """h + W2 SiLU(scale(e) * norm(W1 h) + shift(e))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.modulation(embedded).chunk(2, 1)
        return h + self.second(nn.functional.silu((1 + scale) * self.norm(self.first(h)) + shift))


class MLP(nn.Module):
    """`network(z, t, label=None)` for events of a fixed shape.

    Args:
        features: size of a vector, or the shape of any event. The network flattens the event.
        width: width of the hidden layers.
        layers: number of residual blocks.
        classes: number of classes for conditional models.

    Attributes:
        arguments: those that made the network, by name.
    """

    def __init__(self, features: int | Sequence[int], width: int = 128, layers: int = 3, classes: int | None = None) -> None:
        super().__init__()
        self.arguments = {"features": features, "width": width, "layers": layers, "classes": classes}
        self.event_shape = (features,) if isinstance(features, int) else tuple(features)
        size = math.prod(self.event_shape)
        self.embedding = Embedding(width, classes)
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, size))

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs; see `Embedding.declare_time`."""
        self.embedding.declare_time(name)

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`z` `(B, *event)`, `t` `(B,)`, `label` `(B,)` integers -> `(B, *event)`.

        Raises:
            ValueError: `z` has another event shape.
        """
        if z.shape[1:] != self.event_shape:
            raise ValueError(f"this MLP takes events of shape {self.event_shape}, got {tuple(z.shape[1:])}")
        embedded = self.embedding(t, label)
        h = self.enter(z.reshape(z.shape[0], math.prod(self.event_shape)))
        for block in self.blocks:
            h = block(h, embedded)
        return self.leave(h).reshape(z.shape)
