"""What torch's error in a network most likely means, where it is an argument of ours that the network could not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def explained(count: int, cond: Mapping[str, object], otherwise: str = "") -> Iterator[None]:
    """Errors of torch inside say which condition or time the network could not use. Errors without such a cause pass as they are.

    Args:
        count: samples of the batch.
        cond: what the network was called with.
        otherwise: the likely cause where neither the conditions nor the time are.

    Raises:
        ValueError: in place of a RuntimeError or an IndexError whose cause is known.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        cause = _cause(str(error), count, cond) or otherwise
        if not cause:
            raise
        raise ValueError(f"{cause}; the network says: {str(error).splitlines()[0]}") from error


def _cause(said: str, count: int, cond: Mapping[str, object]) -> str:
    if "argument #1 'indices'" in said:
        return (
            "the network looks its time up in a table, which needs integers: declare ScoreModel(..., time='integer_index') for 0..T-1, or let "
            "the function of time= return .round().long()"
        )
    if said == "index out of range in self":
        return "the network looks up an index that its table does not have: a chain of another length, an index from 1 on, or another class"
    for name, value in cond.items():
        if isinstance(value, Tensor) and value.ndim and len(value) not in (1, count):
            return f"{name}= has {len(value)} rows for {count} samples: give one row a sample"
    return ""
