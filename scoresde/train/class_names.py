"""The names of the classes of a run, in the file `classes.json` of its folder: the data may have moved when samples are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..numerics.files import reading

CLASSES = "classes.json"


def write_class_names(folder: Path, names: Sequence[str]) -> None:
    """Keep the names in the order of the labels; nothing where there are none."""
    if names:
        (folder / CLASSES).write_text(json.dumps(list(names), indent=2) + "\n", encoding="utf-8")


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The names in the order of the labels; none where the run has no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not (folder / CLASSES).exists():
        return ()
    with reading(folder / CLASSES):
        names = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("it is no list of names")
    return tuple(names)
