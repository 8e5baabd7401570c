"""scoresde: score-based generative models, with DDPM as an exactly discretised SDE and the solver as an argument."""

from . import analytic, grids, losses, networks, solvers
from .model import ScoreModel
from .prediction import Model
from .sampling import sample
from .sde import SDE, VPSDE

__version__ = "0.1.0"

__all__ = ["SDE", "VPSDE", "Model", "ScoreModel", "analytic", "grids", "losses", "networks", "sample", "solvers"]
