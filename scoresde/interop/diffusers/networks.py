"""Networks of diffusers as score models: how each class is called, and what a scheduler says of it.

model = from_diffusers(pipe.unet, pipe.scheduler)
x = ss.sample(model, (4, 4, 64, 64), nfe=10, encoder_hidden_states=embeddings)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...models.learned_variance import LearnedVariance
from ...models.score_model import ScoreModel
from ...models.thresholding import ThresholdedModel, thresholded
from ...sde.base import SDE
from ...sde.prediction import Direction, Prediction, direction
from ..formats.calls import Call, Called, state_first
from .reading import Reading, read


def hidden_states(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """Transformers."""
    return network(hidden_states=z, timestep=time, **cond)


def in_unit_time(network: nn.Module, z: Tensor, time: Tensor, **cond: Any) -> Any:
    """Flux, which multiplies its time by 1000."""
    return network(hidden_states=z, timestep=time / 1000, **cond)


# By class. Those of one's own are called as U-Nets are.
CALLS: dict[str, Call] = {
    "UNet1DModel": state_first,
    "UNet2DModel": state_first,
    "UNet2DConditionModel": state_first,
    "DiTTransformer2DModel": hidden_states,
    "Transformer2DModel": hidden_states,
    "SD3Transformer2DModel": hidden_states,
    "FluxTransformer2DModel": in_unit_time,
}


def from_diffusers(
    network: nn.Module,
    scheduler: Any,
    *,
    time: Callable[[SDE, Tensor], Tensor] | None = None,
    negate: bool | None = None,
    clip: bool | None = None,
) -> ScoreModel | ThresholdedModel:
    """A network of diffusers as a model, with what its scheduler says of it. Prints in one line to stderr what was read.

    The network's conditions are keywords of `sample`: `class_labels`, `encoder_hidden_states` and so on, as the network names them.

    Args:
        network: a U-Net, DiT, the transformer of SD3 or Flux, or a module of your own that is called with (z, time, **cond). Pipelines of other
            networks change the sign or the time outside of the network: say so in `time` and `negate`.
        scheduler: the one that the network was made for, usually `pipe.scheduler`. It is read as it is in memory.
        time: what the network is told, a function of (sde, t); by default what the scheduler tells.
        negate: whether the network returns the negative of what the scheduler's class expects.
        clip: what to do where the scheduler clips the data prediction: False samples without, True holds the model to that range.

    Raises:
        TypeError: no scheduler.
        ValueError: a scheduler, a network or a combination that is not known; names it and the remedy.
    """
    reading = read(scheduler)
    print(f"from_diffusers: {reading}", file=sys.stderr)
    return as_read(network, reading, time=time, negate=negate, clip=clip)


def as_read(
    network: nn.Module,
    reading: Reading,
    *,
    time: Callable[[SDE, Tensor], Tensor] | None = None,
    negate: bool | None = None,
    clip: bool | None = None,
) -> ScoreModel | ThresholdedModel:
    """The model of `from_diffusers` by what was read of its scheduler; the other arguments and the errors are those there."""
    if reading.clip_range is not None and clip is None:
        raise ValueError(
            f"{reading.kind} has clip_sample=True, which is no part of a solver: give clip=False to sample without, or clip=True to hold the "
            f"data prediction to [-{reading.clip_range:g}, {reading.clip_range:g}]"
        )
    _require_score(network, reading)
    call = _call_of(network, told=time is not None or negate is not None)
    prediction = opposite(reading.prediction) if negate else reading.prediction
    made = LearnedVariance if _returns_variance(network, reading) else ScoreModel
    model = made(Called(network, call), reading.sde, prediction, time=time or partial(_told, reading))
    if clip and reading.clip_range is not None:
        return thresholded(model, -reading.clip_range, reading.clip_range)
    return model


def _require_score(network: nn.Module, reading: Reading) -> None:
    """Raise for a network that divides its output by its time, which is a score, unless the scheduler expects one.

    Raises:
        ValueError: names the key.
    """
    if getattr(getattr(network, "config", None), "time_embedding_type", None) == "fourier" and reading.prediction != "score":
        raise ValueError(
            f"{type(network).__name__} has time_embedding_type='fourier', which makes its output a score of a VE process, and {reading.kind} "
            f"expects {reading.prediction!r}: give the ScoreSdeVeScheduler that the network was made for"
        )


def _told(reading: Reading, sde: SDE, t: Tensor) -> Tensor:
    """The network's time."""
    return reading.network_time(t)


def _call_of(network: nn.Module, told: bool) -> Call:
    """How a network is called.

    Raises:
        ValueError: a class of diffusers whose pipeline may change sign or time, and nobody has said whether it does.
    """
    name = type(network).__name__
    if name in CALLS:
        return CALLS[name]
    if type(network).__module__.startswith("diffusers."):
        if not told:
            raise ValueError(
                f"{name} is not known here, and its pipeline may change the sign or the time outside of the network: give negate= and, where "
                f"it is another, time=, as the pipeline has them. Known are {', '.join(CALLS)}"
            )
        return hidden_states
    return state_first


def _returns_variance(network: nn.Module, reading: Reading) -> bool:
    config = getattr(network, "config", {})
    inside, outside = (getattr(config, name, None) for name in ("in_channels", "out_channels"))
    if inside is None or outside is None:
        return reading.learned_variance
    return bool(outside == 2 * inside)


def _negative(prediction: Prediction, part: int, sde: SDE, t: Tensor) -> Tensor:
    return -direction(sde, t, prediction)[part]


def opposite(prediction: Prediction) -> Direction:
    """The prediction with the other sign."""
    return Direction(partial(_negative, prediction, 0), partial(_negative, prediction, 1))
