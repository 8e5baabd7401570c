"""Folders of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..numerics.files import reading
from ..numerics.inputs import as_count, as_one_of
from .images import LEVELS, MODES, centre, in_mode, pixels, scaled
from .memory import Data, columns, taken
from .source import DataError, hashed, spread

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


class ImageFolder:
    """All images below a folder, decoded when they are needed. Each sub-folder is a class; without sub-folders there are no labels.

    Files and folders whose names begin with a dot are left out. Transparent pixels are laid on white. The orientation that a camera noted is
    applied. Files of 16 bits a channel keep them, as v/65535. Of an animation the first picture is taken.

    Args:
        path: of the folder. Its files are listed once.
        size: of square images: the shorter side is resized to it, antialiased, and the centre is cropped. None: all have one size already.
        cond: more conditions than `label`, each `(N, ...)`, in the order of `files`.
        crop: side of the square that is cut out of the middle, after `size`. None: all pixels.
        mode: "grey" or "rgb": all images become grey or coloured. None: all are one of the two already.

    Raises:
        DataError: fewer than two images, or the first cannot be read; names the file.
        ValueError: a condition of another length, or one called label where the sub-folders are classes.

    Attributes:
        files: the files, sorted.
        shape: of a sample, `(channels, height, width)`.
        classes: number of sub-folders with images; None without labels.
        class_names: the paths of these sub-folders below the folder, in the order of the labels; none without labels.
        bins: levels of a pixel, 256 or 65536.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        cond: Mapping[str, Tensor] | None = None,
        *,
        crop: int | None = None,
        mode: str | None = None,
    ) -> None:
        self.path, self.size = Path(path), None if size is None else as_count("size", size)
        self.crop = None if crop is None else as_count("crop", crop)
        self.mode = None if mode is None else as_one_of("mode", mode, MODES)
        files = _listed(self.path)
        if len(files) < 2:
            raise DataError(f"{path} holds neither IDX files nor at least two images")
        # Text takes a fraction of the memory of a Path.
        self.files = [str(file) for file in files]
        self.cond = columns(cond, len(files))
        number = {folder: i for i, folder in enumerate(sorted({file.parent for file in files}))}
        self.classes: int | None = None
        self.class_names: tuple[str, ...] = ()
        if len(number) > 1:
            self.class_names = tuple(folder.relative_to(self.path).as_posix() for folder in number)
            if "label" in self.cond:
                raise ValueError(f"the sub-folders of {path} are classes already: give cond another name than label")
            self.cond["label"] = torch.tensor([number[file.parent] for file in files], device="cpu")
            self.classes = len(number)
        first = self._pixels(self.files[0])
        self.shape, self.bins = (first.shape[2], *first.shape[:2]), LEVELS[first.dtype]

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        images = torch.stack([self._like_the_first(self.files[i]) for i in indices.tolist()])
        return scaled(images.movedim(-1, 1), self.bins), {name: taken(value, indices) for name, value in self.cond.items()}

    def fingerprint(self) -> str:
        """The names of all files and the bytes of some: decoders of other versions round otherwise."""
        names = "\n".join(Path(file).relative_to(self.path).as_posix() for file in self.files)
        some = [Path(self.files[i]).read_bytes() for i in spread(len(self)).tolist()]
        others = [value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for value in self.cond.values()]
        cut = [] if self.crop is None else [f"crop {self.crop}"]
        return f"{len(self)} samples {self.shape} {hashed(names, *self.cond, *some, *others, *cut)}"

    def _pixels(self, file: str) -> Tensor:
        with reading(file, DataError):
            values = pixels(Path(file), self.size)
            values = values if self.mode is None else in_mode(values, self.mode)
            return values if self.crop is None else centre(values, self.crop)

    def _like_the_first(self, file: str) -> Tensor:
        image = self._pixels(file)
        channels, height, width = self.shape
        for what, new, first, remedy in (
            ("channels", image.shape[2], channels, "; mode='grey' or mode='rgb' converts them"),
            ("height and width", tuple(image.shape[:2]), (height, width), "; size=N or crop=N makes them squares of one size"),
            ("levels", LEVELS[image.dtype], self.bins, ""),
        ):
            if new != first:
                raise DataError(f"{file} has {what} {new}, {self.files[0]} {first}: images must agree{remedy}")
        return image


def _listed(path: Path) -> list[Path]:
    """The images below a folder, sorted."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install 'scoresde[train]'") from error
    # A folder may be called x.png, and a Mac leaves ._x.png beside x.png.
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGES
        and not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def image_folder(path: Path, size: int | None = None, *, crop: int | None = None, mode: str | None = None) -> Data:
    """All images of an `ImageFolder` in memory.

    Raises:
        DataError: a file cannot be read, or differs from the others in size, channels or depth; names the file.
    """
    folder = ImageFolder(path, size, crop=crop, mode=mode)
    x, cond = folder.batch(torch.arange(len(folder), device="cpu"))
    return Data(x, cond.get("label"), bins=folder.bins)
