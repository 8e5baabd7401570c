"""diffusers: its networks as score models, and solvers as its schedulers."""

from .latents import Latents, latents
from .networks import from_diffusers
from .reading import Reading, read

__all__ = ["Latents", "Reading", "from_diffusers", "latents", "read"]
