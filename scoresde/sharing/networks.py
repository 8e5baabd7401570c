"""The networks of this package in words that JSON can hold: a class and its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..models.score_model import TIMES
from ..networks import ADM, EDM2, MLP, DiT, UNet
from ..networks.embedding import TimeAndClass
from ..numerics.files import stored_entry
from ..numerics.inputs import as_one_of

NETWORKS: dict[str, type[nn.Module]] = {"MLP": MLP, "UNet": UNet, "ADM": ADM, "EDM2": EDM2, "DiT": DiT}
# The arguments of a network that its function does not depend on.
OF_TRAINING = {"recompute"}
# The arguments that networks got after folders of theirs were written, which hold for their defaults.
LATER = {"UNet": {"dropout", "outputs"}}
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def describe_network(network: nn.Module) -> dict[str, Any]:
    """The class of a network of this package with its arguments; no more than the name of another one.

    Raises:
        ValueError: it was changed after it was made.
    """
    if type(network) not in NETWORKS.values():
        return {"class": f"{type(network).__module__}.{type(network).__qualname__}"}
    embedding = network.embedding
    assert isinstance(embedding, TimeAndClass)
    with torch.device("meta"):
        arguments: Any = network.arguments
        again = type(network)(**arguments)
    if repr(again) != repr(network):
        raise ValueError(
            f"this {type(network).__name__} was changed after it was made, so that its arguments no longer describe it: take out what was put "
            "in, or make it a class of its own"
        )
    return {
        "class": type(network).__name__,
        "arguments": network.arguments,
        "time": embedding.time,
        "time_precision": str(embedding.frequencies.dtype).removeprefix("torch."),
    }


def network_of(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network without its weights, on the meta device: no memory is taken before the tensors are known to fit."""
    name = stored_entry(description, "class", str)
    if name not in NETWORKS:
        raise ValueError(
            f"its network is a {name}, which scoresde does not have: give from_pretrained(..., network=), such a module"
        )
    arguments = stored_entry(description, "arguments", dict)
    _require_arguments(NETWORKS[name], arguments, tensors)
    with torch.device("meta"):
        network = NETWORKS[name](**arguments)
    embedding = network.embedding
    assert isinstance(embedding, TimeAndClass)
    precision = as_one_of("time_precision", description.get("time_precision"), PRECISIONS)
    embedding.frequencies = embedding.spectrum(PRECISIONS[precision])
    if description.get("time") is not None:
        embedding.declare_time(as_one_of("time", description["time"], TIMES))
    dtypes = {tensor.dtype for name, tensor in tensors.items() if name.startswith("network.")}
    if len(dtypes) > 1:
        raise ValueError(f"the weights of one network are of several dtypes: {', '.join(sorted(map(str, dtypes)))}")
    return network


def _require_arguments(network: type[nn.Module], arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise unless these are the arguments of the class, and a network of the size of the tensors.

    Raises:
        ValueError: names the argument.
    """
    parameters = inspect.signature(network).parameters
    wanted = set(parameters) - OF_TRAINING
    if odd := (wanted ^ set(arguments)) - (LATER.get(network.__name__, set()) - set(arguments)):
        raise ValueError(f"the arguments of its network differ from those of {network.__name__} in {', '.join(sorted(odd))}")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    for name, value in arguments.items():
        # A level, a layer or a block has a tensor of its own, and a width, a class or a channel has a number.
        most = len(tensors) if name in ("layers", "blocks") else numbers
        if not _fits(value, parameters[name].default, most):
            raise ValueError(f"the argument {name}={value!r} of its network fits no network of {numbers} numbers")


def _fits(value: Any, default: Any, most: int) -> bool:
    """Whether a value can stand for an argument with this default: a name, a probability, or sizes up to `most`."""
    if isinstance(default, str):
        return type(value) is str
    if isinstance(default, float):
        return type(value) in (int, float) and 0 <= value <= 1
    sizes = value if type(value) is list else [value]
    return value is None or all(type(size) is int and 0 <= size <= most for size in sizes)
