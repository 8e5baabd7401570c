"""`scoresde audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ...audit import Audit, run, sampler_of
from ...train.experiment import Experiment
from .. import report
from ..foreign import is_foreign, load_foreign
from ..options import output_folder, path


def audit(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="The short name of a solver, the file of a fitted one, or MODULE:NAME or FILE.py:NAME: a solver or its class, a function "
            "f(denoiser, z, sigmas), one of k-diffusion, a scheduler class of diffusers, a sampler of azula or ComfyUI.",
        ),
    ],
    order: Annotated[int | None, typer.Option(min=1, help="The order that the sampler claims.")] = None,
    calls_per_step: Annotated[int | None, typer.Option(min=1, help="The network calls in a step that it claims.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the sampler, in JSON or as text; repeat it.")
    ] = None,
    process: Annotated[
        Path | None,
        typer.Option(
            "--run",
            parser=path,
            metavar="RUN",
            help="The run that a fitted solver belongs to, where its process is none of the usual ones.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path, metavar="PATH", help="Folder for audit.md, audit.json and audit.png.")
    ] = None,
) -> None:
    """Audit samplers: is each what it says it is?

    Counts network calls; measures the order of convergence, the bias, and the noise left at the end; reads the coefficients of linear
    samplers and checks their order conditions; tries seeds, batches and precisions. Ends with exit code 1 if a property is broken. A sampler
    takes about five seconds.
    """
    claims: dict[str, Any] = {"order": order, "calls_per_step": calls_per_step, **dict(map(parse_option, option or []))}
    claims = {name: value for name, value in claims.items() if value is not None}
    if claims and (named := [target for target in targets if ":" not in target]):
        raise ValueError(
            f"--{next(iter(claims)).replace('_', '-')}: {named[0]} says its own order, calls and options; claims are for MODULE:NAME"
        )
    sde = None if process is None else load_foreign(process)[1].sde if is_foreign(process) else Experiment.read(process).sde()
    try:
        samplers = [sampler_of(target, sde=sde, **(claims if ":" in target else {})) for target in targets]
    except TypeError as error:  # no sampler, or an option of another type
        raise ValueError(str(error)) from error
    folder = output_folder(out) if out else None
    audits = list[Audit]()
    for sampler in samplers:
        audits.append(run(sampler))
        print(audits[-1].markdown())
    if folder:
        (folder / "audit.json").write_text(json.dumps([found.as_json() for found in audits], indent=2) + "\n")
        (folder / "audit.md").write_text("\n".join(found.markdown() for found in audits))
        written = "audit.md, audit.json"
        if curves := {found.sampler: found.curve for found in audits if found.curve}:
            report.save_error_plot(curves, folder / "audit.png", "error on data with wide modes")
            written += ", audit.png"
        print(f"written: {folder}/{written}")
    broken = {found.sampler: found.broken for found in audits if found.broken}
    for name, properties in broken.items():
        print(f"broken: {name}: {', '.join(properties)}")
    if broken:
        raise typer.Exit(1)


def parse_option(text: str) -> tuple[str, Any]:
    """The name and the value of NAME=VALUE.

    Raises:
        ValueError: there is no "=".
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--option {text}: must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
