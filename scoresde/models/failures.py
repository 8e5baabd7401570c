"""What torch's error in a network most likely means, where it is an argument of ours that the network could not use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from .base import Model
from .score_model import ScoreModel, as_output

# The times of usual conventions, as code, and the samples of a probe.
CODE, PROBED = {"t": "t", "index": "(sde.steps * t - 1)"}, 3


@contextmanager
def explained(model: Model, shape: Sequence[int], cond: Mapping[str, object], otherwise: str = "") -> Iterator[None]:
    """Errors of torch inside say which condition or time the network could not use. Errors without such a cause pass as they are.

    Args:
        model: the network's model. Where nothing else explains an error, the network is tried with other forms of its arguments.
        shape: of the batch, `(B, *event)`.
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
        cause = _cause(str(error), shape[0], cond) or _likely_call(model, shape, cond) or otherwise
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


def _likely_call(model: Model, shape: Sequence[int], cond: Mapping[str, object]) -> str:
    """What else the network takes, where one call of another form works: a time with more axes, or the time before the state."""
    if not isinstance(model, ScoreModel):
        return ""
    n = min(PROBED, shape[0])
    rows = {name: v[:n] if isinstance(v, Tensor) and v.ndim and len(v) == shape[0] else v for name, v in cond.items()}
    z = torch.zeros(n, *shape[1:], device=model.device)
    told, _, dtype = model.prepare([0.5], z)[0]
    z, network, name = z.to(dtype), model.network, CODE.get(model.time_name or "", "time(sde, t)")
    forms: dict[str, Callable[[], object]] = {
        f"the network takes a time of shape (B, 1): declare ScoreModel(..., time=lambda sde, t: {name}[:, None])": (
            lambda: network(z, told[:, None], **rows)
        ),
        f"the network takes a time with as many axes as the state: declare ScoreModel(..., time=lambda sde, t: {name}.reshape(-1, "
        f"{', '.join('1' * (z.ndim - 1))}))": lambda: network(z, told.reshape(-1, *[1] * (z.ndim - 1)), **rows),
        "the network takes the time before the state: wrap it in a module whose forward(z, t) returns network(t, z)": (
            lambda: network(told, z, **rows)
        ),
    }
    if told.ndim == 1:
        for said, call in forms.items():
            with suppress(Exception), torch.no_grad():
                if as_output(call()).shape == z.shape:
                    return said
    return ""
