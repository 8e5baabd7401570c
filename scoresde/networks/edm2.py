"""The magnitude-preserving U-Net of Karras et al. 2024 (arXiv 2312.02696, configuration G, appendix B).

Every operation gives a result of unit magnitude for inputs of unit magnitude (`magnitude`), and every output on the way down is a skip
(`levels`). Published sizes, on latents 64 x 64 x 4:

    EDM2(4, width=128, classes=1000)     XS, 125M parameters
    EDM2(4, width=192, classes=1000)     S, 280M

Weights act by the directions of their rows only. `normalise` sets the lengths back, and a trainer calls it after each step of the optimiser.
Otherwise the weights grow, and the relative size of a step falls without control (section 2.3). It stays out of the forward pass: to write
weights there would break sharding, recomputation and compilation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from .layers import heads_of, require_images, resized
from .levels import Place, places, through
from .magnitude import MPConv, MPEmbedding, MPLinear, Weight, mp_cat, mp_silu, mp_sum, normalised

# The share of a residual branch, and of attention, in the sum with what it branches from (appendix B).
BRANCH = 0.3


class Attention(nn.Module):
    """Self-attention over the pixels by the cosines of queries and keys."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_channels)
        self.qkv = MPConv(channels, 3 * channels, 1)
        self.leave = MPConv(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        split = rearrange(self.qkv(h), "b (three heads c) y x -> three b heads (y x) c", three=3, heads=self.heads)
        # Features that are neighbours in memory spare the matrix of all pairs of pixels; see `ADM`'s attention.
        q, k, v = normalised(split.contiguous(), -1)
        mixed = scaled_dot_product_attention(q, k, v)
        return mp_sum(h, self.leave(rearrange(mixed, "b heads (y x) c -> b (heads c) y x", y=h.shape[-2])), BRANCH)


class PixelNorm(nn.Module):
    """Each pixel with its channels at magnitude 1."""

    def forward(self, h: Tensor) -> Tensor:
        return normalised(h, 1)


class Block(nn.Module):
    """h -> mp_sum(skip(h'), conv dropout mp_silu( (1 + gain W e) conv mp_silu(h') )), h' = enter(h at the sides of the level); then attention.

    Args:
        place: where it stands.
        embedding: width of e.
        head_channels: channels of an attention head.
        dropout: probability of leaving out an activation.
        enter: what comes before the branch.
        skip: what stands beside the branch.
        inputs: channels of h'.
    """

    def __init__(
        self, place: Place, embedding: int, head_channels: int, dropout: float, enter: nn.Module, skip: nn.Module, inputs: int
    ) -> None:
        super().__init__()
        self.place = place
        self.enter, self.skip = enter, skip
        self.conv1, self.conv2 = MPConv(inputs, place.outputs, 3), MPConv(place.outputs, place.outputs, 3)
        self.modulation = MPLinear(embedding, place.outputs)
        # Of shape (1,), as no wrapper shards a scalar.
        self.gain = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(dropout)
        self.attention = Attention(place.outputs, head_channels) if place.attends else nn.Identity()

    def forward(self, h: Tensor, embedded: Tensor, size: tuple[int, int]) -> Tensor:
        h = self.enter(resized(h, size))
        scale = rearrange(1 + self.gain * self.modulation(embedded), "b c -> b c 1 1")
        branch = self.conv2(self.dropout(mp_silu(scale * self.conv1(mp_silu(h)))))
        out: Tensor = self.attention(mp_sum(self.skip(h), branch, BRANCH))
        return out


class EDM2(nn.Module):
    """`network(z, t, label=None)` for images `(B, channels, height, width)` of any size, `z` of unit magnitude.

    Args:
        channels: channels of the image.
        width: channels of the first level, in units of `multipliers`.
        multipliers: the width of each level, in units of `width`; their number is the depth.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention: levels with self-attention, counted from 0 at the top; by default the last two. The bottom itself always has it.
        head_channels: channels of an attention head.
        classes: number of classes for conditional models.
        dropout: probability of leaving out an activation of a residual block.
        outputs: channels of the result; `channels` by default.
        recompute: compute the activations of each block again in the backward pass, for less memory. Can be set later.

    Attributes:
        arguments: those that the function depends on, by name.

    Raises:
        ValueError: `head_channels` does not divide the channels of a level with attention.
    """

    def __init__(
        self,
        channels: int,
        width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
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
        widths = [width * m for m in multipliers]
        embedding = max(widths)
        options = (embedding, head_channels, dropout)
        down, up = places(widths, blocks, range(len(widths) - 2, len(widths)) if attention is None else attention)
        self.embedding = MPEmbedding(embedding, widths[0], classes)
        self.enter = MPConv(channels + 1, widths[0], 3)
        # On the way down the channels change, and each pixel is normalised, before the branch; on the way up they change beside it.
        self.down = nn.ModuleList(
            Block(p, *options, nn.Sequential(_changed(p), PixelNorm()), nn.Identity(), inputs=p.outputs) for p in down
        )
        self.up = nn.ModuleList(Block(p, *options, nn.Identity(), _changed(p), inputs=p.inputs) for p in up)
        self.leave = MPConv(widths[0], channels if outputs is None else outputs, 3)
        self.gain = nn.Parameter(torch.zeros(1))

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs; see `TimeAndClass.declare_time`."""
        self.embedding.declare_time(name)

    def normalise(self) -> None:
        """Set the rows of all weights to magnitude 1, in place and without a gradient. The function stays the same.

        A trainer calls it after each step of the optimiser. Rows are normalised one by one, so that weights may be sharded along them.
        """
        for module in self.modules():
            if isinstance(module, Weight):
                module.normalise()

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`z` `(B, channels, height, width)`, `t` `(B,)`, `label` `(B,)` integers -> `(B, outputs, height, width)`.

        Raises:
            ValueError: `z` is not a batch of images with this number of channels.
        """
        require_images(self, z, self.channels)
        embedded = self.embedding(t, label)
        # A channel of ones stands in for biases.
        h = self.enter(pad(z, (0, 0, 0, 0, 0, 1), value=1.0))
        h = through(self.down, self.up, h, embedded, mp_cat, self.recompute)
        out: Tensor = self.gain * self.leave(h)
        return out


def _changed(place: Place) -> nn.Module:
    """The change of the number of channels, where there is one."""
    return MPConv(place.inputs, place.outputs, 1) if place.inputs != place.outputs else nn.Identity()
