"""Keep a model in a folder, and share it on the Hugging Face Hub.

    config.json          what the network, its process, its prediction and its time convention are
    model.safetensors    the weights, and the betas of a chain
    README.md            a model card

Nothing in these files is executed when they are read.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from torch import Tensor, nn

from ..models.score_model import ScoreModel, TimeConvention
from ..numerics.files import digest, json_object, read_tensors, reading, require_writable, write_tensors
from ..numerics.inputs import as_event
from ..sde.base import SDE
from . import hub
from .card import card
from .description import FORMAT, bare, build, describe, weights

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
# The description among the metadata of the weights: a folder whose two files belong to different models is noticed.
KEY = "scoresde"
# The entry of the description that notices damaged weights. Folders of the first version have none.
DIGEST = "sha256"


def save_pretrained(
    model: ScoreModel, folder: str | PathLike[str], *, event: Sequence[int] | None = None, about: Mapping[str, object] | None = None
) -> None:
    """Write config.json, model.safetensors and README.md into `folder`. `from_pretrained` gives a model with the same outputs, to the bit.

    A README.md that is there stays, as it may have been edited. Any network can be saved. One of a class that is not of this package has to be
    given again to `from_pretrained`, as must a process or a time convention made of functions.

    Args:
        model: a `ScoreModel` or `LearnedVariance`.
        folder: is made if it does not exist. To share it: `huggingface_hub.upload_folder(folder_path=folder, repo_id="owner/name")`.
        event: the shape of one sample, for the card and for whoever samples; an `MLP` knows its own.
        about: lines for the card, by name, such as the range of the data, the number of training steps and the license.

    Raises:
        TypeError: `model` is another model, such as a wrapper of a `ScoreModel`, or has a tensor that no file can hold.
        ValueError: a weight is not finite, a network or a process was changed after it was made, or the folder has a config.json of another
            kind, such as that of a training run.
        OSError: a file cannot be written.
    """
    description, tensors = describe(model), weights(model)
    require_writable(tensors)
    require_finite(tensors)
    description[DIGEST] = digest(tensors)
    shape = as_event("event", event) if event is not None else getattr(bare(model.network), "event_shape", None)
    folder = Path(folder)
    _require_own(folder / CONFIG)
    # The weights first: a folder without config.json is no model, and one of two different models is noticed by the description in both.
    write_tensors(folder / WEIGHTS, tensors, description, KEY)
    _write(folder / CONFIG, json.dumps({**description, "event": shape, "scoresde": _version()}, indent=2) + "\n")
    if not (folder / CARD).exists():
        _write(folder / CARD, card(model, description, tensors, shape, about or {}))


def from_pretrained(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    network: nn.Module | None = None,
    sde: SDE | None = None,
    time: TimeConvention | None = None,
) -> ScoreModel:
    """The model that `save_pretrained` wrote, on the CPU and in evaluation mode.

    Args:
        source: a folder, or the name owner/name of a repository on the Hugging Face Hub, which needs `pip install huggingface_hub`.
        revision: of the repository: a branch, a tag or a commit.
        network: a module to fill, for a network that is not of this package; or a `ScoreModel` with such a module, its time convention and
            its process, as those of `interop.formats` are. It has to agree with the folder.
        sde: the process, for one that is made of functions.
        time: the time convention, for one that is a function.

    Raises:
        FileNotFoundError: there is no such folder, or one without config.json or model.safetensors.
        ImportError: there is no such folder, and huggingface_hub is not installed.
        ValueError: a file is damaged or of another version, its weights were changed, a part of the model has to be given, or the folder is
            a training run; names the file.
    """
    folder = Path(source)
    config, stored = (folder / CONFIG, folder / WEIGHTS) if folder.is_dir() else hub.files(str(source), (CONFIG, WEIGHTS), revision)
    if not config.is_file():
        raise FileNotFoundError(f"{folder} holds no model (no {CONFIG}): write one with ss.save_pretrained")
    with reading(config):
        description = json_object(config.read_text(encoding="utf-8"))
    if "format" not in description and "recipe" in description:
        raise ValueError(f"{source} is a training run: its model is train.Experiment.read(folder).load_model(folder)")
    tensors, beside = read_tensors(stored, KEY)
    different = [name for name in beside or {} if beside and beside[name] != description.get(name)]
    if different:
        raise ValueError(f"{config} and {stored.name} are of different models: their {', '.join(different)} differ")
    with reading(stored):
        require_finite(tensors)
        if DIGEST in description and description[DIGEST] != digest(tensors):
            raise ValueError(f"its weights are not those that were saved: their {DIGEST} differs from that in {CONFIG}")
    with reading(config, said="describes no model that can be used"):
        return build(description, tensors, network, sde, time)


def _require_own(config: Path) -> None:
    """Raise unless the configuration that is there, if any, is one of this module.

    Raises:
        ValueError: the folder belongs to something else.
    """
    if config.exists():
        with reading(config):
            if json_object(config.read_text(encoding="utf-8")).get("format") != FORMAT:
                raise ValueError(f"{config} is of something else, such as a training run: choose another folder")


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise for a tensor with an infinite or NaN number.

    Raises:
        ValueError: names the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"the tensor {name} is not finite")


def _version() -> str:
    from .. import __version__

    return __version__


def _write(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
