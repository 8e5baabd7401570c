"""Arrays in files: read as a whole, or mapped into memory and read row by row."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..numerics.files import reading
from ..numerics.inputs import as_count
from .images import CHANNELS, channels_first, scaled
from .memory import Data, columns, taken
from .source import DataError, sampled_fingerprint

if TYPE_CHECKING:
    import numpy as np


class Mapped:
    """The rows of an array in a file. A copy for another process carries the name of the file, and not the numbers.

    Args:
        array: the path of a `.npy` file, or a `numpy.memmap` of a whole array.

    Raises:
        DataError: the file is no array of numbers.
        TypeError: an array that is held in memory, or a part of a mapped one.
    """

    def __init__(self, array: Any) -> None:
        import numpy as np

        mapped = array
        if isinstance(array, str | Path):
            with reading(array, DataError):
                mapped = np.lib.format.open_memmap(array, mode="r")
        # A view has the file and the offset of the whole, but another array as its base.
        base: object = getattr(mapped, "base", None)
        if not isinstance(mapped, np.memmap) or not isinstance(base, mmap.mmap) or mapped.filename is None:
            raise TypeError("give the path of a .npy file or a whole numpy.memmap; Memory takes arrays in memory, Part some rows")
        self.file = str(mapped.filename)
        self._layout: Any = (mapped.dtype, "r", mapped.offset, mapped.shape, "C" if mapped.flags.c_contiguous else "F")
        self._array: np.memmap[Any, Any] | None = mapped
        self.shape = tuple(mapped.shape)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None}

    def rows(self, indices: Tensor) -> Tensor:
        """A copy of some rows, `(B, ...)`."""
        import numpy as np

        with reading(self.file, DataError):
            if self._array is None:
                self._array = np.memmap(self.file, *self._layout)
            found = np.asarray(self._array[indices.numpy()])
            return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))


class Arrays:
    """Arrays in files as a `Source`. Rows are read when they are needed, so that the files may be larger than memory.

    Args:
        x: the path of a `.npy` file or a `numpy.memmap`: `(N, *event)` of floats, which are taken as they are, or of integers 0..levels-1,
            which become float32 in [-1, 1]. Bytes are images, `(N, height, width)`, `(N, height, width, channels)` or, with 1, 3 or 4 channels,
            `(N, channels, height, width)`.
        cond: conditions, each `(N, ...)`: a path, a `numpy.memmap`, or a tensor, of which every worker gets a copy.
        levels: of integers; 256 for bytes.

    Raises:
        DataError: a file is no array of numbers, or the axes of the images are in doubt.
        TypeError: `x` is held in memory.
        ValueError: `levels` of floats, or a condition of another length.

    Attributes:
        classes: None.
        bins: `levels`, or None for floats.
    """

    classes = None

    def __init__(self, x: Any, cond: Mapping[str, Any] | None = None, levels: int | None = None) -> None:
        self._x = Mapped(x)
        shape = self._x.shape
        if len(shape) < 1 or shape[0] < 2 or math.prod(shape) == 0:
            raise DataError(f"{self._x.file} has shape {shape}; need (N, *event) with N > 1 and values in each event")
        first = self._x.rows(torch.zeros(1, dtype=torch.int64, device="cpu"))
        self.bins = _levels(self._x.file, first.dtype, levels)
        _samples(self._x.file, first, self.bins)
        stored = {name: Mapped(value) for name, value in (cond or {}).items() if _is_stored(value)}
        for name, column in stored.items():
            if column.shape[:1] != shape[:1]:
                raise ValueError(f"{name} has {column.shape[0] if column.shape else 'no'} entries for {len(self)} samples")
        self._stored, self._held = stored, columns({k: v for k, v in (cond or {}).items() if k not in stored}, len(self))

    def __len__(self) -> int:
        return self._x.shape[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        cond = {name: column.rows(indices) for name, column in self._stored.items()}
        held = {name: taken(column, indices) for name, column in self._held.items()}
        return _samples(self._x.file, self._x.rows(indices), self.bins), cond | held

    def fingerprint(self) -> str:
        return f"{sampled_fingerprint(self)} of {self.bins} levels"


def npy(path: Path) -> Data:
    """An array `(N, *event)` of floats, or images as bytes, `(N, height, width)`, `(N, height, width, channels)` or, with 1, 3 or 4 channels,
    `(N, channels, height, width)`, in memory.

    Raises:
        DataError: the file is no array of numbers, or a number is not finite in float32, or the axes of the images are in doubt.
    """
    source = Arrays(path)
    return Data(source.batch(torch.arange(len(source), device="cpu"))[0], bins=source.bins)


def npz(path: Path) -> Data:
    """The array `x` of a `.npz` file, read as `npy` reads one, and its array `label`, `(N,)` integers, if there is one.

    Raises:
        DataError: no array is called `x`, one is called neither `x` nor `label`, or one is not what `npy` and `Data` take.
    """
    import numpy as np

    with reading(path, DataError), Path(path).open("rb") as raw, np.load(raw) as file:
        names = set(file)
        if "x" not in names or names - {"x", "label"}:
            raise DataError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}; need x and, for classes, label")
        x = torch.from_numpy(np.ascontiguousarray(file["x"]))
        label = torch.from_numpy(np.ascontiguousarray(file["label"])) if "label" in names else None
        if x.ndim < 1 or len(x) < 2 or x.numel() == 0:
            raise DataError(f"{path} has x of shape {tuple(x.shape)}; need (N, *event) with N > 1 and values in each event")
        bins = _levels(str(path), x.dtype, None)
        return Data(_samples(str(path), x, bins), label, bins=bins)


def _is_stored(value: Any) -> bool:
    return isinstance(value, str | Path) or type(value).__name__ == "memmap"


def _levels(file: str, dtype: torch.dtype, levels: int | None) -> int | None:
    """The number of levels of values of a dtype; None for floats."""
    if dtype.is_floating_point:
        if levels is not None:
            raise ValueError(f"{file} holds floats, which have no levels")
        return None
    if levels is None and dtype != torch.uint8:
        raise DataError(f"{file} holds {dtype}; need floats, bytes for images, or levels= for other integers")
    return 256 if levels is None else as_count("levels", levels, 2)


def _samples(file: str, values: Tensor, bins: int | None) -> Tensor:
    """Rows of a file as a sample is: floats, or integers of known levels in [-1, 1].

    Raises:
        DataError: floats that are not finite in float32, integers outside the levels, or axes in doubt.
    """
    if bins is None:
        return _floats(file, values)
    # torch finds no extremes of unsigned integers beyond bytes.
    values = channels_first(file, values) if values.dtype == torch.uint8 else values.long()
    low, high = (int(end) for end in values.aminmax())
    if low < 0 or high >= bins:
        raise DataError(f"{file} holds {low if low < 0 else high}, which is none of the levels 0..{bins - 1}")
    return scaled(values, bins)


def _floats(file: str, values: Tensor) -> Tensor:
    """Floats as float32."""
    shape = tuple(values.shape)
    if len(shape) == 4 and shape[1] not in CHANNELS and shape[3] in CHANNELS and shape[3] < min(shape[1:3]):
        raise DataError(f"{file} has floats of shape {shape}; need (N, channels, height, width): numpy.moveaxis(x, -1, 1)")
    if not bool(values.isfinite().all()):
        raise DataError(f"{file} holds values that are not finite")
    x = values.float()
    largest = float(x.abs().max())
    # Below its smallest normal number float32 loses digits, and in the end all of them.
    if largest == math.inf or (largest < torch.finfo(torch.float32).tiny and bool(values.any())):
        raise DataError(f"{file} holds values too {'large' if largest > 1 else 'small'} for float32: scale them")
    return x
