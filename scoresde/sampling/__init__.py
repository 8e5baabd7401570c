"""Draw samples: arguments become a plan, and a plan runs."""

from .chunk_files import Samples
from .chunks import Drawn, read_samples, sample_to
from .default import default
from .planning import plan
from .plans import AdaptivePlan, GridPlan, Plan, TablePlan
from .registry import SOLVERS, get, names
from .sample import sample
from .unrolled import Unrolled, unroll

__all__ = [
    "SOLVERS",
    "AdaptivePlan",
    "Drawn",
    "GridPlan",
    "Plan",
    "Samples",
    "TablePlan",
    "Unrolled",
    "default",
    "get",
    "names",
    "plan",
    "read_samples",
    "sample",
    "sample_to",
    "unroll",
]
