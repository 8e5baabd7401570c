"""diffusers: its networks as score models, and solvers as its schedulers."""

import importlib.util

if importlib.util.find_spec("diffusers") is None:
    raise ImportError("scoresde.interop.diffusers needs the library that it serves: pip install diffusers")

from .latents import Latents, latents
from .networks import from_diffusers
from .pipelines import fitted_scheduler, model_of
from .reading import Reading, read
from .scheduler import Scheduler

__all__ = ["Latents", "Reading", "Scheduler", "fitted_scheduler", "from_diffusers", "latents", "model_of", "read"]
