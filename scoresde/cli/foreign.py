"""Models that `train` did not make, where a command asks for a RUN: a folder of `ss.save_pretrained`, or one of `scoresde convert`.

converted.json    where the model comes from, the shape of a sample, the data to compare with
config.json, model.safetensors    of `ss.save_pretrained`
unet, scheduler                   in their place, of diffusers
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Data, DataError
from ..models.base import Model
from ..models.score_model import ScoreModel
from ..models.thresholding import ThresholdedModel
from ..models.wrapper import Wrapper
from ..numerics.files import json_object, reading, stored_entry
from ..numerics.inputs import as_event
from ..sharing.description import FORMAT
from ..sharing.pretrained import CONFIG, from_pretrained
from ..train.experiment import Experiment

ABOUT = "converted.json"
# The folders of diffusers.
NETWORK, SCHEDULER = "unet", "scheduler"
KNOWN = "UNet2DModel"

# With --clip the model of a folder of diffusers is thresholded.
Loaded = ScoreModel | ThresholdedModel


@dataclass(frozen=True)
class About:
    """The entries of `converted.json`.

    Attributes:
        origin: what was converted.
        event: the shape of a sample.
        data: name or path of the data to compare with; "" for none.
        held_out: how many of them are held out.
        clip: whether the data prediction of a network of diffusers is held to the range of its scheduler.
        size, crop, mode: what becomes of the images of a folder of data, as in `Experiment`.
    """

    origin: str
    event: tuple[int, ...]
    data: str = ""
    held_out: int = 200
    clip: bool | None = None
    size: int | None = None
    crop: int | None = None
    mode: str | None = None

    def foreign(self, process: str = "", classes: int | None = None) -> Foreign:
        """What the commands need to know, for a model on that process with so many classes."""
        return Foreign(
            self.data, self.held_out, process=process, conditional=classes is not None, event=self.event, classes=classes,
            size=self.size, crop=self.crop, mode=self.mode, origin=self.origin,
        )  # fmt: skip

    @classmethod
    def of(cls, experiment: Experiment) -> About:
        """What is known of a run. As many of its data stay held out, so that none of them was trained on."""
        return cls(
            experiment.data, experiment.event, data=experiment.data, held_out=experiment.held_out or cls.held_out,
            size=experiment.size, crop=experiment.crop, mode=experiment.mode,
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the file."""
        (folder / ABOUT).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> About:
        """What a folder says of itself; of `ss.save_pretrained` alone, the shape of a sample.

        Raises:
            ValueError: a file is damaged, or the shape is not known.
        """
        path = folder / ABOUT
        if not path.exists():
            event = stored_event(folder)
            if event is None:
                raise ValueError(
                    f"{folder / CONFIG} has no shape of a sample: scoresde convert {folder} OUT --shape 1,28,28 writes a folder that has it"
                )
            return cls(str(folder), event)
        with reading(path):
            entries = json_object(path.read_text(encoding="utf-8"))
            event = as_event("event", stored_entry(entries, "event", list))
            data, origin = (stored_entry(entries, name, str) for name in ("data", "origin"))
            later = {name: entries.get(name) for name in ("clip", "size", "crop", "mode")}
            return cls(origin, event, data, stored_entry(entries, "held_out", int), **later)


@dataclass(frozen=True)
class Foreign(Experiment):
    """What the commands need to know of a model that `train` did not make.

    Attributes:
        origin: what was converted.
    """

    origin: str = ""

    def load_data(self) -> tuple[Data, Data]:
        if not self.data:
            raise DataError(
                f"{self.origin} comes without data: scoresde convert {self.origin} OUT --data DATA writes a folder that has some"
            )
        return super().load_data()


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds such a model."""
    if (folder / ABOUT).exists():
        return True
    if not (folder / CONFIG).is_file():
        return False
    with reading(folder / CONFIG):
        return json_object((folder / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT


def stored_event(folder: Path) -> tuple[int, ...] | None:
    """The shape of a sample that a folder of `ss.save_pretrained` has; None where it has none."""
    with reading(folder / CONFIG):
        entries = json_object((folder / CONFIG).read_text(encoding="utf-8"))
        return None if entries.get("event") is None else as_event("event", stored_entry(entries, "event", list))


def load_foreign(folder: Path, network: nn.Module | None = None) -> tuple[Foreign, Loaded]:
    """What is known of the model, and the model, on the CPU.

    Args:
        folder: of the model.
        network: the user's own, to fill with the weights of the folder.

    Raises:
        ValueError: a file is missing or damaged, names it; or the network has to be given, and was not.
    """
    about = About.read(folder)
    model = of_diffusers(folder, about.clip) if (folder / NETWORK).is_dir() else pretrained(folder, network)
    inside = inmost(model).network
    classes = getattr(inside, "arguments", {}).get("classes", getattr(inside, "classes", None))
    return about.foreign(repr(model.sde), classes), model


def inmost(model: Model) -> ScoreModel:
    """The `ScoreModel` inside the wrappers of --clip and --guidance."""
    while isinstance(model, Wrapper):
        model = model.model
    assert isinstance(model, ScoreModel)
    return model


def pretrained(folder: Path, network: nn.Module | None) -> ScoreModel:
    """`from_pretrained`, with an error in the words of the commands.

    Raises:
        ValueError: as there.
    """
    try:
        return from_pretrained(folder, network=network)
    except ValueError as error:
        option = "give --network FILE.py:NAME, which makes such a module, or a ScoreModel with its own time"
        raise ValueError(re.sub(r"give from_pretrained[(].*", option, str(error))) from error


def of_diffusers(folder: Path, clip: bool | None) -> Loaded:
    """The model of a folder of diffusers.

    Raises:
        ValueError: as `parts_of_diffusers`, or a scheduler that clips without `clip`.
    """
    network, scheduler = parts_of_diffusers(folder)
    # Only here is it known that diffusers is installed.
    from ..interop.diffusers.networks import as_read
    from ..interop.diffusers.reading import read

    return as_read(network, read(scheduler), clip=clip)


def parts_of_diffusers(folder: Path) -> tuple[Any, Any]:
    """The network of a folder of diffusers, and its scheduler.

    Raises:
        ValueError: a network that is not known, or that needs more than the state and the time; or diffusers is not installed.
    """
    network_class, scheduler_class = (
        _class(folder / name) for name in (f"{NETWORK}/config.json", f"{SCHEDULER}/scheduler_config.json")
    )
    if network_class != KNOWN:
        raise ValueError(
            f"{folder / NETWORK} is a {network_class}: only a {KNOWN} can be converted, which needs no prompt and no class"
        )
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(f"{folder} needs diffusers: pip install 'scoresde[diffusers]'") from error
    # Told to use no accelerate, diffusers does not complain of its absence.
    network = diffusers.UNet2DModel.from_pretrained(
        str(folder), subfolder=NETWORK, local_files_only=True, low_cpu_mem_usage=False
    ).eval()
    scheduler = getattr(diffusers, scheduler_class).from_pretrained(str(folder), subfolder=SCHEDULER, local_files_only=True)
    if network.config.get("num_class_embeds") is not None or network.config.get("class_embed_type") is not None:
        raise ValueError(f"{folder / NETWORK} needs a class: only networks without conditions can be converted")
    return network, scheduler


def _class(path: Path) -> str:
    """The name of the class that wrote a configuration of diffusers.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: a folder of diffusers has {NETWORK}/config.json and {SCHEDULER}/scheduler_config.json"
        )
    with reading(path):
        return str(stored_entry(json_object(path.read_text(encoding="utf-8")), "_class_name", str))
