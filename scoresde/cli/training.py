"""What `scoresde train` says before it begins, and where it saves."""

from __future__ import annotations

from pathlib import Path

from ..data import NAMES
from ..train.experiment import Experiment
from ..train.trainer import Trainer


def default_folder(data: str) -> Path:
    """`runs/` and the name of the data set, its folder or its file."""
    source = Path(data).resolve()
    return Path("runs") / (data if data in NAMES else source.stem if source.is_file() else source.name)


def summary(experiment: Experiment, trainer: Trainer, folder: Path, before: int | None) -> str:
    """The data, the network and the iterations of a run that begins or goes on, a few lines.

    Args:
        experiment: of the folder.
        trainer: before its run.
        folder: of the run.
        before: iterations that the run was to have so far; None for a new one.
    """
    held_out = 0 if trainer.held_out is None else len(trainer.held_out)
    rows = len(trainer.source) // (2 if experiment.mirrored else 1)  # type: ignore[arg-type]
    mirrored = ", each with its mirror image" if experiment.mirrored else ""
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    lines = {
        "data": f"{experiment.data}: {rows + held_out} {'images' if len(experiment.event) == 3 else 'samples'} of shape "
        f"{' x '.join(map(str, experiment.event))}, {_classes(experiment)}",
        "split": f"{rows} for training{mirrored}, {held_out} held out",
        "network": f"{experiment.network if len(experiment.event) == 3 else 'mlp'} with {parameters:,} parameters",
        "device": f"{trainer.model.device}, {trainer.processes} process{'es' if trainer.processes > 1 else ''}",
        "folder": str(folder),
        "iterations": f"{trainer.iteration} -> {experiment.recipe.iterations}",
    }
    if len(experiment.event) == 1 and rows + held_out < experiment.event[0]:
        lines["data"] += ". Fewer samples than numbers in each: samples are rows; is the array transposed?"
    if trainer.iteration == experiment.recipe.iterations:
        lines["iterations"] += ": all are done, more --iterations go on from here"
    recipe = experiment.recipe
    if before is not None and trainer.iteration > 0 and before != recipe.iterations and recipe.final_rate < 1:
        lines["rate"] = (
            f"goes on at {recipe.rate(trainer.iteration):.1e}, as in a run of {recipe.iterations} iterations from the beginning; so far "
            f"it fell as in a run of {before}"
        )
    return "\n".join(f"{name:>10}  {text}" for name, text in lines.items())


def _classes(experiment: Experiment) -> str:
    if experiment.classes is None:
        return "no classes"
    return f"{experiment.classes} classes" + (
        "" if experiment.conditional else " that are not used: --conditional trains with them"
    )
