"""The embedding of time and class in the networks."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from .labels import NO_LABEL, as_labels

# Factors that scale every time convention to about 1000 units, the range of the frequencies below.
TIME_SCALES = {"index": 1.0, "t": 1000.0, "half_log_snr": 50.0, "edm": 200.0}


def frequencies(width: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """10000^(-i / n) for i = 0..n-1, with n = width/2; on the CPU, as the meta device may be the default while a network is made."""
    steps = torch.arange(width // 2, dtype=dtype, device=device)
    return torch.exp(-math.log(10_000) * steps / (width // 2))


class TimeAndClass(nn.Module):
    """What all embeddings share: the time convention, the frequencies, and the classes with one more that means none.

    Args:
        features: number of sinusoids.
        classes: number of classes; None for an unconditional network.
    """

    def __init__(self, features: int, classes: int | None) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"the width of a time embedding must be even, got {features}")
        self.features, self.classes = features, classes
        self.time: str | None = None
        # Not a buffer: a buffer would be rounded with a network in half precision.
        # Float32 at least: half precision may be the default while a network is made.
        self.frequencies = self.spectrum(torch.promote_types(torch.get_default_dtype(), torch.float32))

    def spectrum(self, dtype: torch.dtype) -> Tensor:
        """The frequencies in a precision, on the CPU."""
        return frequencies(self.features, dtype)

    @property
    def null(self) -> int | None:
        """The label that means none, for guidance and for training with labels left out; None for a network without classes."""
        return None if self.classes is None else NO_LABEL

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs: "t", "index", "half_log_snr" or "edm".

        Raises:
            ValueError: another convention is declared already.
        """
        if self.time not in (None, name):
            raise ValueError(f"this network was made to see time={self.time!r} and cannot see {name!r} too")
        self.time = name

    def units(self, t: Tensor) -> Tensor:
        """`t` `(B,)` -> `(B, 1)` in about 1000 units, or `(1, 1)` for an expanded scalar; the frequencies follow it to its device."""
        if self.frequencies.device != t.device:
            self.frequencies = self.frequencies.to(t.device)
        if t.stride(0) == 0 and not t.requires_grad:
            # A sampler expands one time to (B,) with stride 0. The embedding of that time is computed once.
            t = t[:1]
        return TIME_SCALES[self.time or "index"] * t[:, None]

    def rows(self, label: Tensor | None, t: Tensor, times: int) -> Tensor | None:
        """The row of each sample in a table of `classes + 1` rows, `(B,)`; `(times,)` without labels, None without classes.

        Raises:
            ValueError: a label for a network without classes, or labels that are no integers 0..classes-1, or -1 for none.
        """
        if self.classes is None:
            if label is not None:
                raise ValueError("a label was given to a network without classes: build it with classes=")
            return None
        if label is None:
            return torch.full((times,), self.classes, device=t.device)
        # Not `len(t)`: torch.export would take the batch of its example for the only one.
        labels = as_labels("label", label, self.classes, t.shape[0], least=NO_LABEL).to(t.device)
        return torch.where(labels < 0, self.classes, labels)


class Embedding(TimeAndClass):
    """Sinusoids of time (Vaswani et al. 2017, section 3.5) through a two-layer network, plus a learned vector of the class.

    Args:
        width: size of the result.
        classes: number of classes; None for an unconditional network. A sample without a label has the extra class `classes`.
        features: number of sinusoids; `width` by default.
    """

    def __init__(self, width: int, classes: int | None = None, features: int | None = None) -> None:
        super().__init__(width if features is None else features, classes)
        self.layers = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.label = nn.Embedding(classes + 1, width) if classes is not None else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight[classes:])

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """`t` `(B,)` and `label` `(B,)` integers or None -> `(B, width)`, or `(1, width)` for an expanded scalar `t` without labels.

        Raises:
            ValueError: a label for a network without classes, or labels that are no integers 0..classes-1, or -1 for none.
        """
        phase = self.units(t) * self.frequencies
        features = torch.cat([phase.sin(), phase.cos()], 1)
        embedded: Tensor = self.layers(features.to(cast(nn.Linear, self.layers[0]).weight.dtype))
        rows = self.rows(label, t, phase.shape[0])
        return embedded if self.label is None or rows is None else embedded + self.label(rows)


class JointEmbedding(Embedding):
    """As `Embedding`, with the class inside the last SiLU, as Dhariwal and Nichol 2021 and Peebles and Xie 2023 have it.

    Args:
        width: size of the result.
        features: number of sinusoids.
        classes: number of classes; None for an unconditional network. A sample without a label has the extra class `classes`.
    """

    def __init__(self, width: int, features: int, classes: int | None = None) -> None:
        super().__init__(width, classes, features)
        del self.layers[3]

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        return nn.functional.silu(super().forward(t, label))
