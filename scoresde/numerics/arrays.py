"""Coefficients in float64, cast when they multiply a state; and sums over the coordinates of an event."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Time = float | Tensor


def as_float64(value: Time) -> Tensor:
    """A float64 tensor on the value's own device (on the CPU where the device has no float64)."""
    if isinstance(value, Tensor):
        return (value.cpu() if value.device.type == "mps" else value).to(torch.float64)
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


def values_are_known(*tensors: Tensor) -> bool:
    """Whether a check may read these values.

    On another device the host would have to wait for them. While torch.compile or torch.export traces there are none, and under the
    transforms of torch.func no branch may depend on them.
    """
    if torch.compiler.is_compiling():
        return False
    return all(t.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without a wait where that is safe: a copy to the CPU must be complete before it is read."""
    return tensor.to(device, non_blocking=device.type != "cpu")


def require_one_each(coefficient: Tensor, z: Tensor) -> None:
    """Raise for what is neither a scalar nor one number for each sample of `z`.

    Raises:
        ValueError: says that a time must be, because coefficients have the shape of their times.
    """
    if coefficient.ndim and coefficient.shape != z.shape[:1]:
        raise ValueError(
            f"a time t must be a scalar or have shape (B,): got {tuple(coefficient.shape)} for a batch of shape {tuple(z.shape)}"
        )


def expand(coefficient: Tensor, z: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A scalar or `(B,)` float64 coefficient, cast last and shaped to multiply `z` of shape `(B, *event)`.

    Raises:
        ValueError: `coefficient` is neither a scalar nor one number for each sample of `z`.
    """
    require_one_each(coefficient, z)
    coefficient = to_device(coefficient.to(dtype=dtype or z.dtype), z.device)
    return coefficient.reshape(coefficient.shape + (1,) * (z.ndim - 1)) if coefficient.ndim else coefficient


def flatten_events(a: Tensor) -> Tensor:
    """`(B, *event)` as `(B, d)`, also where B is 0 or the event is a number."""
    return a.reshape(len(a), math.prod(a.shape[1:]))


def event_sum(a: Tensor) -> Tensor:
    """The sum over the coordinates of each event of `(B, *event)`, `(B,)`. `event_sum(a * b)` is the inner product."""
    return flatten_events(a).sum(1)


def event_mean(a: Tensor) -> Tensor:
    """The mean over the coordinates of each event of `(B, *event)`, `(B,)`."""
    return flatten_events(a).mean(1)
