"""What comes in from a user is looked at here: converted where that loses nothing, refused by its argument's name elsewhere."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def as_numbers(name: str, values: Any) -> Tensor:
    """Numbers in float64: a tensor, an array, a number or a sequence of numbers. Python floats are not rounded on the way.

    Raises:
        TypeError: they are no real numbers.
    """
    try:
        out = values if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers, got {_shown(values)}: {error}") from None
    if out.is_complex() or out.dtype == torch.bool:
        raise TypeError(f"{name} must be real numbers, got {out.dtype}")
    return out.double() if out.device.type != "mps" else out.cpu().double()


def as_state(name: str, values: Any) -> Tensor:
    """A state or data, `(B, *event)`: a tensor as it is, an array or nested lists as a tensor.

    Raises:
        TypeError: integers, truth values or complex numbers, in which coefficients would be lost, or no numbers at all.
        ValueError: a scalar, which has no batch.
    """
    try:
        out = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor, got {_shown(values)}: {error}") from None
    if out.is_complex():
        raise TypeError(f"{name} holds {out.dtype}: give real and imaginary parts as two channels, torch.view_as_real({name})")
    if not out.is_floating_point():
        raise TypeError(f"{name} holds {out.dtype}: give real numbers, such as {name}.float(), scaled to the model's units")
    if out.ndim == 0:
        raise ValueError(f"{name} is a scalar: it needs a batch, (B, *event)")
    return out


def as_dtype(name: str, dtype: Any) -> torch.dtype | None:
    """A dtype that states can have, or None.

    Raises:
        TypeError: another one.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"{name} must be a floating dtype, got {dtype!r}")
    return dtype


def as_device(name: str, device: Any) -> torch.device | None:
    """A device, or None.

    Raises:
        TypeError: no device and no name.
        ValueError: a name that torch does not know, or the meta device, which holds no numbers.
    """
    if device is None or isinstance(device, torch.device):
        made = device
    elif not isinstance(device, str):
        raise TypeError(f"{name} must be a torch.device or its name, got {_shown(device)}")
    else:
        try:
            made = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"{name}={device!r} is no device: {error}") from None
    if made is not None and made.type == "meta":
        raise ValueError(f"{name}={device!r} holds no numbers")
    return made


def as_callback(name: str, callback: Any, arguments: int) -> Any:
    """A function of that many arguments, or None.

    Raises:
        TypeError: it cannot be called with them.
    """
    if callback is None:
        return None
    if not callable(callback):
        raise TypeError(f"{name} must be a function, got {_shown(callback)}")
    try:
        inspect.signature(callback).bind(*range(arguments))
    except TypeError:
        raise TypeError(f"{name} must take {arguments} arguments, got {callback!r}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return callback


def as_count(name: str, value: Any, least: int = 1) -> int:
    """An integer, of Python or of numpy.

    Raises:
        TypeError: no integer.
        ValueError: below `least`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {_shown(value)}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value}")
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def as_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf) -> float:
    """A finite number in [low, high], larger than `above`.

    Raises:
        TypeError: no real number.
        ValueError: outside.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {_shown(value)}") from None
    if isinstance(value, bool | str):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(number) and low <= number <= high and number > above):
        wanted = f"larger than {above:g}" if above > -math.inf and high == math.inf else f"in [{max(low, above):g}, {high:g}]"
        raise ValueError(
            f"{name} must be {wanted if low > -math.inf or above > -math.inf or high < math.inf else 'finite'}, got {value}"
        )
    return number


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape, the batch first.

    Raises:
        TypeError: no sequence of integers.
        ValueError: no batch, or a negative size.
    """
    if isinstance(shape, str) or not isinstance(shape, Sequence | torch.Size | Iterable):
        raise TypeError(f"{name} must be a sequence of integers, (B, *event), got {_shown(shape)}")
    sizes = tuple(as_count(f"{name}[{i}]", size, 0) for i, size in enumerate(shape))
    if not sizes:
        raise ValueError(f"{name} must have a batch, (B, *event), got ()")
    return sizes


def _shown(value: Any) -> str:
    """A value for a message: its type where its text would be long."""
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
