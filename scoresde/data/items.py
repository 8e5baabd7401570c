"""Items of other libraries, tuples or dicts, as samples with conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..numerics.files import reading
from ..numerics.inputs import as_count, as_tensor
from .images import LEVELS, channels_first, image_pixels, scaled
from .source import DataError

Key = str | int
Row = tuple[Tensor, dict[str, Tensor]]


class Columns:
    """Which entries of an item are the sample and its conditions.

    Args:
        image: the entry of the sample, a key of a dict or a number of a tuple. A PIL image, or an array or tensor of bytes, `(height, width)`,
            `(height, width, channels)` or `(channels, height, width)`, becomes float32 `(channels, height, width)` in [-1, 1]. Floats of any
            shape are taken as they are.
        cond: the entry of each condition, a number, an array or a tensor.
        size: of square images: a PIL image is resized to it as in `ImageFolder`.
    """

    def __init__(self, image: Key, cond: Mapping[str, Key] | None, size: int | None) -> None:
        self.image, self.cond = image, dict(cond or {})
        self.size = None if size is None else as_count("size", size)
        self._first: tuple[str, Row] | None = None

    def batch(self, items: Sequence[Any], names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `(B, *event)` and their conditions, each `(B, ...)`.

        Args:
            items: B tuples or dicts.
            names: of the items, for messages.

        Raises:
            DataError: an item lacks an entry, has one that is no number, or differs from the first in shape or dtype; names the item.
        """
        read = [self._row(item, name) for item, name in zip(items, names, strict=True)]
        self._first = self._first or (names[0], read[0])
        for name, row in zip(names, read, strict=True):
            _require_alike(name, row, *self._first)
        cond = {key: torch.stack([conditions[key] for _, conditions in read]) for key in self.cond}
        return torch.stack([x for x, _ in read]), cond

    def _row(self, item: Any, name: str) -> Row:
        with reading(name, DataError):
            x = _event(_entry(item, self.image), self.size)
            return x, {key: as_tensor(key, _entry(item, entry), "cpu") for key, entry in self.cond.items()}


def _entry(item: Any, key: Key) -> Any:
    try:
        return item[key]
    except (KeyError, IndexError, TypeError):
        has = ", ".join(map(str, item)) if isinstance(item, Mapping) else f"a {type(item).__name__}"
        raise DataError(f"it has no entry {key!r}, but {has}") from None


def _event(value: Any, size: int | None) -> Tensor:
    """One sample, floating point."""
    if hasattr(value, "getexif"):
        pixels = image_pixels(value, size)
        return scaled(pixels.movedim(-1, 0), LEVELS[pixels.dtype])
    x = as_tensor("the sample", value, "cpu")
    if x.dtype == torch.uint8:
        return scaled(channels_first("it", x[None])[0], 256)
    if not x.is_floating_point():
        raise DataError(f"the sample holds {x.dtype}; need an image, bytes or floats")
    return x


def _require_alike(name: str, row: Row, first_name: str, first: Row) -> None:
    """Raise unless a row has the shapes and dtypes of the first.

    Raises:
        DataError: names the row and what differs.
    """
    here, there = ({"sample": x, **cond} for x, cond in (row, first))
    for what, value in here.items():
        if (value.shape, value.dtype) != (there[what].shape, there[what].dtype):
            mine, other = (f"{tuple(one.shape)} {one.dtype}" for one in (value, there[what]))
            raise DataError(f"{name} has a {what} of {mine}, {first_name} of {other}: rows must agree")
