"""Where the numbers of a run go.

`history.jsonl` in the folder of a run has one line a validation. A tracker is a function of `(values, iteration)`, called on process 0 alone:
of `loss`, `rate` and `samples_per_second` on the way, and of a row of the history after each validation. A value is a number, or a picture
`(height, width, 3)` of bytes. Trackers by name: "tensorboard" and "wandb".
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..numerics.inputs import as_one_of

HISTORY = "history.jsonl"

Tracker = Callable[[Mapping[str, Any], int], object]


def tensorboard(folder: Path | None) -> Tracker:
    """Event files in `folder/tensorboard`, or in TensorBoard's own place without a folder.

    Raises:
        ImportError: the package tensorboard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("the tracker 'tensorboard' needs: pip install tensorboard") from error
    writer = SummaryWriter(None if folder is None else str(folder / "tensorboard"))

    def track(values: Mapping[str, Any], iteration: int) -> None:
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim == 3:
                writer.add_image(name, value, iteration, dataformats="HWC")
            else:
                writer.add_scalar(name, value, iteration)
        writer.flush()

    return track


def wandb(folder: Path | None) -> Tracker:
    """A run of Weights & Biases that continues with the folder's. Project, entity and mode come from the variables WANDB_*.

    Raises:
        ImportError: the package wandb is missing.
    """
    try:
        import wandb as package
    except ImportError as error:
        raise ImportError("the tracker 'wandb' needs: pip install wandb") from error
    name = None if folder is None else folder.resolve().name
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    run = package.init(dir=None if folder is None else str(folder), name=name, id=name, resume="allow")

    def track(values: Mapping[str, Any], iteration: int) -> None:
        run.log(
            {
                key: package.Image(value.numpy()) if isinstance(value, Tensor) and value.ndim == 3 else value
                for key, value in values.items()
            },
            step=iteration,
        )

    return track


TRACKERS: Mapping[str, Callable[[Path | None], Tracker]] = {"tensorboard": tensorboard, "wandb": wandb}


class Tracking:
    """The history file and the trackers of a run. A tracker that raises is left out from then on, and training goes on.

    Args:
        trackers: functions or names.
        folder: of the run; None for no file.
    """

    def __init__(self, trackers: Sequence[str | Tracker], folder: Path | None) -> None:
        for tracker in trackers:
            if not callable(tracker):
                as_one_of("log", tracker, TRACKERS, "a function of (values, iteration)")
        self.folder = folder
        self._trackers = [tracker if callable(tracker) else TRACKERS[tracker](folder) for tracker in trackers]

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def track(self, values: Mapping[str, Any], iteration: int) -> None:
        """Tell the trackers."""
        self._trackers = [tracker for tracker in self._trackers if _told(tracker, values, iteration)]

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of the history, for the file and the trackers."""
        if self.folder is not None:
            with open(self.folder / HISTORY, "a") as file:
                file.write(json.dumps(row) + "\n")
        self.track({name: value for name, value in row.items() if name != "iteration"}, int(row["iteration"]))

    def rewrite(self, history: Sequence[Mapping[str, Any]]) -> None:
        """The history file of a run that goes on from a checkpoint: lines after the checkpoint would come twice."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f"{HISTORY}.partial"
            partial.write_text("".join(json.dumps(row) + "\n" for row in history))
            os.replace(partial, self.folder / HISTORY)


def _told(tracker: Tracker, values: Mapping[str, Any], iteration: int) -> bool:
    """Whether a tracker took the values."""
    try:
        tracker(values, iteration)
    except Exception as error:  # whatever it is, hours of training are worth more
        warnings.warn(f"a tracker failed at iteration {iteration} and is left out: {error!r}", stacklevel=4)
        return False
    return True
