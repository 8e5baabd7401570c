"""Objects in one line: shapes in place of tensors, names in place of functions, and no addresses."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

from torch import Tensor, nn

WIDTH = 160
# Entries of a tuple, list or dictionary that are shown.
SHOWN = 4


def line(name: str, *parts: str) -> str:
    """`name(part, part)`, cut where it is too long."""
    text = " ".join(f"{name}({', '.join(part for part in parts if part)})".split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]}...)"


def shown(value: Any) -> str:
    """A value inside a line."""
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, partial):
        return line(shown(value.func), *(f"{key}={shown(each)}" for key, each in value.keywords.items()))
    if isinstance(value, nn.Module):
        return type(value).__name__ if type(value).__repr__ is nn.Module.__repr__ else repr(value)
    if isinstance(value, tuple | list | dict) and len(value) > SHOWN:
        return f"{len(value)} entries"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {shown(each)}' for key, each in value.items())}}}"
    if type(value) in (tuple, list):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, type):
        return value.__name__
    named = callable(value) and type(value).__repr__ is type(shown).__repr__
    return getattr(value, "__qualname__", repr(value)).rpartition(".")[2] if named else repr(value)


class Brief:
    """A dataclass (made with `repr=False`) whose `repr` is a line of the fields that differ from their defaults."""

    def __repr__(self) -> str:
        values = ((each, getattr(self, each.name)) for each in fields(self) if each.repr)  # type: ignore[arg-type]
        changed = (
            f"{each.name}={shown(value)}" for each, value in values if value is not None and not _is_default(value, each.default)
        )
        return line(type(self).__name__, *changed)


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, bool | int | float | str | tuple) and value == default)
