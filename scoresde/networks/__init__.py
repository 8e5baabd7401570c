"""Small networks that are good enough to start with: `MLP` for vectors, `UNet` for images. Any module works in their place."""

from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "UNet"]
