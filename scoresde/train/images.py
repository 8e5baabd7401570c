"""The pixels of one image file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# The number of levels of a pixel, by the dtype of `pixels`.
LEVELS = {torch.uint8: 256, torch.int32: 65536}


def pixels(file: Path) -> Tensor:
    """The pixels of an image, `(height, width, channels)`, with one channel for grey and three for colour.

    They are uint8, or int32 for a file of 16 bits a channel.

    Raises:
        Exception: of many types, by Pillow's decoders.
        ValueError: a depth that is neither.
    """
    from PIL import Image

    with Image.open(file) as image:
        deep = image.mode.startswith("I") or (image.format == "PNG" and ";16" in str(image.tile[0][3]))
        if not deep:
            return _bytes(image)
    return _sixteen_bits(file)


def _bytes(image: Any) -> Tensor:
    """The pixels of a file of at most 8 bits a channel."""
    import numpy as np
    from PIL import Image, ImageOps

    if image.mode == "F":
        raise ValueError("it holds floats; save them as a .npy array")
    image = ImageOps.exif_transpose(image)
    colours = "L" if image.mode in ("1", "L") else "RGB"
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return torch.from_numpy(np.array(image.convert(colours))).reshape(image.height, image.width, -1)


def _sixteen_bits(file: Path) -> Tensor:
    """The pixels of a file of 16 bits a channel.

    Of colours Pillow gives the upper byte. A second reading in the other byte order gives the lower.
    """
    import numpy as np
    from PIL import Image, ImageOps

    def read(packing: str | None = None) -> Any:
        with Image.open(file) as image:
            if "transparency" in image.info:
                raise ValueError("it has 16 bits and a transparent colour; save it without, or as a .npy array")
            if packing is not None:
                image.tile = [(*tile[:3], packing) for tile in image.tile]  # type: ignore[misc]
            return np.array(ImageOps.exif_transpose(image), dtype=np.int32)

    with Image.open(file) as image:
        mode, packing = image.mode, str(image.tile[0][3])
    if mode.startswith("I"):
        values = read()[:, :, None]
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it has more than 16 bits a channel; save it as a .npy array")
        return torch.from_numpy(values)
    if packing == "LA;16B":
        # Grey and opacity of 16 bits are four bytes a pixel, as are the colours and opacity of 8.
        a, b, c, d = np.moveaxis(read("RGBA"), -1, 0)
        values = np.stack([256 * a + b] * 3 + [256 * c + d], -1)
    else:
        values = 256 * read(f"{mode};16B") + read(f"{mode};16L")
    if values.shape[2] == 4:
        opacity = values[..., 3:] / 65535
        values = np.rint(opacity * values[..., :3] + (1 - opacity) * 65535).astype(np.int32)
    return torch.from_numpy(values)
