"""What comes in from a user is looked at here: converted where that loses nothing, refused by its argument's name elsewhere."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .brief import shown


def as_numbers(name: str, values: Any) -> Tensor:
    """Numbers in float64: a tensor, an array, a number or numbers in any order of nesting. Python floats are not rounded on the way.

    A tensor stays on its device (on the CPU where the device has no float64). All else comes to the CPU, whatever torch's default device is.

    Raises:
        TypeError: they are no real numbers.
    """
    out = as_tensor(name, values, "cpu")
    if out.is_complex() or out.dtype == torch.bool:
        raise TypeError(f"{name} must be real numbers, got {out.dtype}")
    if not isinstance(values, Tensor) and not hasattr(values, "__array__"):
        return as_tensor(name, values, "cpu", torch.float64)
    return out.double() if out.device.type != "mps" else out.cpu().double()


def as_tensor(name: str, values: Any, device: str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor as it is; an array, a number or nested lists as a tensor.

    Raises:
        TypeError: torch cannot make a tensor of them.
    """
    if isinstance(values, Tensor):
        return values
    if type(values).__name__ == "MaskedArray":
        raise TypeError(f"{name} is a masked array: fill what is masked, {name}.filled(value)")
    try:
        if hasattr(values, "__array__"):
            # A copy: torch refuses strides that are negative and warns of arrays that are read-only.
            values = values.__array__().copy()
        return torch.as_tensor(values, device=device, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers, got {_shown(values)}: {error}") from None


def as_state(name: str, values: Any) -> Tensor:
    """A state or data, `(B, *event)`: a tensor as it is, an array or nested lists as a tensor.

    Raises:
        TypeError: integers, truth values or complex numbers, in which coefficients would be lost, or no numbers at all.
        ValueError: a scalar, which has no batch, or events of size 0.
    """
    out = as_tensor(name, values)
    if out.layout is not torch.strided:
        raise TypeError(f"{name} is sparse: give {name}.to_dense()")
    if out.is_complex():
        raise TypeError(f"{name} holds {out.dtype}: give real and imaginary parts as two channels, torch.view_as_real({name})")
    if not out.is_floating_point():
        raise TypeError(f"{name} holds {out.dtype}: give real numbers, such as {name}.float(), scaled to the model's units")
    if out.ndim == 0:
        raise ValueError(f"{name} is a scalar: it needs a batch, (B, *event)")
    if 0 in out.shape[1:]:
        raise ValueError(f"{name} has events of size 0: its shape is {tuple(out.shape)}")
    return out


def as_state_like(name: str, values: Any, like: Tensor, other: str) -> Tensor:
    """A state of the shape of `like`, which is the argument `other`.

    Raises:
        TypeError: as for `as_state`.
        ValueError: another shape.
    """
    out = as_state(name, values)
    if out.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(out.shape)}, {other} has {tuple(like.shape)}")
    return out


def as_values(name: str, values: Any, t: Tensor) -> Tensor:
    """The result of a user's function of the times `t`: float64 of their shape. A single number is the value at every time.

    Raises:
        TypeError: the function returned no real numbers.
        ValueError: another shape.
    """
    if isinstance(values, Tensor) and values.dtype == torch.float64 and values.shape == t.shape:
        return values
    out = as_numbers(f"the result of {name}", values).to(t.device)
    if out.ndim and out.shape != t.shape:
        raise ValueError(
            f"{name} must return a tensor of the shape of its times, {tuple(t.shape)}, or one number; got shape {tuple(out.shape)}"
        )
    return out.expand(t.shape)


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
    if made is not None and made.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name}={str(made)!r}, but torch finds no CUDA device")
    if made is not None and made.type == "meta":
        raise ValueError(f"{name}={device!r} holds no numbers")
    return made


def as_callback(name: str, callback: Any, arguments: int) -> Any:
    """A function of that many arguments, or None.

    Raises:
        TypeError: it cannot be called with them.
    """
    return None if callback is None else as_function(name, callback, arguments)


