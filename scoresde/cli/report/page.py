"""The Markdown pages of a comparison and of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from ...sde.vp import VPChain
from ...train.experiment import Experiment
from ..foreign import Foreign
from .diagnosis import RANGE_CALLS, Diagnosis


def markdown(run: Path, experiment: Experiment, table: str, note: str, curves: bool) -> str:
    """The text of `report.md`: the training run, the table and the pictures."""
    plot = "\n## Error against network calls\n\n![error](error.png)\n" if curves else ""
    return f"""# {run.name}: one network, several solvers

{_trained(experiment)}

{table}

{note}

## Samples

Each row is a solver, each column a seed.

![samples](compare.png)
{plot}"""


def diagnosis_markdown(run: Path, experiment: Experiment, table: str, note: str, verdicts: Sequence[str]) -> str:
    """The text of `diagnosis.md`: the training run, the densities, the picture and what it shows."""
    listed = "\n".join(f"- {verdict}" for verdict in verdicts)
    return f"""# {run.name}: a diagnosis

{_trained(experiment)}

## Densities of held-out samples

{table}

{note}

## Along the path

![loss, Fokker-Planck residual and asymmetry against t](diagnosis.png)

{listed}
"""


def density_table(diagnosis: Diagnosis, bins: int | None) -> tuple[str, str]:
    """The densities as a table, and a note that explains its numbers."""
    columns = ["", "nats", "+-"] + (["bits per dimension", "+-"] if bins else [])
    rows = [[value for value in row if value is not None] for row in diagnosis.densities]
    note = f"Means over {diagnosis.samples} held-out samples with their standard errors. " + (
        f"Log probabilities of the bins, {bins} levels from -1 to 1. All are lower bounds, those of the probability flow because its log "
        "density is averaged over noise in the bin."
        if bins
        else "Log densities in the units of the data."
    )
    if diagnosis.given:
        note += f" Each is of a sample given its {' and '.join(diagnosis.given)}."
    note += f" Range, {RANGE_CALLS} network calls: {diagnosis.range.verdict}."
    return tabulate(rows, headers=columns, tablefmt="github", floatfmt=("", ".2f", ".2f", ".4f", ".4f")), note


def process_text(experiment: Experiment) -> str:
    """The process of a run, with the length of a chain."""
    chain = isinstance(experiment.sde(), VPChain)
    return f"{experiment.process} chain of {experiment.steps} steps" if chain else experiment.process


def _trained(experiment: Experiment) -> str:
    """A sentence about the training run."""
    if isinstance(experiment, Foreign):
        return f"Converted from `{experiment.origin}`: {experiment.process}."
    recipe = experiment.recipe
    return f"""Trained on `{experiment.data}` ({experiment.held_out} samples held out): {process_text(experiment)},
{experiment.prediction} prediction, {recipe.iterations} iterations of {recipe.batch_size} samples, seed {recipe.seed}."""
