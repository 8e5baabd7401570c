"""The command line: train, fit a solver, sample, compare, report, check, diagnose, audit."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from ..data import DataError
from .commands.audit import audit
from .commands.check import check
from .commands.compare import compare
from .commands.diagnose import diagnose
from .commands.fit import fit
from .commands.report import report
from .commands.sample import sample
from .commands.train import train

# Characters of an error. Torch adds its own traceback to some.
LONGEST = 600

app = typer.Typer(
    help="Train score models, fit solvers to them, sample with any solver, compare solvers, check and diagnose models, audit samplers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, fit, sample, compare, report, check, diagnose, audit):
    app.command()(command)


def main() -> None:
    """Run the command line. An error that the user can correct is printed in one line, with exit code 2.

    These are the errors that the package raises on purpose, those of files, and those of torch for want of memory. A warning is one line too.
    """
    warnings.showwarning = _show_warning
    try:
        app()
    except (ValueError, DataError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        line = " ".join(str(error).split())
        if isinstance(error, MemoryError) or "allocate" in line:
            line = f"not enough memory, some number is too large: {line}"
        print(f"scoresde: {line[:LONGEST]}", file=sys.stderr)
        sys.exit(2)


def _show_warning(message: Warning | str, *_where: Any, **_more: Any) -> None:
    """Print a warning without the line of code that it comes from."""
    print(f"scoresde: warning: {message}", file=sys.stderr)
