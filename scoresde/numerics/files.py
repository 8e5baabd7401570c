"""Tensors and JSON in one safetensors file, written at once or not at all."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Seconds without a change after which a file that was never finished is left over.
STALE = 3600.0


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, object], key: str) -> None:
    """Write `tensors`, and `about` as JSON under `key` of the file's metadata. A killed process or a full disk leaves the old file.

    Raises:
        TypeError: JSON cannot write `about`.
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for every write: two processes may write the same file.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    # Copies: safetensors refuses tensors that share memory.
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        # safetensors makes files that nobody else can read. This one gets the mode of any other file, which follows the umask.
        partial.touch()
        mode = partial.stat().st_mode
        save_file(copies, partial, {key: json.dumps(about)})
        partial.chmod(mode)
        # Windows flushes only a file that is open for writing.
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _remove_leftovers(path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of the same file. A file that is being written was changed a moment ago."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()


def require_writable(tensors: Mapping[str, Any]) -> None:
    """Raise now what `write_tensors` would raise later of these tensors. Their numbers are not written, so that it costs nothing.

    Raises:
        TypeError: an entry is no tensor, or has a dtype that safetensors lacks; names it.
    """
    from safetensors.torch import save

    for name, value in tensors.items():
        with reading(name, TypeError, f"cannot be kept in a file, as a {type(value).__name__}"):
            save({name: value.detach().flatten()[:0].cpu()})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of tensors, in hexadecimal digits."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_about(path: str | Path, key: str) -> dict[str, Any] | None:
    """The JSON of a file under `key`; None where the file has no `key`.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is no safetensors file, or its JSON is damaged.
    """
    with _open(path) as file:
        return _about(file, key)


def read_tensors(path: str | Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file, on the CPU, and its JSON as in `read_about`.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is no safetensors file, or its JSON is damaged.
    """
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _about(file, key)  # noqa: SIM118


@contextmanager
def reading(path: str | Path, error: type[Exception] = ValueError, said: str = "cannot be read") -> Iterator[None]:
    """Whatever is wrong with a file, or a part of it, becomes one error with its name, also what is found while its contents are used.

    Decoders of a damaged file raise errors of many types, and a list of types would never be complete.

    Args:
        path: the file, or the name of the part.
        error: the type of the error.
        said: of the file, where the error does not name it yet.
    """
    try:
        yield
    except Exception as found:
        reason = (str(found).splitlines() or [""])[0]
        if isinstance(found, error) and str(path) in reason:
            raise
        if not isinstance(found, ValueError | OSError):
            reason = f"{type(found).__name__} {reason}"
        raise error(f"{path} {said}: {reason}") from found


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    from safetensors import safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    with reading(path, said="is no safetensors file"), safe_open(str(path), framework="pt") as file:
        yield file


def _about(file: Any, key: str) -> dict[str, Any] | None:
    text = (file.metadata() or {}).get(key)
    return None if text is None else json_object(text)


def json_object(text: str) -> dict[str, Any]:
    """The entries of a JSON object.

    Raises:
        ValueError: the text is something else.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"no JSON at line {error.lineno}, column {error.colno}" if text.strip() else "no JSON, but empty"
        ) from None
    except RecursionError:
        raise ValueError("no JSON that can be read: it is nested too deep") from None
    if not isinstance(values, dict):
        raise ValueError("no JSON object {...}")
    return values


def stored_tensor(tensors: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
    """A float64 tensor of a file, of a known shape; -1 is any size.

    Raises:
        ValueError: it is missing, has another dtype or shape, or is not finite.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise ValueError(f"the tensor {name} is missing")
    fits = len(tensor.shape) == len(shape) and all(want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True))
    if tensor.dtype != torch.float64 or not fits or not bool(tensor.isfinite().all()):
        raise ValueError(f"the tensor {name} must be float64 of shape {shape} and finite, got {tensor.dtype} {tuple(tensor.shape)}")
    return tensor


def stored_entry(about: Mapping[str, Any], name: str, *types: type) -> Any:
    """An entry of a file's JSON, of one of the types.

    Raises:
        ValueError: it is missing, or has another type.
    """
    if name not in about or type(about[name]) not in types:
        got = type(about[name]).__name__ if name in about else "nothing"
        raise ValueError(f"the entry {name} must be a {types[0].__name__}, got {got}")
    return about[name]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with names below `prefix/`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def subset(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
