"""Small networks to start with: `MLP` for vectors and `UNet` for images. Any module with the same call works in their place."""

from .channels import SideBySide
from .mlp import MLP
from .unet import UNet

__all__ = ["MLP", "SideBySide", "UNet"]
