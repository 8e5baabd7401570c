"""The architectures of networks that others trained, written from a description of their tensors.

The names of the attributes are the keys of the files. Every network takes the time in the unit that it was trained with.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShallowUNet(nn.Module):
    """A class-conditional U-Net of 5x5 convolutions, with a scale and a shift from the time after every block but the last.

    Input `(B, 3, 32, 32)`, 0-based index `(B,)` and `label` `(B,)`; predicts the noise.
    """

    def __init__(self, width: int = 24, time: int = 48) -> None:
        super().__init__()
        c = width
        self.register_buffer("freqs", torch.exp(-math.log(1000) * torch.arange(time // 2) / (time // 2)), persistent=False)
        self.time_emb = nn.Sequential(nn.Linear(time, 4 * time), nn.SiLU(), nn.Linear(4 * time, time))
        self.prompt_emb = nn.Embedding(10, time)
        self.time_filmUp = nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(time, 2 * n)}) for n in (c, 2 * c, 4 * c, 4 * c, 2 * c))
        self.down_layers = nn.ModuleList(self.block(i, o) for i, o in ((3, c), (c, 2 * c), (2 * c, 4 * c)))
        self.up_layers = nn.ModuleList(self.block(i, o) for i, o in ((4 * c, 4 * c), (6 * c, 2 * c), (3 * c, 6)))
        self.finalLayer = nn.Conv2d(6, 3, 5, padding=2)

    @staticmethod
    def block(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, out, 5, padding=2), nn.BatchNorm2d(out), nn.SiLU())

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angle = t[:, None] * self.freqs
        e = self.time_emb(torch.cat([angle.sin(), angle.cos()], 1)) + self.prompt_emb(label)

        def film(i: int, h: Tensor) -> Tensor:
            gamma, beta = self.time_filmUp[i]["linear"](e)[..., None, None].chunk(2, 1)
            return gamma * h + beta

        first = film(0, self.down_layers[0](x))
        second = film(1, self.down_layers[1](F.max_pool2d(first, 2)))
        h = film(2, self.down_layers[2](F.max_pool2d(second, 2)))
        h = film(3, self.up_layers[0](h))
        h = film(4, self.up_layers[1](torch.cat([F.interpolate(h, scale_factor=2), second], 1)))
        h = self.up_layers[2](torch.cat([F.interpolate(h, scale_factor=2), first], 1))
        return self.finalLayer(h)


class _Fourier(nn.Module):
    """[sin 2 pi t W, cos 2 pi t W] with the random frequencies of the file."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("W", torch.zeros(count))

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t * self.W
        return torch.cat([angle.sin(), angle.cos()], 1)


