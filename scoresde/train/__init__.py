"""Training: recipes, the trainer, runs as folders, and the small data sets of the examples."""

from .checkpoint import load_averaged
from .experiment import Experiment
from .recipe import Recipe
from .trainer import Trainer

__all__ = ["Experiment", "Recipe", "Trainer", "load_averaged"]
