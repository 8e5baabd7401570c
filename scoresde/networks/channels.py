"""A network for states of several channels in a block, such as position and velocity."""

from __future__ import annotations

from torch import Tensor, nn


class SideBySide(nn.Module):
    """A network that sees the m channels of a block side by side, and whose last channel is the prediction.

    A state `(B, m, C, H, W)` becomes an image of m C colours; other events keep the axis of the channels, `(B, m, *event)`.

    Args:
        network: takes such a tensor and returns one of its shape, as `UNet(m * colours)` or `MLP((m, *event))` do.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        """`z` `(B, m, *event)`, `t` `(B,)` -> `(B, *event)`."""
        if z.ndim != 5:
            out: Tensor = self.network(z, t, **cond)
            return out[:, -1]
        image: Tensor = self.network(z.flatten(1, 2), t, **cond)
        return image[:, -z.shape[2] :]
