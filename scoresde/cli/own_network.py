"""A network of the user's own, in a file of Python."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torch import nn


def own_network(text: str) -> nn.Module:
    """The module that FILE.py:NAME or PACKAGE.MODULE:NAME names: itself, or what the class or function of that name returns.

    The folder of the file can be imported from, as when Python runs the file.

    Raises:
        ValueError: there is no such file or name, its code fails, or it makes no module; names it.
    """
    source, _, name = text.rpartition(":")
    if not source or not name:
        raise ValueError(f"--network {text}: must be FILE.py:NAME, such as nets.py:make_network")
    try:
        found = getattr(_imported(source), name)
        made = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"--network {text}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"--network {text}: must be a torch.nn.Module or a ScoreModel, or a class or function that makes one without arguments"
        )
    return made


def _imported(source: str) -> Any:
    """The module of a file, or of that dotted name."""
    path = Path(source)
    if path.suffix != ".py":
        return importlib.import_module(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
