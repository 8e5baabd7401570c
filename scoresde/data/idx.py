"""Folders of IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import torch
from torch import Tensor

from ..numerics.files import reading
from .images import scaled
from .memory import Data
from .source import DataError


def idx_folder(path: Path) -> Data:
    """The training part of a folder of IDX files (MNIST, Fashion-MNIST, KMNIST ...), plain or gzipped.

    Raises:
        DataError: a file is missing or damaged, or has another number of axes; names it.
    """
    images, labels = _idx(path, "train-images", 3), _idx(path, "train-labels", 1)
    if len(images) != len(labels):
        raise DataError(f"{path} holds {len(images)} images but {len(labels)} labels")
    if len(images) < 2 or images.numel() == 0:
        raise DataError(f"{path} holds images of shape {tuple(images.shape)}; need at least two, with pixels")
    return Data(scaled(images[:, None], 256), labels.long(), bins=256)


def _idx(folder: Path, name: str, axes: int) -> Tensor:
    """One IDX file of bytes with that many axes.

    Its header is 0, 0, the type 8, the number of axes and their sizes, big-endian. Then come the bytes.
    """
    plain, zipped = folder / f"{name}-idx{axes}-ubyte", folder / f"{name}-idx{axes}-ubyte.gz"
    file = plain if plain.exists() else zipped
    if not file.exists():
        raise DataError(f"{folder} has no {plain.name} or {zipped.name}")
    with reading(file, DataError):
        raw = file.read_bytes()
        if file is zipped:
            raw = gzip.decompress(raw)
    if raw[:3] != b"\0\0\x08" or len(raw) < 4:
        raise DataError(f"{file} is no IDX file of bytes")
    if raw[3] != axes:
        raise DataError(f"{file} has {raw[3]} axes; need {axes}")
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    count = len(raw) - 4 - 4 * axes
    if count != math.prod(shape):
        fault = "cut short" if count < math.prod(shape) or count < 0 else "too long"
        raise DataError(f"{file} is {fault}: {max(count, 0)} bytes for shape {tuple(shape)}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[4 + 4 * axes :].reshape(shape)
