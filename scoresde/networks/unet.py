"""A small U-Net for images of any size and number of channels.

Each level halves the resolution. A level has residual blocks, in which time and class are a scale and a shift (Dhariwal and Nichol 2021,
arXiv 2105.05233), and optionally attention. A pixel-unshuffle stem trades resolution for channels before the first level. With `patch=2` a
28 x 28 image is processed at 14 x 14, three times faster on a CPU at equal parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from .embedding import Embedding


def _norm(channels: int) -> nn.GroupNorm:
    # At least four channels per group: a group of one channel and one pixel would be normalised to 0.
    return nn.GroupNorm(next((g for g in (8, 4, 2) if channels % g == 0 and channels >= 4 * g), 1), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise the last layer of a residual branch, or of the network, at 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """skip(h) + conv SiLU( scale(e) norm(conv SiLU norm h) + shift(e) )."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = rearrange(self.modulation(embedded), "b (two c) -> two b c 1 1", two=2)
        branch = self.conv1(silu(self.norm1(h)))
        branch = self.conv2(silu((1 + scale) * self.norm2(branch) + shift))
        return self.skip(h) + branch


class Attention(nn.Module):
    """Self-attention over the pixels, as a residual branch."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split among {heads} attention heads")
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(h)), "b (three heads c) y x -> three b heads (y x) c", three=3, heads=self.heads)
        mixed = scaled_dot_product_attention(q, k, v)
        return h + self.leave(rearrange(mixed, "b heads (y x) c -> b (heads c) y x", y=h.shape[-2]))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where the level has it."""

    def __init__(self, widths: Sequence[tuple[int, int]], embedding: int, heads: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(i, o, embedding) for i, o in widths)
        self.attention = nn.ModuleList(Attention(o, heads) if heads else nn.Identity() for _, o in widths)

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = attention(block(h, embedded))
        return h


class UNet(nn.Module):
    """`network(z, t, label=None)` for images `(B, channels, height, width)` of any size.

    Args:
        channels: channels of the image.
        width: channels of the first level.
        multipliers: the width of each level, in units of `width`; their number is the depth.
        blocks: residual blocks per level, on the way down and on the way up.
        attention: levels with self-attention, counted from 0 at the top; by default the bottom level.
        heads: number of attention heads.
        patch: side of the pixel blocks that the stem folds into channels.
        classes: number of classes for conditional models.

    Attributes:
        arguments: those that made the network, by name.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] | None = None,
        heads: int = 4,
        patch: int = 1,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {
            "channels": channels, "width": width, "multipliers": multipliers, "blocks": blocks, "attention": attention, "heads": heads,
            "patch": patch, "classes": classes,
        }  # fmt: skip
        self.channels, self.patch = channels, patch
        widths = [width * m for m in multipliers]
        depth, embedding = len(widths), 4 * width
        attention = (depth - 1,) if attention is None else attention
        at = [heads if level in attention else None for level in range(depth)]
        self.embedding = Embedding(embedding, classes)
        self.enter = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, w in enumerate(widths):
            inputs = widths[max(level - 1, 0)]
            self.down.append(Level([(inputs, w)] + [(w, w)] * (blocks - 1), embedding, at[level]))
            self.shrink.append(nn.Conv2d(w, w, 3, stride=2, padding=1) if level < depth - 1 else nn.Identity())
        self.middle = Level([(widths[-1], widths[-1])], embedding, at[-1])
        self.up = nn.ModuleList()
        for level, w in reversed(list(enumerate(widths))):
            inputs = widths[min(level + 1, depth - 1)] + w
            self.up.append(Level([(inputs, w)] + [(w, w)] * (blocks - 1), embedding, at[level]))
        self.leave = nn.Sequential(_norm(widths[0]), nn.SiLU(), _zero(nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)))

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs; see `Embedding.declare_time`."""
        self.embedding.declare_time(name)

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`z` `(B, channels, height, width)`, `t` `(B,)`, `label` `(B,)` integers -> the shape of `z`.

        Raises:
            ValueError: `z` is not a batch of images with this number of channels.
        """
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(f"this UNet takes images (B, {self.channels}, height, width), got shape {tuple(z.shape)}")
        height, width = z.shape[-2:]
        # Sides that `patch` does not divide are padded by repeating the border, and cropped at the end.
        padded = pad(z, (0, -width % self.patch, 0, -height % self.patch), mode="replicate")
        h = self.enter(rearrange(padded, "b c (y p) (x q) -> b (c p q) y x", p=self.patch, q=self.patch))
        embedded = self.embedding(t, label)
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h = level(h, embedded)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h, embedded)
        for level in self.up:
            skip = skips.pop()
            # An odd side 7 shrinks to 4 and grows back to the skip's 7.
            h = h if h.shape[-2:] == skip.shape[-2:] else interpolate(h, size=skip.shape[-2:])
            h = level(torch.cat([h, skip], 1), embedded)
        h = self.leave(h)
        return rearrange(h, "b (c p q) y x -> b c (y p) (x q)", p=self.patch, q=self.patch)[..., :height, :width]
