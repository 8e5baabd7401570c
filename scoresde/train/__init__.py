"""Training: recipes, the trainer on one process or on many, runs as folders, averages of any length."""

from .. import deprecation
from .average import PowerAverages
from .checkpoint import load_averaged
from .experiment import Experiment
from .posthoc import load_average
from .recipe import Recipe
from .trainer import Trainer
from .world import local_device

__getattr__ = deprecation.moved_names(__name__)

__all__ = ["Experiment", "PowerAverages", "Recipe", "Trainer", "load_average", "load_averaged", "local_device"]
