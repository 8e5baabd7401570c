"""The command line, `scoresde`, and the reports that it writes."""

from .main import app, main

__all__ = ["app", "main"]
