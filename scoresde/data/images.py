"""The pixels of one image, and what becomes of them: the shape, the scale and the order of the axes that networks take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .source import DataError

# The number of levels of a pixel, by the dtype of `pixels`.
LEVELS = {torch.uint8: 256, torch.int32: 65536}

# Channels of an image by the name of its mode.
MODES = {"grey": 1, "rgb": 3}

# Grey, colour, colour with opacity: the numbers of channels that tell an axis of channels from one of pixels.
CHANNELS = (1, 3, 4)


def scaled(values: Tensor, levels: int) -> Tensor:
    """Integers 0..levels-1 as float32 in [-1, 1]."""
    return values.float() / ((levels - 1) / 2) - 1


def channels_first(name: str, images: Tensor) -> Tensor:
    """Bytes `(N, height, width)`, `(N, height, width, channels)` or, with 1, 3 or 4 channels, `(N, channels, height, width)` as the last.

    Raises:
        DataError: the axes are in doubt; names the data.
    """
    shape = tuple(images.shape)
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4:
        if shape[3] not in CHANNELS and shape[1] in CHANNELS:
            return images
        if shape[3] in CHANNELS or shape[3] <= min(shape[1:3]):
            return images.movedim(-1, 1)
    raise DataError(
        f"{name} has bytes of shape {shape}; need (N, height, width) or (N, height, width, channels), fewer channels than pixels a side"
    )


def in_mode(values: Tensor, mode: str) -> Tensor:
    """Pixels `(height, width, 1 or 3)` of integers as grey ones, by the luma of ITU-R 601, or as three equal colours."""
    if values.shape[2] == MODES[mode]:
        return values
    if mode == "rgb":
        return values.expand(-1, -1, 3)
    # Integers with 16 binary digits after the point, as in Pillow: the same grey everywhere.
    weights = torch.tensor([19595, 38470, 7471], device=values.device)
    return (((values.long() * weights).sum(2, keepdim=True) + 2**15) // 2**16).to(values.dtype)


def centre(values: Tensor, crop: int) -> Tensor:
    """The square of `crop` pixels in the middle of pixels `(height, width, channels)`.

    Raises:
        ValueError: a side is shorter.
    """
    height, width = values.shape[:2]
    if min(height, width) < crop:
        raise ValueError(f"it has {height} x {width} pixels, and crop={crop} needs more: size={crop} would enlarge it")
    top, left = (height - crop) // 2, (width - crop) // 2
    return values[top : top + crop, left : left + crop]


def pixels(file: Path, size: int | None = None) -> Tensor:
    """The pixels of an image file, `(height, width, channels)`, with one channel for grey and three for colour.

    They are uint8, or int32 for a file of 16 bits a channel.

    Args:
        file: of any format that Pillow reads.
        size: of the square that remains: the shorter side is resized to it, antialiased, and the centre is cropped. None: all pixels.

    Raises:
        Exception: of many types, by Pillow's decoders.
        ValueError: a depth that is neither.
    """
    from PIL import Image

    with Image.open(file) as image:
        deep = image.mode.startswith("I") or (image.format == "PNG" and ";16" in str(image.tile[0][3]))
        if not deep:
            return _bytes(image, size)
    return _square(_sixteen_bits(file), size)


def image_pixels(image: Any, size: int | None = None) -> Tensor:
    """The pixels of an image in memory, a `PIL.Image.Image`, as `pixels` has them.

    Raises:
        ValueError: it holds floats, or more than 16 bits a channel.
    """
    return _square(_grey_sixteen_bits(image), size) if image.mode.startswith("I") else _bytes(image, size)


def _bytes(image: Any, size: int | None) -> Tensor:
    """The pixels of an image of at most 8 bits a channel."""
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
    image = image.convert(colours)
    if size is not None:
        image = ImageOps.fit(image, (size, size))
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)


def _square(values: Tensor, size: int | None) -> Tensor:
    """Pixels of 16 bits resized as in `pixels`. Pillow resizes them as floats, channel by channel."""
    import numpy as np
    from PIL import Image, ImageOps

    if size is None:
        return values
    channels = [np.array(ImageOps.fit(Image.fromarray(channel), (size, size))) for channel in values.float().movedim(-1, 0).numpy()]
    # The cubic filter overshoots at edges.
    return torch.from_numpy(np.stack(channels, -1)).round().clamp(0, 65535).int()


def _grey_sixteen_bits(image: Any) -> Tensor:
    """The pixels of a grey image of 16 bits."""
    import numpy as np
    from PIL import ImageOps

    if "transparency" in image.info:
        raise ValueError("it has 16 bits and a transparent colour; save it without, or as a .npy array")
    values = np.array(ImageOps.exif_transpose(image), dtype=np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("it has more than 16 bits a channel; save it as a .npy array")
    return torch.from_numpy(values)[:, :, None]


def _sixteen_bits(file: Path) -> Tensor:
    """The pixels of a file of 16 bits a channel.

    Of colours Pillow gives the upper byte. A second reading in the other byte order gives the lower.
    """
    import numpy as np
    from PIL import Image, ImageOps

    def read(packing: str) -> Any:
        with Image.open(file) as image:
            if "transparency" in image.info:
                raise ValueError("it has 16 bits and a transparent colour; save it without, or as a .npy array")
            image.tile = [(*tile[:3], packing) for tile in image.tile]  # type: ignore[misc]
            return np.array(ImageOps.exif_transpose(image), dtype=np.int32)

    with Image.open(file) as image:
        mode, packing = image.mode, str(image.tile[0][3])
        if mode.startswith("I"):
            return _grey_sixteen_bits(image)
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
