"""Draw samples: arguments become a plan, and a plan runs."""

from .default import default
from .planning import AdaptivePlan, GridPlan, Plan, TablePlan, plan
from .registry import SOLVERS, get, names
from .sample import sample
from .unrolled import Unrolled, unroll

__all__ = [
    "SOLVERS",
    "AdaptivePlan",
    "GridPlan",
    "Plan",
    "TablePlan",
    "Unrolled",
    "default",
    "get",
    "names",
    "plan",
    "sample",
    "unroll",
]
