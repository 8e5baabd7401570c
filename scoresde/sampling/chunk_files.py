"""A chunk of samples on disk: x `(B, *event)` and the seed of each, in a place named by the first seed.

    safetensors    000000.safetensors    x and seeds, exact
    npz            000000.npz            x and seeds, exact, for numpy
    png            000000/000000.png     a folder with one image of 8 bits a sample, named by its seed

The first two have `label` `(B,)` too, where samples were drawn with classes. It is for those who use the files: nothing here reads it.

What is being written ends in `.partial` and is renamed once it is complete, so that a killed process leaves no chunk that is cut off.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..numerics.brief import line, shown
from ..numerics.files import reading

PARTIAL = ".partial"


class Samples(NamedTuple):
    """Samples and what they were drawn from.

    Attributes:
        x: the samples, `(B, *event)`.
        seeds: of each, `(B,)` int64.
    """

    x: Tensor
    seeds: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))


class Format(ABC):
    """How a chunk is kept.

    Attributes:
        suffix: of the chunk's place in the folder.
    """

    suffix: str

    def require(self, event: Sequence[int]) -> None:  # noqa: B027
        """Raise for events that the format cannot hold.

        Raises:
            ValueError: says which it can.
        """

    @abstractmethod
    def put(self, path: Path, samples: Samples, label: Tensor | None) -> None:
        """Write the chunk, and the class of each sample where the format has room for it."""

    @abstractmethod
    def get(self, path: Path) -> Samples:
        """Read the chunk."""

    @abstractmethod
    def count(self, path: Path) -> int:
        """The number of samples of a chunk, without a look at them."""

    def place(self, folder: Path, first: int) -> Path:
        """Where the chunk with this first seed is."""
        return folder / f"{first:06d}{self.suffix}"

    def held(self, folder: Path, first: int) -> int:
        """How many samples the folder holds from this seed on; 0 where the chunk is missing.

        Raises:
            ValueError: the chunk cannot be read; names it.
        """
        path = self.place(folder, first)
        if not path.exists():
            return 0
        with reading(path):
            return self.count(path)

    def write(self, folder: Path, samples: Samples, label: Tensor | None = None) -> None:
        """Write a chunk at once or not at all, in the place of a shorter one that begins with the same seed."""
        path = self.place(folder, int(samples.seeds[0]))
        partial = path.with_name(path.name + PARTIAL)
        remove(partial)
        self.put(partial, Samples(samples.x.detach().cpu().contiguous(), samples.seeds), label)
        if path.is_dir():
            remove(path)
        os.replace(partial, path)

    def read(self, folder: Path, first: int) -> Samples:
        """The chunk with this first seed.

        Raises:
            ValueError: it cannot be read; names it.
        """
        path = self.place(folder, first)
        with reading(path):
            return self.get(path)


class Safetensors(Format):
    """x, seeds and labels as they are."""

    suffix = ".safetensors"

    def put(self, path: Path, samples: Samples, label: Tensor | None) -> None:
        from safetensors.torch import save_file

        save_file(samples._asdict() | ({} if label is None else {"label": label}), path)

    def get(self, path: Path) -> Samples:
        from safetensors.torch import load_file

        tensors = load_file(path)
        return Samples(tensors["x"], tensors["seeds"])

    def count(self, path: Path) -> int:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            return int(file.get_slice("seeds").get_shape()[0])


class Npz(Format):
    """x, seeds and labels as arrays."""

    suffix = ".npz"

    def put(self, path: Path, samples: Samples, label: Tensor | None) -> None:
        import numpy as np

        # An open file: numpy would add its own suffix to the name.
        with open(path, "wb") as file:
            labels: dict[str, Any] = {} if label is None else {"label": label.numpy()}
            np.savez(file, x=samples.x.numpy(), seeds=samples.seeds.numpy(), **labels)

    def get(self, path: Path) -> Samples:
        import numpy as np

        with np.load(path) as arrays:
            return Samples(torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["seeds"]))

    def count(self, path: Path) -> int:
        import numpy as np

        with np.load(path) as arrays:
            return len(arrays["seeds"])


class Png(Format):
    """Grey or colour images in [-1, 1], rounded to 8 bits."""

    suffix = ""

    def require(self, event: Sequence[int]) -> None:
        if len(event) != 3 or event[0] not in (1, 3):
            raise ValueError(
                f'format="png" holds images of events (1, height, width) or (3, height, width), not {tuple(event)}: take "safetensors"'
            )

    def put(self, path: Path, samples: Samples, label: Tensor | None) -> None:
        from PIL import Image

        path.mkdir()
        for x, seed in zip(to_bytes(samples.x), samples.seeds.tolist(), strict=True):
            Image.fromarray(x.movedim(0, -1).squeeze(-1).numpy()).save(path / f"{seed:06d}.png", format="png")

    def get(self, path: Path) -> Samples:
        import numpy as np
        from PIL import Image

        files = sorted(path.glob("*.png"), key=lambda file: int(file.stem))
        pixels = [torch.from_numpy(np.array(Image.open(file))) for file in files]
        images = torch.stack([x[None] if x.ndim == 2 else x.movedim(-1, 0) for x in pixels])
        return Samples(from_bytes(images), torch.tensor([int(file.stem) for file in files]))

    def count(self, path: Path) -> int:
        return len(list(path.glob("*.png")))


FORMATS: dict[str, Format] = {"safetensors": Safetensors(), "npz": Npz(), "png": Png()}


def to_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, round(127.5 (x + 1)) within 0..255."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(images: Tensor) -> Tensor:
    """uint8 images in [-1, 1], float32; `to_bytes` gives them back."""
    return images.float() / 127.5 - 1


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