def as_function(name: str, callback: Any, arguments: int, *keywords: str, of: str = "") -> Any:
    """A function of that many arguments and these keywords.

    Args:
        of: what the arguments are, for the message.

    Raises:
        TypeError: it is no function, or cannot be called with them.
    """
    if not callable(callback):
        raise TypeError(f"{name} must be a function, got {_shown(callback)}")
    try:
        signature = inspect.signature(callback)
        signature.bind(*range(arguments), **dict.fromkeys(keywords))
    except TypeError:
        also = "".join(f" and {keyword}=" for keyword in keywords)
        count = f"{arguments} argument{'s' if arguments > 1 else ''}{of and f' {of}'}"
        raise TypeError(f"{name} must take {count}{also}, but {shown(callback)} takes {signature}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return callback


def as_count(name: str, value: Any, least: float = 1) -> int:
    """An integer, of Python or of numpy.

    Raises:
        TypeError: no number.
        ValueError: a number with a fraction, or one below `least`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise (ValueError if isinstance(value, Real) else TypeError)(f"{name} must be an integer, got {_shown(value)}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value}")
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def as_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf, below: float = math.inf
) -> float:
    """A finite number in [low, high], larger than `above` and smaller than `below`.

    Raises:
        TypeError: no real number.
        ValueError: outside.
    """
    try:
        number = float(value)
    except OverflowError:  # an integer above 1e308
        number = math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, got {_shown(value)}") from None
    if isinstance(value, bool | str | bytes | bytearray) or getattr(value, "dtype", None) in (bool, torch.bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}")
    if not (low <= number <= high and above < number < below):
        raise ValueError(f"{name} must {_interval(low, high, above, below)}, got {value}")
    return number


def _interval(low: float, high: float, above: float, below: float) -> str:
    """The rule of `as_number` in words."""
    least, most = max(low, above), min(high, below)
    if math.isinf(most):
        return "be positive" if above == 0 else f"be larger than {least:g}" if above >= low else f"be at least {least:g}"
    return f"lie in {'(' if above >= low else '['}{least:g}, {most:g}{')' if below <= high else ']'}"


def as_flag(name: str, value: Any) -> bool:
    """True or False, of Python or of numpy.

    Raises:
        TypeError: anything else, also 0, 1 and "no".
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {_shown(value)}")
    return bool(value)


def as_one_of(
    name: str, value: Any, names: Iterable[str], alternative: str = "", *, elsewhere: Mapping[str, str] | None = None
) -> str:
    """One of the names; upper and lower case are the same.

    Args:
        alternative: what is possible in place of a name, for the message.
        elsewhere: names that others use for ours, in lower case.

    Raises:
        TypeError: no text.
        ValueError: another name.
    """
    names = tuple(names)
    if isinstance(value, str):
        ours = (elsewhere or {}).get(value.lower(), value)
        for known in names:
            if ours.lower() == known.lower():
                return known
    wanted = ", ".join(names) + (f" or {alternative}" if alternative else "")
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {wanted}; got {_shown(value)}")
    raise ValueError(f"{name} must be one of {wanted}; got {_shown(value)}")


def as_sequence(name: str, values: Any) -> list[Any]:
    """The entries of a list, a tuple, an array or an iterator.

    Raises:
        TypeError: it has no entries.
    """
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence, got {_shown(values)}")
    try:
        return list(values)
    except TypeError:  # an array or a tensor without axes
        raise TypeError(f"{name} must be a sequence, got {_shown(values)}") from None


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape, the batch first.

    Raises:
        TypeError: no sequence of integers.
        ValueError: no batch, or a negative size.
    """
    sizes = _sizes(name, shape, "(B, *event)", 0)
    if not sizes:
        raise ValueError(f"{name} must have a batch, (B, *event), got ()")
    return sizes


def as_event(name: str, shape: Any) -> tuple[int, ...]:
    """The shape of one event, without the batch; () for a number.

    Raises:
        TypeError: no sequence of integers.
        ValueError: a size below 1.
    """
    return _sizes(name, shape, "the event without the batch", 1)


def _sizes(name: str, shape: Any, wanted: str, least: int) -> tuple[int, ...]:
    if isinstance(shape, int):
        example = f"({shape}, 2) for {shape} points of the plane" if least == 0 else f"({shape},) for points of {shape} coordinates"
        raise TypeError(f"{name} must be {wanted}, such as {example}; got {shape}")
    sizes = enumerate(as_sequence(f"{name}, {wanted},", shape))
    return tuple(as_count(f"{name}[{i}]", size, least) for i, size in sizes)


def _shown(value: Any) -> str:
    """A value for a message: its type where its text would be long."""
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
