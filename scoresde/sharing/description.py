"""A score model in words that JSON can hold, and the model that such a description stands for.

    describe(model)                                   -> {"network": ..., "sde": ..., "prediction": ..., "time": ...}
    build(description, tensors, network, sde, time)   -> the model, with the tensors as its weights

Networks and processes of this package are described by their class and its arguments. Of any other network the name of the class is kept, and
of any other process or time convention its numbers at 32 times. `build` is given such a part again and compares the numbers.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..models.base import Model
from ..models.learned_variance import LearnedVariance
from ..models.score_model import TIMES, ScoreModel, TimeConvention
from ..numerics.files import stored_entry, stored_tensor
from ..numerics.inputs import as_one_of
from ..sde.base import SDE
from ..sde.families import EDM, VESDE, RectifiedFlow, SubVPSDE
from ..sde.fingerprint import PROBE_TIMES, require_same_process, schedule_fingerprint
from ..sde.linear import LinearSDE
from ..sde.momentum import CLD, HOLD
from ..sde.prediction import PREDICTIONS, Preconditioned, Prediction
from ..sde.vp import VPSDE, VPChain
from .networks import describe_network, network_of

FORMAT = "scoresde model 1"
# The betas of a chain, among the tensors of the weights.
BETAS = "sde.betas"

MODELS: dict[str, type[ScoreModel]] = {"ScoreModel": ScoreModel, "LearnedVariance": LearnedVariance}
# The attributes of a process that are its arguments.
PROCESSES: dict[str, tuple[type[SDE], tuple[str, ...]]] = {
    "VPSDE": (VPSDE, ("beta_min", "beta_max")),
    "SubVPSDE": (SubVPSDE, ("beta_min", "beta_max")),
    "VESDE": (VESDE, ("sigma_min", "sigma_max")),
    "EDM": (EDM, ("sigma_min", "sigma_max")),
    "RectifiedFlow": (RectifiedFlow, ()),
    "VPChain": (VPChain, ()),
    "CLD": (CLD, ("beta", "mass", "gamma", "t_min")),
    "HOLD": (HOLD, ("order", "beta", "rate", "gamma", "t_min")),
}

Description = dict[str, Any]


def describe(model: Model) -> Description:
    """What a model is, apart from its weights.

    Raises:
        TypeError: a model of another class; says what to save in its place.
    """
    if not isinstance(model, ScoreModel) or type(model) not in MODELS.values():
        inside = "; save the model inside it and wrap that again" if hasattr(model, "model") else ""
        raise TypeError(f"only a ScoreModel or a LearnedVariance can be kept in files, got a {type(model).__name__}{inside}")
    description = {
        "format": FORMAT,
        "model": type(model).__name__,
        "network": describe_network(bare(model.network)),
        "sde": _describe_process(model.sde),
        "prediction": _describe_prediction(model.prediction),
        "time": model.time_name if model.time_name is not None else {"values": _time_values(model)},
    }
    # Through JSON once: a file returns tuples as lists, and numpy's integers are none that JSON knows.
    through_json: Description = json.loads(json.dumps(description, default=operator.index))
    return through_json


def weights(model: ScoreModel) -> dict[str, Tensor]:
    """The tensors of a model: its weights, without the levels of wrappers, and the betas of a chain."""
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("network.")}
    network = {f"network.{name}": value for name, value in bare(model.network).state_dict().items()}
    return own | network | ({BETAS: model.sde.betas} if type(model.sde) is VPChain else {})


def bare(network: nn.Module) -> nn.Module:
    """The network inside `torch.compile` or a data-parallel wrapper."""
    while type(network).__name__ in ("OptimizedModule", "DataParallel", "DistributedDataParallel"):
        inside: Any = getattr(network, "_orig_mod", None) or network.module
        network = inside
    return network


def build(
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    network: nn.Module | None = None,
    sde: SDE | None = None,
    time: TimeConvention | None = None,
) -> ScoreModel:
    """The model of a description, in evaluation mode, with `tensors` as its weights.

    Args:
        network: for a class that is not of this package; a module of the shapes and the dtype of the tensors, or a `ScoreModel` with such a
            module and its time convention. It is filled in place.
        sde: for a process that is not of this package.
        time: for a time convention that is a function.

    Raises:
        ValueError: the description is damaged or of another version, the tensors do not fit, or a part that has to be given is missing or
            differs from the one that was saved.
    """
    if description.get("format") != FORMAT:
        raise ValueError(f"it is in the format {description.get('format')!r}, and this version of scoresde reads {FORMAT!r}")
    declared: Prediction | None = None
    if isinstance(network, ScoreModel):
        time = (network.time_name or network._network_time) if time is None else time
        sde, declared, network = network.sde if sde is None else sde, network.prediction, network.network
    values = dict(tensors)
    process = _process(stored_entry(description, "sde", dict), values.pop(BETAS, None), sde)
    prediction = _prediction(stored_entry(description, "prediction", str, dict))
    if declared not in (None, prediction):
        raise ValueError(f"its network predicts {prediction!r}, and the ScoreModel that was given says {declared!r}")
    given = network
    net = network_of(stored_entry(description, "network", dict), values) if given is None else given
    about_time = stored_entry(description, "time", str, dict)
    convention = _time(about_time, time)
    kind = MODELS[as_one_of("model", stored_entry(description, "model", str), MODELS)]
    model = kind(net, process, prediction, convention)
    if isinstance(about_time, dict):
        _require_same_times(model, stored_entry(about_time, "values", list))
    try:
        _fill(model, values, assign=given is None)
    except ValueError as error:
        name, here = description["network"]["class"], f"{type(bare(net)).__module__}.{type(bare(net)).__qualname__}"
        if given is None or name == here:
            raise
        raise ValueError(f"{error}: the network of the file is a {name}, and this one a {here}") from None
    return model.eval()


def _describe_process(sde: SDE) -> Description:
    for name, (kind, arguments) in PROCESSES.items():
        if type(sde) is kind:
            _require_unchanged(sde, VPChain(sde.betas) if isinstance(sde, VPChain) else kind(*(getattr(sde, a) for a in arguments)))
            return {"class": name, "arguments": {argument: getattr(sde, argument) for argument in arguments}}
    return {"class": type(sde).__qualname__, "values": schedule_fingerprint(sde).tolist()}


def _require_unchanged(sde: SDE, again: SDE) -> None:
    """Raise unless a process is the one that its arguments give.

    Raises:
        ValueError: names the attribute that differs.
    """
    for name in ("t_min", "t_max", *(() if isinstance(sde, LinearSDE) else ("prior_std",))):
        if getattr(sde, name) != getattr(again, name):
            raise ValueError(
                f"{name}={getattr(sde, name):g} of {sde!r} was set after it was made, which no file holds: make a class of its own"
            )


def _process(description: Mapping[str, Any], betas: Tensor | None, given: SDE | None) -> SDE:
    name = stored_entry(description, "class", str)
    if given is not None and not isinstance(given, SDE):
        raise ValueError(f"sde must be a path such as VPSDE(), got {given!r}")
    if name in PROCESSES:
        kind, names = PROCESSES[name]
        arguments = stored_entry(description, "arguments", dict)
        if set(arguments) != set(names):
            raise ValueError(
                f"its process {name} has the arguments {', '.join(names) or 'none'}, got {', '.join(arguments) or 'none'}"
            )
        if (betas is not None) != (kind is VPChain):
            raise ValueError(f"its process {name} {'needs' if betas is None else 'has no'} betas, the tensor {BETAS}")
        saved = kind(**arguments) if betas is None else VPChain(stored_tensor({BETAS: betas}, BETAS, -1))
        if given is not None:
            require_same_process(saved, given, "the model")
        return saved if given is None else given
    if given is None:
        raise ValueError(f"its process is a {name}, which a file cannot hold: give from_pretrained(..., sde=), the same process")
    values = torch.tensor(stored_entry(description, "values", list), dtype=torch.float64, device="cpu")
    require_same_process(stored_tensor({"values": values}, "values", 2, len(PROBE_TIMES)), given, "the model")
    return given


def _describe_prediction(prediction: Prediction) -> str | Description:
    if isinstance(prediction, str):
        return prediction
    if type(prediction) is not Preconditioned:
        raise TypeError(f"a prediction of one's own cannot be kept in files, got {prediction!r}")
    return {"class": "Preconditioned", "arguments": asdict(prediction)}


def _prediction(stored: str | Mapping[str, Any]) -> Prediction:
    if isinstance(stored, str):
        name: Any = as_one_of("prediction", stored, PREDICTIONS)
        found: Prediction = name
        return found
    arguments = stored_entry(stored, "arguments", dict)
    if stored.get("class") != "Preconditioned" or set(arguments) != {field.name for field in fields(Preconditioned)}:
        raise ValueError(f"its prediction must be one of {', '.join(PREDICTIONS)} or Preconditioned, got {stored!r}")
    return Preconditioned(**{name: stored_entry(arguments, name, float, int) for name in arguments})


def _time_values(model: ScoreModel) -> list[float]:
    """The network's times at 32 times."""
    values: list[float] = model.network_time(PROBE_TIMES).double().flatten().tolist()
    return values


