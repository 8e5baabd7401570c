"""Networks: `MLP` for vectors, `UNet`, `ADM` and `EDM2` for images, `DiT` for images, sequences and sets.

Any module with the same call works in their place.
"""

from .adm import ADM
from .channels import SideBySide
from .dit import DiT
from .edm2 import EDM2
from .mlp import MLP
from .unet import UNet

__all__ = ["ADM", "EDM2", "MLP", "DiT", "SideBySide", "UNet"]
