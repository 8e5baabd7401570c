"""The page that a comparison leaves behind."""

from __future__ import annotations

from pathlib import Path

from ..experiment import Experiment


def markdown(run: Path, experiment: Experiment, table: str, note: str, curves: bool) -> str:
    """`report.md`: what was trained, the table, the pictures."""
    recipe = experiment.recipe
    plot = "\n## Error against network calls\n\n![error](error.png)\n" if curves else ""
    return f"""# {run.name}: one network, several solvers

Trained on `{experiment.data}` ({experiment.held_out} samples held out): {experiment.process} chain of {experiment.steps} steps,
{experiment.prediction} prediction, {recipe.iterations} iterations of {recipe.batch_size} samples, seed {recipe.seed}.

{table}

{note}

## Samples

One row a solver; the same column has the same seed.

![samples](compare.png)
{plot}"""
