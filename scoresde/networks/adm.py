"""The attention U-Net of Dhariwal and Nichol 2021 (arXiv 2105.05233, section 3 and appendix H).

Its residual blocks also halve and double the resolution, and every output on the way down is a skip (`levels`). Published sizes:

    ADM(3, 192, (1, 2, 3, 4), 3, (1, 2, 3), classes=1000, outputs=6)     ImageNet 64 x 64, 296M parameters
    ADM(3, 256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), outputs=6)             ImageNet 256 x 256, 553M
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import layers
from .embedding import JointEmbedding
from .layers import ResidualBlock, group_norm, heads_of, require_images, zero
from .levels import Place, places, through

GROUPS = 32


def side_by_side(h: Tensor, skip: Tensor) -> Tensor:
    """The channels of both."""
    return torch.cat([h, skip], 1)


class Attention(layers.Attention):
    """As in `UNet`, without a matrix of all pairs of pixels in memory.

    The kernels that do so have no second or forward derivatives; `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` has them.
    """

    def split(self, h: Tensor) -> Tensor:
        # These kernels take features that are neighbours in memory.
        return super().split(h).contiguous()


class Block(nn.Module):
    """A residual block at its place, followed by attention where the place has it."""

    def __init__(self, place: Place, embedding: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        self.place = place
        self.residual = ResidualBlock(place.inputs, place.outputs, embedding, dropout, GROUPS)
        self.attention = (
            Attention(place.outputs, heads_of(place.outputs, head_channels), GROUPS) if place.attends else nn.Identity()
        )

    def forward(self, h: Tensor, embedded: Tensor, size: tuple[int, int]) -> Tensor:
        out: Tensor = self.attention(self.residual(h, embedded, size))
        return out


class ADM(nn.Module):
    """`network(z, t, label=None)` for images `(B, channels, height, width)` of any size.

    Args:
        channels: channels of the image.
        width: channels of the first level, in units of `multipliers`.
        multipliers: the width of each level, in units of `width`; their number is the depth.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention: levels with self-attention, counted from 0 at the top; by default the bottom level. The bottom itself always has it.
        head_channels: channels of an attention head.
        classes: number of classes for conditional models.
        dropout: probability of leaving out an activation of a residual block.
        outputs: channels of the result; twice `channels` for a `LearnedVariance`, and `channels` by default.
        recompute: compute the activations of each block again in the backward pass, for less memory. Can be set later.

    Attributes:
        arguments: those that the function depends on, by name.

    Raises:
        ValueError: `head_channels` does not divide the channels of a level with attention.
    """

    def __init__(
        self,
        channels: int,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        head_channels: int = 64,
        classes: int | None = None,
        dropout: float = 0.0,
        outputs: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.arguments = {
            "channels": channels, "width": width, "multipliers": multipliers, "blocks": blocks, "attention": attention,
            "head_channels": head_channels, "classes": classes, "dropout": dropout, "outputs": outputs,
        }  # fmt: skip
        self.channels, self.recompute = channels, recompute
        widths, embedding = [width * m for m in multipliers], 4 * width
        down, up = places(widths, blocks, (len(widths) - 1,) if attention is None else attention)
        self.embedding = JointEmbedding(embedding, width, classes)
        self.enter = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Block(place, embedding, head_channels, dropout) for place in down)
        self.up = nn.ModuleList(Block(place, embedding, head_channels, dropout) for place in up)
        out = channels if outputs is None else outputs
        self.leave = nn.Sequential(group_norm(widths[0], GROUPS), nn.SiLU(), zero(nn.Conv2d(widths[0], out, 3, padding=1)))

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs; see `Embedding.declare_time`."""
        self.embedding.declare_time(name)

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`z` `(B, channels, height, width)`, `t` `(B,)`, `label` `(B,)` integers -> `(B, outputs, height, width)`.

        Raises:
            ValueError: `z` is not a batch of images with this number of channels.
        """
        require_images(self, z, self.channels)
        embedded = self.embedding(t, label)
        h = through(self.down, self.up, self.enter(z), embedded, side_by_side, self.recompute)
        out: Tensor = self.leave(h)
        return out
