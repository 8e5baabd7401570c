"""A solver as a table of coefficients: the table, its builder, its exact analysis, and the one loop that runs it."""

from .builder import GridPoint, TableauBuilder, grid_points
from .executor import Call, Callback, Run, execute, run
from .multistep_form import Multistep, multistep
from .tableau import Row, Tableau

__all__ = [
    "Call",
    "Callback",
    "GridPoint",
    "Multistep",
    "Row",
    "Run",
    "Tableau",
    "TableauBuilder",
    "execute",
    "grid_points",
    "multistep",
    "run",
]
