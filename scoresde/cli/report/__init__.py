"""Reports about a trained model: distances, densities, tables and pictures."""

from ...report import frechet_distance
from .compare import CURVE_NFE, CURVE_SOLVERS, Comparison, compare
from .diagnosis import DensityEstimate, Diagnosis, Field, diagnose
from .entries import Entry, parse_entry, used
from .features import Classifier
from .html import html_page
from .page import density_table, diagnosis_markdown, markdown
from .paired import FineSolve, PairedError
from .pictures import error_figure, is_image, picture, save_diagnosis, save_error_plot, save_losses, save_rows, save_samples
from .sections import comparison_sections, lead
from .showcase import bounds, guided, inpainted
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
    "FineSolve",
    "PairedError",
    "bounds",
    "compare",
    "comparison_sections",
    "density_table",
    "diagnose",
    "diagnosis_markdown",
    "error_figure",
    "frechet_distance",
    "guided",
    "html_page",
    "inpainted",
    "is_image",
    "lead",
    "markdown",
    "parse_entry",
    "picture",
    "save_diagnosis",
    "save_error_plot",
    "save_losses",
    "save_rows",
    "save_samples",
    "used",
    "verdicts",
]
