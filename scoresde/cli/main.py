"""The command line: train, fit a solver, sample, compare, report, check, diagnose, audit, convert."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .commands.audit import audit
from .commands.check import check
from .commands.compare import compare
from .commands.convert import convert
from .commands.diagnose import diagnose
from .commands.fit import fit
from .commands.report import report
from .commands.sample import sample
from .commands.train import train
from .messages import Command, Refused

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (train, fit, sample, compare, report, check, diagnose, audit, convert):
    app.command(cls=Command)(command)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from .. import __version__

        print(f"scoresde {__version__}")
        raise typer.Exit


@app.callback()
def scoresde(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train score models, fit solvers to them, sample with any solver, compare solvers, check, diagnose and convert models, audit samplers."""


def main() -> None:
    """Run the command line. An error that the user can correct is printed in one line, with exit code 2."""
    try:
        app(prog_name="scoresde")
    except Refused as error:
        print(f"scoresde: {error}", file=sys.stderr)
        sys.exit(2)
