"""Options of a command from a .toml file, a preset or a run. Those given on the command line win, and a file wins over the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..numerics.files import reading
from ..numerics.inputs import as_one_of
from ..train.experiment import Experiment
from ..train.presets import PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def from_file(context: typer.Context, file: Path | None) -> Path | None:
    """The entries of a file become the defaults of the command's options.

    Raises:
        ValueError: the file is no TOML, or has an entry that is no option; names it.
        FileNotFoundError: there is no file.
    """
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"--config {file}: no such file")
        with reading(file, said="cannot be read as TOML"):
            entries = tomllib.loads(file.read_text())
        known = {parameter.name for parameter in context.command.params} - {"config", "help"}
        values = {}
        for key, value in entries.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ValueError(f"--config {file}: there is no option {key}")
            values[name] = value
        if "preset" in values:
            from_preset(context, values["preset"])
        context.default_map = {**(context.default_map or {}), **_as_text(values)}
    return file


def from_preset(context: typer.Context, name: str | None) -> str | None:
    """The entries of a preset become the defaults of the command's options, where no file has them.

    Raises:
        ValueError: an unknown name.
    """
    if name is not None:
        preset = PRESETS[as_one_of("--preset", name, PRESETS)]
        context.default_map = {**_as_text(preset), **(context.default_map or {})}
    return name


def from_run(context: typer.Context, folder: Path | None) -> Path | None:
    """The experiment of a folder becomes the defaults of the command's argument and options.

    Raises:
        ValueError: the folder holds no training run, or a damaged one.
    """
    if folder is not None:
        experiment = Experiment.read(folder)
        entries = {**vars(experiment), **vars(experiment.recipe), "out": str(folder)}
        known = {parameter.name for parameter in context.command.params}
        said = {name: value for name, value in entries.items() if name in known and value is not None}
        context.default_map = {**_as_text(said), **(context.default_map or {})}
    return folder


def _as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of numbers as the command line has them."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) and name != "log" else value
        for name, value in values.items()
    }
