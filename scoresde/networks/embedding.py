"""The embedding of time and class in the networks."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from .labels import NO_LABEL, as_labels

# Factors that scale every time convention to about 1000 units, the range of the frequencies below.
TIME_SCALES = {"index": 1.0, "t": 1000.0, "half_log_snr": 50.0, "edm": 200.0}


def frequencies(width: int, dtype: torch.dtype) -> Tensor:
    """10000^(-i / n) for i = 0..n-1, with n = width/2; on the CPU, as the meta device may be the default while a network is made."""
    steps = torch.arange(width // 2, dtype=dtype, device="cpu")
    return torch.exp(-math.log(10_000) * steps / (width // 2))


class Embedding(nn.Module):
    """Sinusoids of time (Vaswani et al. 2017, section 3.5) and a learned vector of the class, through a two-layer network.

    Args:
        width: size of the result.
        classes: number of classes; None for an unconditional network. A sample without a label has the extra class `classes`.
    """

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"the width of a time embedding must be even, got {width}")
        self.classes = classes
        self.time: str | None = None
        # Not a buffer: a buffer would be rounded with a network in half precision.
        # Float32 at least: half precision may be the default while a network is made.
        self.frequencies = frequencies(width, torch.promote_types(torch.get_default_dtype(), torch.float32))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.label = nn.Embedding(classes + 1, width) if classes is not None else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight[classes:])

    @property
    def null(self) -> int | None:
        """The label that means none, for guidance and for training with labels left out; None for a network without classes."""
        return None if self.label is None else NO_LABEL

    def declare_time(self, name: str) -> None:
        """Declare the time convention of the inputs: "t", "index", "half_log_snr" or "edm".

        Raises:
            ValueError: another convention is declared already.
        """
        if self.time not in (None, name):
            raise ValueError(f"this network was made to see time={self.time!r} and cannot see {name!r} too")
        self.time = name

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """`t` `(B,)` and `label` `(B,)` integers or None -> `(B, width)`, or `(1, width)` for an expanded scalar `t` without labels.

        Raises:
            ValueError: a label for a network without classes, or labels that are no integers 0..classes-1, or -1 for none.
        """
        if self.frequencies.device != t.device:
            self.frequencies = self.frequencies.to(t.device)
        # Not `len(t)`: torch.export would take the batch of its example for the only one.
        batch = t.shape[0]
        if t.stride(0) == 0 and not t.requires_grad:
            # A sampler expands one time to (B,) with stride 0. The embedding of that time is computed once.
            t = t[:1]
        phase = TIME_SCALES[self.time or "index"] * t[:, None] * self.frequencies
        features = torch.cat([phase.sin(), phase.cos()], 1)
        embedded: Tensor = self.layers(features.to(cast(nn.Linear, self.layers[0]).weight.dtype))
        if self.label is None:
            if label is not None:
                raise ValueError("a label was given to a network without classes: build it with classes=")
            return embedded
        if label is None:
            return embedded + self.label(torch.full((t.shape[0],), self.label.num_embeddings - 1, device=t.device))
        labels = as_labels("label", label, self.classes, batch, least=NO_LABEL).to(t.device)
        return embedded + self.label(torch.where(labels < 0, self.label.num_embeddings - 1, labels))
