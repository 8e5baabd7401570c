"""Reports about a trained model: distances, densities, tables and pictures."""

from ...report import frechet_distance
from .compare import CURVE_NFE, CURVE_SOLVERS, Comparison, Entry, compare, parse_entry, used
from .diagnosis import DensityEstimate, Diagnosis, Field, diagnose
from .features import Classifier
from .page import density_table, diagnosis_markdown, markdown
from .pictures import error_figure, is_image, picture, save_diagnosis, save_error_plot, save_rows, save_samples
from .verdicts import verdicts

__all__ = [
    "CURVE_NFE",
    "CURVE_SOLVERS",
    "Classifier",
    "Comparison",
    "DensityEstimate",
    "Diagnosis",
    "Entry",
    "Field",
    "compare",
    "density_table",
    "diagnose",
    "diagnosis_markdown",
    "error_figure",
    "frechet_distance",
    "is_image",
    "markdown",
    "parse_entry",
    "picture",
    "save_diagnosis",
    "save_error_plot",
    "save_rows",
    "save_samples",
    "used",
    "verdicts",
]
