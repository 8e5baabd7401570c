"""Networks of score_sde and score_sde_pytorch (Song et al. 2021, arXiv 2011.13456), by their configurations.

    training.sde    continuous    path                              prediction    the network's time
    vpsde           True          VPSDE(beta_min, beta_max)         noise         999 t
    vpsde           False         the chain of N = num_scales       noise         index 0..N-1
    subvpsde        either        SubVPSDE(beta_min, beta_max)      noise         999 t
    vesde           True          EDM(sigma_min, sigma_max)         score         sigma
    vesde           False         EDM(sigma_min, sigma_max)         score         level 0..N-1, 0 the noisiest

Their VE process has the noise scale sigma_min r^t, which is above 0 at the data. `VESDE` of this package starts at 0, so `EDM` is the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...models.score_model import ScoreModel, TimeConvention
from ...models.times import LevelFromHighest, Multiple, noise_scale
from ...numerics.checkpoints import Checkpoint, load, pairs_by_name, pairs_of_average, read_checkpoint
from ...sde.base import SDE
from ...sde.families import EDM, SubVPSDE
from ...sde.prediction import Prediction
from ...sde.vp import VPSDE

Parts = tuple[SDE, Prediction, TimeConvention]


def score_sde(network: nn.Module, config: Any, checkpoint: Checkpoint | None = None) -> ScoreModel:
    """A network of score_sde as a model, with the averaged weights of a checkpoint.

    The data are in [-1, 1] with `config.data.centered`, and in [0, 1] without.

    Args:
        network: theirs, called as `network(x, labels)`, with the parameters frozen that were so in training. The checkpoint is loaded into it.
        config: theirs, a `ConfigDict`, or mappings with the entries `training.sde`, `training.continuous` and those of `model`.
        checkpoint: a file, or what was read from one: `model` with all tensors, and `ema` with the list `shadow_params`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an entry is missing or not known, or a tensor does not fit; names it.
    """
    sde, prediction, time = _parts(config)
    if checkpoint is not None:
        load_checkpoint(network, checkpoint)
    return ScoreModel(network, sde, prediction, time=time)


def load_checkpoint(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load all tensors of `model`, and then the averages in place of the trained parameters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an entry is missing, or a tensor does not fit; nothing was loaded then.
    """
    entries = read_checkpoint(checkpoint)
    state, averages = (_entry(entries, path, "the checkpoint") for path in ("model", "ema.shadow_params"))
    load([*pairs_by_name(network, state), *pairs_of_average(network, averages)])


def _parts(config: Any) -> Parts:
    """The path, the prediction and the time of a configuration."""
    kind = str(_entry(config, "training.sde")).lower()
    if kind in ("vpsde", "subvpsde"):
        low, high = (float(_entry(config, f"model.{name}")) for name in ("beta_min", "beta_max"))
        if kind == "subvpsde":
            return SubVPSDE(low, high), "noise", Multiple(999.0)
        if _entry(config, "training.continuous"):
            return VPSDE(low, high), "noise", Multiple(999.0)
        n = int(_entry(config, "model.num_scales"))
        return VPSDE.from_betas(torch.linspace(low / n, high / n, n, dtype=torch.float64)), "noise", "index"
    if kind == "vesde":
        low, high = (float(_entry(config, f"model.{name}")) for name in ("sigma_min", "sigma_max"))
        if _entry(config, "training.continuous"):
            return EDM(low, high), "score", noise_scale
        return EDM(low, high), "score", LevelFromHighest(low, high, int(_entry(config, "model.num_scales")))
    raise ValueError(f"training.sde={kind!r} is not known: vpsde, subvpsde or vesde")


def _entry(config: Any, path: str, whose: str = "the configuration") -> Any:
    """The entry at a dotted path, of mappings or attributes.

    Raises:
        ValueError: it is missing.
    """
    found = config
    for name in path.split("."):
        missing = name not in found if isinstance(found, Mapping) else not hasattr(found, name)
        if missing:
            raise ValueError(f"{whose} has no entry {path}")
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found
