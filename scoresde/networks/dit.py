"""A transformer whose blocks start as the identity (Peebles and Xie 2023, arXiv 2212.09748: DiT with adaLN-zero).

Images are cut into patches and sequences into pieces, each with a fixed sinusoidal position. A set has no positions: a permutation of its
members permutes the result. Published sizes, on latents 32 x 32 x 4 with `patch=2`, `classes=1000` and `outputs=8`:

    S: width 384, 12 layers, 6 heads; 33M parameters      L: 1024, 24, 16; 458M
    B: 768, 12, 12; 130M                                  XL: 1152, 28, 16; 675M
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .embedding import JointEmbedding, frequencies
from .recompute import run

# The shape of an event -> the tokens and their features, each with the axes that positions count.
TOKENS = {
    "image": ("b c (y p) (x q)", "b (y x) (c p q)"),
    "sequence": ("b (y p) c", "b y (p c)"),
    "set": ("b y c", "b y c"),
}
KINDS = {"image": "images (B, {}, height, width)", "sequence": "sequences (B, length, {})", "set": "sets (B, number, {})"}
TIME_FEATURES = 256


def positions(grid: Sequence[int], width: int, device: torch.device) -> Tensor:
    """sin(f_i p) and cos(f_i p) of the coordinates p of all points of a grid, `(points, width)`: as many features for each axis."""
    f = frequencies(width // len(grid), torch.float32, device)
    points = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float32, device=device) for n in grid)).reshape(-1, len(grid), 1)
    phase = points * f
    return torch.cat([phase.sin(), phase.cos()], 2).flatten(1)


class Block(nn.Module):
    """h + g1 attention(s1 norm(h) + b1), then h + g2 mlp(s2 norm(h) + b2); g, s - 1 and b are linear in e, and 0 at first.

    Args:
        width: width of a token.
        heads: number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def attention(self, h: Tensor) -> Tensor:
        """`(B, n, width)` -> `(B, n, width)`."""
        q, k, v = rearrange(self.qkv(h), "b n (three heads c) -> three b heads n c", three=3, heads=self.heads)
        out: Tensor = self.mixed(rearrange(scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)"))
        return out

    def mlp(self, h: Tensor) -> Tensor:
        """`(B, n, width)` -> `(B, n, width)`."""
        out: Tensor = self.narrow(gelu(self.wide(h), approximate="tanh"))
        return out

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        b1, s1, g1, b2, s2, g2 = rearrange(self.modulation(embedded), "b (six c) -> six b 1 c", six=6)
        h = h + g1 * self.attention((1 + s1) * self.norm(h) + b1)
        return h + g2 * self.mlp((1 + s2) * self.norm(h) + b2)


class Leave(nn.Module):
    """W (s norm(h) + b); W, s - 1 and b are 0 at first."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, outputs)

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        b, s = rearrange(self.modulation(embedded), "b (two c) -> two b 1 c", two=2)
        out: Tensor = self.linear((1 + s) * self.norm(h) + b)
        return out


class DiT(nn.Module):
    """`network(z, t, label=None)` for events of one kind and of any size: an image, a sequence or a set.

    Args:
        channels: channels of an image, features of a step of a sequence, or of a member of a set.
        width: width of a token.
        layers: number of blocks.
        heads: number of attention heads.
        patch: side of the blocks of pixels, or length of the pieces of a sequence, that make a token; 1 for a set.
        kind: "image" `(B, channels, height, width)`, "sequence" `(B, length, channels)` or "set" `(B, number, channels)`.
        classes: number of classes for conditional models.
        outputs: channels of the result; `channels` by default.
        recompute: compute the activations of each block again in the backward pass, for less memory. Can be set later.

    Attributes:
        arguments: those that the function depends on, by name.

    Raises:
        ValueError: another kind, a set with patches, or a width that the heads, or the sinusoids of the positions, do not divide.
    """

    def __init__(
        self,
        channels: int,
        width: int = 384,
        layers: int = 12,
        heads: int = 6,
        patch: int = 1,
        kind: str = "image",
        classes: int | None = None,
        outputs: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if kind not in TOKENS:
            raise ValueError(f"kind must be one of {', '.join(TOKENS)}, got {kind!r}")
        if kind == "set" and patch != 1:
            raise ValueError(f"the members of a set make no patches: patch must be 1, got {patch}")
        if width % heads or width % 4:
            raise ValueError(f"width must be divisible by 4 and by heads={heads}, got {width}")
        self.arguments = {
            "channels": channels, "width": width, "layers": layers, "heads": heads, "patch": patch, "kind": kind, "classes": classes,
            "outputs": outputs,
        }  # fmt: skip
        self.channels, self.kind, self.patch, self.recompute = channels, kind, patch, recompute
        self.outputs = channels if outputs is None else outputs
        self.sides = {"p": patch, "q": patch} if kind == "image" else {"p": patch} if kind == "sequence" else {}
        pixels = patch ** len(self.sides)
        self.embedding = JointEmbedding(width, TIME_FEATURES, classes)
        self.enter = nn.Linear(channels * pixels, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.leave = Leave(width, self.outputs * pixels)
        self._initialise()

    def _initialise(self) -> None:
        """As published: Xavier's weights and no biases, small embeddings, and 0 where a block or the network ends."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for module in self.embedding.layers:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        for name, module in self.named_modules():
            if name.endswith(("modulation", "leave.linear")):
                nn.init.zeros_(module.weight)

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs; see `Embedding.declare_time`."""
        self.embedding.declare_time(name)

    def forward(self, z: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """`z` of the kind, `t` `(B,)`, `label` `(B,)` integers -> the shape of `z`, with `outputs` channels.

        Raises:
            ValueError: `z` is not a batch of this kind with this number of channels, or `patch` does not divide its sides.
        """
        axes = (2, 3) if self.kind == "image" else (1,)
        channels = 1 if self.kind == "image" else 2
        if z.ndim != 2 + len(axes) or z.shape[channels] != self.channels:
            raise ValueError(f"this DiT takes {KINDS[self.kind].format(self.channels)}, got shape {tuple(z.shape)}")
        if any(z.shape[axis] % self.patch for axis in axes):
            raise ValueError(f"patch={self.patch} must divide the sides of {tuple(z.shape)}")
        event, tokens = TOKENS[self.kind]
        h = self.enter(rearrange(z, f"{event} -> {tokens}", **self.sides))
        grid = [z.shape[axis] // self.patch for axis in axes]
        if self.kind != "set":
            h = h + positions(grid, h.shape[-1], z.device).to(self.enter.weight.dtype)
        embedded = self.embedding(t, label)
        for block in self.blocks:
            h = run(block, self.recompute, h, embedded)
        return rearrange(self.leave(h, embedded), f"{tokens} -> {event}", **self.sides, **dict(zip("yx", grid, strict=False)))
