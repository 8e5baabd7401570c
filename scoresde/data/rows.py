"""Data sets of other libraries whose items have indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .items import Columns, Key
from .source import sampled_fingerprint


class Rows:
    """A map-style data set, of torchvision or Hugging Face's `datasets` for example, as a `Source`.

    `Rows(CIFAR10(folder), image=0, cond={"label": 1})`, `Rows(load_dataset(name, split="train"), image="image", cond={"label": "label"})`.
    An item must be a function of its index: a random transform makes a run depend on its worker processes. `Mirrored` is an augmentation
    without randomness.

    Args:
        dataset: with `dataset[i]` and a length; items are tuples or dicts. `dataset.__getitems__(list)` is called where it exists.
        image, cond, size: as for `items.Columns`.

    Raises:
        TypeError: `dataset` has no length or no items by index.
        DataError: the first item cannot be read.
    """

    def __init__(self, dataset: Any, *, image: Key, cond: Mapping[str, Key] | None = None, size: int | None = None) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise TypeError(f"dataset must have a length and items by index, got a {type(dataset).__name__}: a Stream has neither")
        self.dataset, self.columns = dataset, Columns(image, cond, size)
        self.columns.batch([dataset[0]], ["item 0"])

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = indices.tolist()
        many = getattr(self.dataset, "__getitems__", None)
        items = [self.dataset[i] for i in chosen] if many is None else many(chosen)
        return self.columns.batch(items, [f"item {i}" for i in chosen])

    def fingerprint(self) -> str:
        return sampled_fingerprint(self)
