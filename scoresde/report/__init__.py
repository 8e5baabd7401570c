"""What a person looks at: distances, tables and pictures."""

from .compare import Comparison, Entry, compare, parse_entry
from .features import Classifier, frechet_distance
from .page import markdown
from .pictures import is_image, save_error_plot, save_rows, save_samples

__all__ = [
    "Classifier",
    "Comparison",
    "Entry",
    "compare",
    "frechet_distance",
    "is_image",
    "markdown",
    "parse_entry",
    "save_error_plot",
    "save_rows",
    "save_samples",
]