class _FlowBlock(nn.Module):
    """ReLU(BatchNorm(conv x)) plus a projection of the time."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
        self.time_projection = nn.Linear(100, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.convs(x) + self.time_projection(e)[..., None, None]


class FlowUNet(nn.Module):
    """A U-Net of `_FlowBlock`s whose only features of the time are random Fourier features of scale 30, so that its output is rough in time.

    Input `(B, 1, 28, 28)`, time `(B,)` with data at 1, and an optional `label` `(B,)`; predicts x - eps.
    """

    def __init__(self) -> None:
        super().__init__()

        def conv(channels: int, out: int, stride: int = 1) -> _FlowBlock:
            return _FlowBlock(nn.Conv2d(channels, out, 3, stride, 1), out)

        def up(channels: int, out: int) -> nn.ModuleList:
            doubled = _FlowBlock(nn.ConvTranspose2d(channels, out, 2, 2), out)
            return nn.ModuleList([doubled, conv(2 * out, out), conv(out, out)])

        self.time_embedding = nn.ModuleDict({"embedding": _Fourier(50)})
        self.label_embedding = nn.ModuleDict({"embedding": nn.Embedding(10, 100)})
        self.initial = nn.ModuleList([conv(1, 32), conv(32, 32)])
        self.downs = nn.ModuleList(
            [nn.ModuleList([conv(32, 64, 2), conv(64, 64)]), nn.ModuleList([conv(64, 128, 2), conv(128, 128)])]
        )
        self.bottleneck = nn.ModuleList([conv(128, 128), conv(128, 128)])
        self.ups = nn.ModuleList([up(128, 64), up(64, 32)])
        self.final = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        e = self.time_embedding["embedding"](t.reshape(-1, 1))
        if label is not None:
            e = e + self.label_embedding["embedding"](label)
        skips, h = [], x
        for level in (self.initial, *self.downs):
            for block in level:
                h = block(h, e)
            skips.append(h)
        skips.pop()
        for block in self.bottleneck:
            h = block(h, e)
        for doubled, *rest in self.ups:
            h = torch.cat([doubled(h, e), skips.pop()], 1)
            for block in rest:
                h = block(h, e)
        return self.final(h)


class _Step(nn.Module):
    """A convolution, LayerNorm over the whole image, GELU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(channels, out, 7, padding=3), nn.LayerNorm((out, 28, 28)), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class FlatConv(nn.Module):
    """Four 7x7 convolutions with LayerNorm and no down-sampling. Input `(B, 1, 28, 28)`, time `(B,)` in [0, 1]; predicts the noise."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 32, 16)
        self.register_buffer("frequencies", torch.zeros(16))
        self.blocks = nn.ModuleList([*(_Step(i, o) for i, o in itertools.pairwise(widths)), nn.Conv2d(16, 1, 3, padding=1)])
        self.time_embed = nn.Sequential(
            nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 16)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * self.frequencies
        first, *rest = self.blocks
        h = first(x) + self.time_embed(torch.cat([angle.sin(), angle.cos() - 1], 1))[..., None, None]
        for block in rest:
            h = block(h)
        return h


class _NoiseBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.noise_mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128))
        self.noise_proj = nn.Linear(128, 2 * channels)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        gamma, beta = self.noise_proj(self.noise_mlp(e))[..., None, None].chunk(2, 1)
        y = self.conv1((gamma * self.norm1(x) + beta).relu())
        return x + self.conv2(self.norm2(y).relu())


class SmallResNet(nn.Module):
    """Two residual blocks. Input `(B, 1, 32, 32)` scaled by c_in and c_noise = log(sigma)/4 `(B,)`; predicts EDM's F."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_emb = nn.Linear(1, 32, bias=False)
        del self.noise_emb.weight
        self.noise_emb.register_buffer("weight", torch.zeros(1, 32))
        self.conv_in, self.conv_out = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 1, 3, padding=1)
        self.blocks = nn.ModuleList([_NoiseBlock(32), _NoiseBlock(32)])

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        angle = 2 * math.pi * c_noise[:, None] * self.noise_emb.weight
        e = torch.cat([angle.cos(), angle.sin()], 1)
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, e)
        return self.conv_out(h)


class _Sinusoidal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("omegas", torch.zeros(64))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None] * self.omegas
        return torch.cat([angle.sin(), angle.cos()], 1)


class FlowMLP(nn.Module):
    """Six linear layers on the state and its time. Input `(B, D)`, time `(B,)` with data at 0; predicts eps - x or x."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.time_embed = _Sinusoidal()
        widths = (features + 128, 256, 256, 256, 256, 256)
        layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(256, features))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([z, self.time_embed(t)], 1))


class PlaneMLP(nn.Module):
    """Four linear layers on a point of the plane and its time. Input `(B, 2)`, time `(B,)` in [0, 1]; predicts the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.model(torch.cat([z, t[:, None]], 1))


