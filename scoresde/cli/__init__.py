"""The command line, `scoresde`, and the reports that it writes."""

from .. import deprecation
from .main import app, main

__getattr__ = deprecation.moved_names(__name__)

__all__ = ["app", "main"]
