"""Operations that keep the magnitude, the root mean square, of their inputs (Karras et al. 2024, arXiv 2312.02696, appendix B)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, silu

from .embedding import TIME_SCALES, TimeAndClass

# The root mean square of SiLU on normal numbers.
SILU_RMS = 0.596
# Below it a vector is taken for 0.
SMALLEST = 1e-12


def normalised(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x / rms(x), with the root mean square over `dim` in float32 or better."""
    dims = (dim,) if isinstance(dim, int) else dim
    precise = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=precise)
    rms = length / math.sqrt(math.prod([x.shape[d] for d in dims]))
    return (x / rms.clamp_min(SMALLEST)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU(x) / 0.596 (eq. 81)."""
    return silu(x) / SILU_RMS


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """((1 - s) a + s b) / sqrt((1 - s)^2 + s^2) (eq. 88)."""
    rms = math.hypot(1 - share, share)
    return torch.add((1 - share) / rms * a, b, alpha=share / rms)


def mp_cat(a: Tensor, b: Tensor) -> Tensor:
    """The channels of both, scaled so that each contributes as much, whatever their numbers n_a and n_b (eq. 103 at t = 1/2).

    sqrt((n_a + n_b) / 2) [a / sqrt(n_a), b / sqrt(n_b)]
    """
    n_a, n_b = a.shape[1], b.shape[1]
    return torch.cat([math.sqrt((n_a + n_b) / (2 * n_a)) * a, math.sqrt((n_a + n_b) / (2 * n_b)) * b], 1)


class Weight(nn.Module):
    """A weight of which only the direction of each row matters: what a unit gives has the magnitude of what it takes (eq. 47, 66)."""

    def __init__(self, outputs: int, inputs: int, *kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))

    def rows(self) -> Tensor:
        """The weight with rows of magnitude 1."""
        return normalised(self.weight, tuple(range(1, self.weight.ndim)))

    def scaled(self) -> Tensor:
        """The weight with rows of length 1."""
        return self.rows() / math.sqrt(math.prod(self.weight.shape[1:]))

    @torch.no_grad()
    def normalise(self) -> None:
        """Set the magnitude of each row to 1, which changes no result."""
        self.weight.copy_(self.rows())


class MPLinear(Weight):
    """A linear map without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.scaled())


class MPConv(Weight):
    """A convolution without bias."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(outputs, inputs, side, side)

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.scaled(), padding=self.weight.shape[-1] // 2)


class MPTable(Weight):
    """A vector of each of `count` things: columns of a matrix with rows of magnitude 1, as a linear map of one-hot vectors gives them."""

    def __init__(self, count: int, outputs: int) -> None:
        super().__init__(outputs, count)

    def forward(self, index: Tensor) -> Tensor:
        return self.rows()[:, index].t()


class MPEmbedding(TimeAndClass):
    """mp_silu(mp_sum(W f(t), v_label)), with the features f_i(t) = sqrt(2) cos(2 pi (a_i t + b_i)) (eq. 75).

    Published a_i and b_i are random, normal and uniform. Here they are quantiles of the normal and steps of the golden ratio, which fill the
    same distributions evenly: no file has to hold them.

    Args:
        width: size of the result.
        features: number of features of time.
        classes: number of classes; None for an unconditional network. A sample without a label has the extra class `classes`.
    """

    def __init__(self, width: int, features: int, classes: int | None) -> None:
        super().__init__(features, classes)
        self.noise = MPLinear(features, width)
        self.label = None if classes is None else MPTable(classes + 1, width)

    def spectrum(self, dtype: torch.dtype) -> Tensor:
        i = torch.arange(self.features, dtype=torch.float64, device="cpu")
        golden = (math.sqrt(5) - 1) / 2
        return torch.stack([torch.special.ndtri((i + 0.5) / self.features), golden * i % 1]).to(dtype)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """`t` `(B,)` and `label` `(B,)` integers or None -> `(B, width)`, or `(1, width)` for an expanded scalar `t` without labels.

        Raises:
            ValueError: as `TimeAndClass.rows`.
        """
        # In units of log(sigma)/4, the time of the paper.
        times = self.units(t) / TIME_SCALES["edm"]
        a, b = self.frequencies
        features = math.sqrt(2) * torch.cos(2 * math.pi * (a * times + b))
        embedded: Tensor = self.noise(features.to(self.noise.weight.dtype))
        rows = self.rows(label, t, times.shape[0])
        return mp_silu(embedded if self.label is None or rows is None else mp_sum(embedded, self.label(rows), 0.5))
