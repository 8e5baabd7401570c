"""The file `config.json` in the folder of a run, which holds its experiment."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..numerics.files import json_object, reading
from .identity import difference_of

CONFIG = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """The entries of an experiment; none where the folder holds no run.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    with reading(path):
        return json_object(path.read_text())


def require_same_experiment(folder: Path, config: Mapping[str, object]) -> None:
    """Raise unless the folder holds this experiment, or none.

    Raises:
        ValueError: names what differs.
    """
    stored = read_config(folder)
    # Data that are no longer where they were may have been moved: the checkpoint knows them by their content.
    if isinstance(stored.get("data"), str) and Path(stored["data"]).is_absolute() and not Path(stored["data"]).exists():
        stored["data"] = config.get("data")
    if (folder / CONFIG).exists() and (difference := difference_of(stored, config)):
        raise ValueError(
            f"{folder} holds another experiment ({difference}): choose another folder, or go on with its own options, "
            f"scoresde train --resume {folder}"
        )


def write_config(folder: Path, config: Mapping[str, object]) -> None:
    """Write the experiment, in one step. One that goes on replaces what may change, such as its number of iterations.

    Raises:
        ValueError: another process has written another experiment since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    try:
        with open(folder / CONFIG, "x") as file:
            file.write(text)
    except FileExistsError:
        require_same_experiment(folder, config)
        # A name of its own for every write: two processes may write the same file.
        partial = folder / f"{CONFIG}.{secrets.token_hex(4)}.partial"
        partial.write_text(text)
        os.replace(partial, folder / CONFIG)
