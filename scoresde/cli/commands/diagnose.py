"""`scoresde diagnose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...numerics.batching import cond_to_device
from ...sde.vp import VPChain
from .. import report
from ..options import DeviceOption, NetworkOption, RunFolder, default_device, load_run, output_folder, path


def diagnose(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(parser=path, metavar="PATH", help="Folder for diagnosis.md, .json and .png; by default RUN.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Most held-out samples, and most training samples, to use.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise, times and probes.")] = 0,
    network: NetworkOption = None,
    device: DeviceOption = default_device(),
) -> None:
    """Diagnose a RUN on a chain by held-out samples.

    Prints the held-out log-likelihood and its bounds in nats, and in bits per dimension for quantised data. Plots the loss against time, and
    two errors of the network as a score: the residual of the Fokker-Planck equation and the asymmetry of the Jacobian. Says what they mean.
    """
    experiment, model = load_run(run, device, network=network)
    if not isinstance(model.sde, VPChain):
        raise ValueError(
            f"{run} is on {model.sde!r}: diagnose takes chains (train --process linear or cosine); check "
            "takes every run, and so does ss.log_likelihood in Python"
        )
    out = output_folder(out or run)
    training, held_out = (part[:samples] for part in experiment.load_data())
    result = report.diagnose(
        model, training.x.to(model.device), held_out.x.to(model.device), bins=held_out.bins, weighting=experiment.recipe.weighting,
        seed=seed,
        training_cond=cond_to_device(experiment.condition(training), model.device),
        held_out_cond=cond_to_device(experiment.condition(held_out), model.device),
    )  # fmt: skip
    report.save_diagnosis(result, out / "diagnosis.png")
    (out / "diagnosis.json").write_text(json.dumps(result.as_json(), indent=2) + "\n")
    table, note = report.density_table(result, held_out.bins)
    verdicts = report.verdicts(result)
    (out / "diagnosis.md").write_text(report.diagnosis_markdown(run, experiment, table, note, verdicts))
    print(f"{table}\n\n{note}\n")
    print("\n".join(verdicts))
    print(f"\nwritten: {out}/diagnosis.md, diagnosis.json, diagnosis.png")