class _NormBlock(nn.Module):
    """LayerNorm over the whole input, two convolutions with SiLU."""

    normalise = True

    def __init__(self, size: int, channels: int, out: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((channels, size, size))
        self.conv1, self.conv2 = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln(x) if self.normalise else x
        return F.silu(self.conv2(F.silu(self.conv1(h))))


class LayerNormUNet(nn.Module):
    """The U-Net of a popular tutorial; LayerNorm hides the mean and the scale of the image from it.

    Input `(B, 1, 28, 28)` and 0-based integer index `(B,)`; predicts the noise.
    """

    def __init__(self) -> None:
        super().__init__()

        def stage(size: int, *channels: int, last: bool = True) -> nn.Sequential:
            blocks = [_NormBlock(size, i, o) for i, o in itertools.pairwise(channels)]
            blocks[-1].normalise = last
            return nn.Sequential(*blocks)

        def time(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(100, channels), nn.SiLU(), nn.Linear(channels, channels))

        def half(c: int) -> nn.Conv2d:
            return nn.Conv2d(c, c, 4, 2, 1)

        def double(c: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(c, c, 4, 2, 1)

        self.time_embed = nn.Embedding(1000, 100)
        self.te1, self.te2, self.te3, self.te_mid, self.te4, self.te5, self.te_out = (time(c) for c in (1, 10, 20, 40, 80, 40, 20))
        self.b1, self.down1 = stage(28, 1, 10, 10, 10), half(10)
        self.b2, self.down2 = stage(14, 10, 20, 20, 20), half(20)
        self.b3, self.down3 = stage(7, 20, 40, 40, 40), nn.Sequential(nn.Conv2d(40, 40, 2), nn.SiLU(), half(40))
        self.b_mid = stage(3, 40, 20, 20, 40)
        self.up1 = nn.Sequential(double(40), nn.SiLU(), nn.ConvTranspose2d(40, 40, 2))
        self.b4, self.up2 = stage(7, 80, 40, 20, 20), double(20)
        self.b5, self.up3 = stage(14, 40, 20, 10, 10), double(10)
        self.b_out = stage(28, 20, 10, 10, 10, last=False)
        self.conv_out = nn.Conv2d(10, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.time_embed(t)

        def at(h: Tensor, time: nn.Module) -> Tensor:
            return h + time(e)[..., None, None]

        first = self.b1(at(x, self.te1))
        second = self.b2(at(self.down1(first), self.te2))
        third = self.b3(at(self.down2(second), self.te3))
        h = self.b_mid(at(self.down3(third), self.te_mid))
        h = self.b4(at(torch.cat([third, self.up1(h)], 1), self.te4))
        h = self.b5(at(torch.cat([second, self.up2(h)], 1), self.te5))
        h = self.b_out(at(torch.cat([first, self.up3(h)], 1), self.te_out))
        return self.conv_out(h)


class NoisyClassifier(nn.Module):
    """The class of a noisy digit: Fourier features of the time, three convolutions with the time added before each group normalisation.

    Input `(B, 1, 28, 28)` of data in [0, 1] and the time `(B,)` of its own path; returns logits `(B, 10)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(Fourier(64), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
        widths = ((1, 32, 1, 4), (32, 64, 2, 8), (64, 128, 2, 8))
        for i, (before, after, stride, groups) in enumerate(widths, 1):
            setattr(self, f"conv{i}", nn.Conv2d(before, after, 3, stride, padding=1))
            setattr(self, f"time{i}", nn.ModuleDict({"dense": nn.Linear(128, after)}))
            setattr(self, f"norm{i}", nn.GroupNorm(groups, after))
        self.head = nn.Sequential(nn.Linear(128, 128), nn.SiLU(), nn.Dropout(0.1), nn.Linear(128, 10))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.embed(t)
        for i in (1, 2, 3):
            x = getattr(self, f"conv{i}")(x) + getattr(self, f"time{i}")["dense"](e)[:, :, None, None]
            x = F.silu(getattr(self, f"norm{i}")(x))
        return self.head(x.mean((2, 3)))


class Fourier(nn.Module):
    """[sin(2 pi t w), cos(2 pi t w)]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("rff_weights", torch.zeros(count))

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t[:, None] * self.rff_weights
        return torch.cat([angle.sin(), angle.cos()], 1)
