"""Data held in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..networks.labels import as_labels
from ..numerics.brief import line, shown
from ..numerics.files import digest
from ..numerics.inputs import as_count, as_state, as_tensor
from .order import permutation
from .source import DataError, Source, named


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        x: `(N, *event)` float32.
        labels: `(N,)` integers 0..classes-1, or None.
        classes: number of classes of the whole set; a part of the set may lack some of them.
        bins: number of levels, evenly spaced from -1 to 1, of quantised values: 256 for images of bytes. None for real numbers.

    Raises:
        TypeError: `x` holds integers or complex numbers.
        ValueError: labels of another length or dtype, or outside 0..classes-1.
    """

    x: Tensor
    labels: Tensor | None = None
    classes: int | None = None
    bins: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_state("x", self.x))
        if self.labels is not None:
            labels = as_labels("labels", as_tensor("labels", self.labels), self.classes, len(self.x))
            object.__setattr__(self, "labels", labels)
            if self.classes is None and len(labels):
                object.__setattr__(self, "classes", int(labels.max()) + 1)

    def __getitem__(self, chosen: Any) -> Data:
        return replace(self, x=self.x[chosen], labels=self.labels[chosen] if self.labels is not None else None)

    def split(self, held_out: int, seed: int = 0) -> tuple[Data, Data]:
        """(training, held-out) data after a seeded shuffle.

        Raises:
            DataError: `held_out` is below 1, or leaves nothing to train on.
        """
        if not 0 < as_count("held_out", held_out, -math.inf) < len(self.x):
            raise DataError(f"held_out={held_out}: cannot hold out {held_out} of {len(self.x)} samples")
        order = permutation(len(self.x), seed)[torch.arange(len(self.x), device="cpu")]
        return self[order[held_out:]], self[order[:held_out]]

    def source(self) -> Memory:
        """The data as a `Source`, with the labels as the condition `label`."""
        return Memory(self.x, {} if self.labels is None else {"label": self.labels}, classes=self.classes, bins=self.bins)


class Memory:
    """Tensors as a `Source`.

    Args:
        x: `(N, *event)`, floating point, on any device.
        cond: conditions, each `(N, ...)`.
        classes: number of classes of the condition `label`.
        bins: number of levels of quantised values, as in `Data`.

    Raises:
        TypeError: data of integers or complex numbers, or a condition that is no tensor and cannot become one.
        ValueError: no samples, or a condition of another length.
    """

    def __init__(
        self, x: Tensor, cond: Mapping[str, Tensor] | None = None, *, classes: int | None = None, bins: int | None = None
    ) -> None:
        self.x = as_state("x", x)
        self.cond = columns(cond, len(self.x))
        self.classes, self.bins = classes, bins

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return line("Memory", f"x={shown(self.x)}", *(f"{name}={shown(value)}" for name, value in self.cond.items()))

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return taken(self.x, indices), {name: taken(value, indices) for name, value in self.cond.items()}

    def fingerprint(self) -> str:
        """All of the data: memory is read at gigabytes a second."""
        return f"{len(self)} samples {tuple(self.x.shape[1:])} {digest(named(self.x, self.cond))[:16]}"


class Loaded(Memory):
    """The samples of another source, read into memory. They keep its fingerprint: a run may go on with its data in memory or not."""

    def __init__(self, source: Source) -> None:
        super().__init__(
            *source.batch(torch.arange(len(source), device="cpu")),
            classes=getattr(source, "classes", None),
            bins=getattr(source, "bins", None),
        )
        self._of = source.fingerprint()

    def fingerprint(self) -> str:
        return self._of


def taken(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor on any device."""
    return values[indices.to(values.device)]


def columns(cond: Mapping[str, Any] | None, n: int) -> dict[str, Tensor]:
    """Conditions as tensors with one row for each of n samples.

    Raises:
        TypeError: they are no dict, or one of them cannot become a tensor.
        ValueError: there are no samples, or a condition has another length.
    """
    if cond is not None and not isinstance(cond, Mapping):
        raise TypeError(f"cond must be a dict of tensors, such as {{'label': labels}}, got a {type(cond).__name__}")
    if n == 0:
        raise ValueError("there are no samples")
    made = {name: as_tensor(name, value) for name, value in (cond or {}).items()}
    for name, value in made.items():
        if value.shape[:1] != (n,):
            raise ValueError(f"{name} has {len(value) if value.ndim else 'no'} entries for {n} samples")
    return made
