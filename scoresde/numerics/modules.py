"""Modules of the user's own code, by the name of a file or by their dotted name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def module_of(source: str) -> ModuleType:
    """The module of FILE.py, or of a dotted name, also one in the working directory.

    The folder of a file can be imported from, as when Python runs the file.

    Raises:
        ImportError, FileNotFoundError: there is none. Whatever the module itself raises passes.
    """
    path = Path(source)
    if path.suffix != ".py":
        sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(source)
        finally:
            sys.path.remove(os.getcwd())
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