def _time(stored: str | Mapping[str, Any], given: TimeConvention | None) -> TimeConvention:
    if isinstance(stored, str):
        if given not in (None, stored):
            raise ValueError(f"its network takes time={stored!r}, got time={given!r}")
        return as_one_of("time", stored, TIMES)
    if given is None:
        raise ValueError(
            "its network takes as time a function, which a file cannot hold: give from_pretrained(..., time=), the same function, or "
            "network=, a ScoreModel with that function"
        )
    return given


def _require_same_times(model: ScoreModel, stored: list[Any]) -> None:
    """Raise unless the network sees the times that it saw when it was saved."""
    here, there = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (_time_values(model), stored))
    if here.shape != there.shape or not bool(((here - there).abs() <= 1e-6 * (1 + there.abs())).all()):
        raise ValueError(
            f"time= is another function: at t=1 the network saw {stored[-1:]} when it was saved, and {here[-1:].tolist()} here"
        )


def _fill(model: ScoreModel, tensors: Mapping[str, Tensor], assign: bool) -> None:
    """Load the weights: as they are, or into the memory of a network of the same shapes and dtypes.

    Raises:
        ValueError: names the first tensor that does not fit.
    """
    state = {f"network.{name}": value for name, value in bare(model.network).state_dict().items()}
    state |= {name: value for name, value in model.state_dict().items() if not name.startswith("network.")}
    for name in [*state, *tensors]:
        here, there = state.get(name), tensors.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = ["none" if part is None else tuple(part.shape) for part in (there, here)]
            raise ValueError(f"the tensor {name} has shape {shapes[0]} in the file and {shapes[1]} in the network")
        if here.is_floating_point() != there.is_floating_point() or (not assign and here.dtype != there.dtype):
            raise ValueError(
                f"the tensor {name} is {there.dtype} in the file and {here.dtype} in the network: use network.to({there.dtype})"
            )
    # Clones: tensors of safetensors may begin anywhere in memory, where some kernels add in another order.
    bare(model.network).load_state_dict(
        {name.removeprefix("network."): tensors[name].clone() for name in state if name.startswith("network.")}, assign=assign
    )
    rest = {name: value for name, value in tensors.items() if not name.startswith("network.")}
    if rest:
        model.load_state_dict(rest, strict=False)
