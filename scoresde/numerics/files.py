"""Tensors and JSON in one safetensors file, written at once or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, object], key: str) -> None:
    """Write `tensors`, and `about` as JSON under `key` of the file's metadata. A killed process leaves the old file.

    Raises:
        TypeError: JSON cannot write `about`.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    # Copies: safetensors refuses tensors that share memory.
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(copies, partial, {key: json.dumps(about)})
    # Windows flushes only a file that is open for writing.
    with open(partial, "r+b") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_tensors(path: str | Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file, on the CPU, and its JSON under `key`; None where the file has no `key`.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get(key, "null"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names below `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def subset(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
