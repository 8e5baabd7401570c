"""Layers that `UNet` and `ADM` share."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, scaled_dot_product_attention, silu


def group_norm(channels: int, most: int = 8) -> nn.GroupNorm:
    """A group norm of at most `most` groups."""
    # At least four channels per group: a group of one channel and one pixel would be normalised to 0.
    return nn.GroupNorm(next((g for g in (32, 16, 8, 4, 2) if g <= most and channels % g == 0 and channels >= 4 * g), 1), channels)


def require_images(network: nn.Module, z: Tensor, channels: int) -> None:
    """Raise unless `z` is a batch of images with this number of channels.

    Raises:
        ValueError: says what the network takes.
    """
    if z.ndim != 4 or z.shape[1] != channels:
        raise ValueError(f"this {type(network).__name__} takes images (B, {channels}, height, width), got shape {tuple(z.shape)}")


def heads_of(channels: int, head_channels: int) -> int:
    """The number of attention heads.

    Raises:
        ValueError: `head_channels` does not divide the channels.
    """
    if channels % head_channels:
        raise ValueError(f"{channels} channels cannot be split into attention heads of head_channels={head_channels}")
    return channels // head_channels


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise the last layer of a residual branch, or of the network, at 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def resized(h: Tensor, size: Sequence[int]) -> Tensor:
    """`(B, C, y, x)` at other sides: means of 2 x 2 pixels where they shrink to a half, the nearest pixels where they grow."""
    if h.shape[-2:] == tuple(size):
        return h
    # A last row or column without a partner stands for itself: 7 shrinks to 4 and grows back to 7.
    return avg_pool2d(h, 2, ceil_mode=True) if h.shape[-2:].numel() > size[0] * size[1] else interpolate(h, size=tuple(size))


class ResidualBlock(nn.Module):
    """skip(r(h)) + conv dropout SiLU( scale(e) norm(conv r(SiLU norm h)) + shift(e) ), where r resizes to `size`."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float = 0.0, groups: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(inputs, groups), group_norm(outputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedded: Tensor, size: Sequence[int] | None = None) -> Tensor:
        size = h.shape[-2:] if size is None else size
        scale, shift = rearrange(self.modulation(embedded), "b (two c) -> two b c 1 1", two=2)
        branch = self.conv1(resized(silu(self.norm1(h)), size))
        branch = self.conv2(self.dropout(silu((1 + scale) * self.norm2(branch) + shift)))
        return self.skip(resized(h, size)) + branch


class Attention(nn.Module):
    """Self-attention over the pixels, as a residual branch."""

    def __init__(self, channels: int, heads: int, groups: int = 8) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split among {heads} attention heads")
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = zero(nn.Conv2d(channels, channels, 1))

    def split(self, h: Tensor) -> Tensor:
        """Queries, keys and values of all heads, `(3, B, heads, pixels, c)`."""
        return rearrange(self.qkv(self.norm(h)), "b (three heads c) y x -> three b heads (y x) c", three=3, heads=self.heads)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.split(h)
        mixed = scaled_dot_product_attention(q, k, v)
        return h + self.leave(rearrange(mixed, "b heads (y x) c -> b (heads c) y x", y=h.shape[-2]))
