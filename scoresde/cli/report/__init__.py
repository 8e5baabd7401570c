"""Reports about a trained model: distances, densities, tables and pictures."""

from .compare import Comparison, Entry, compare, parse_entry
from .diagnosis import DensityEstimate, Diagnosis, Field, diagnose
from .features import Classifier, frechet_distance
from .page import density_table, diagnosis_markdown, markdown
from .pictures import is_image, save_diagnosis, save_error_plot, save_rows, save_samples

__all__ = [
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
    "frechet_distance",
    "is_image",
    "markdown",
    "parse_entry",
    "save_diagnosis",
    "save_error_plot",
    "save_rows",
    "save_samples",
]
