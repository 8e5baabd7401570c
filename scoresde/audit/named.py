"""The sampler that a user means: a name of ours, a file, `module:name`, a class or a function."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..loops import LoopSolver
from ..numerics.modules import module_of
from ..sampling.registry import resolve
from ..sde.base import SDE
from ..sde.families import EDM, RectifiedFlow
from ..sde.fingerprint import require_same_process
from ..sde.vp import VPSDE
from ..solvers.base import Solver
from ..solvers.tuned import TunedSolver
from .hosts import functions, ours
from .hosts.azula import sampler_of as of_azula
from .hosts.diffusers import sampler_of as of_scheduler
from .sampler import Sampler


def sampler_of(target: Any, *, sde: SDE | None = None, **claims: Any) -> Sampler:
    """What `target` names, as a sampler to audit.

    Args:
        target: the short name of one of our solvers, the solver, or a class of them; the file of a fitted one; "module:name" of what follows; a
            scheduler class of diffusers; a sampler class of azula; a function f(denoiser, z, sigmas) or one of k-diffusion; a sampler object of
            ComfyUI.
        sde: the process of a fitted solver. By default one of the usual ones that it fits.
        **claims: `name`, `order` and `calls_per_step`, and options of the sampler, for targets that are not ours.

    Raises:
        ValueError: there is none of this name.
        TypeError: it is no sampler.
    """
    if isinstance(target, str | os.PathLike):
        text = os.fspath(target)
        if ":" in text and not Path(text).exists():
            return sampler_of(imported(text), sde=sde, **{"name": text, **claims})
        solver = resolve(text)
        if solver is None:
            raise ValueError("'default' is a choice by the budget: audit the solver that it takes")
        return ours.sampler_of(solver, f"scoresde {Path(text).name}", sde or usual_process(solver))
    if isinstance(target, type) and issubclass(target, Solver | LoopSolver):
        target = target()
    if isinstance(target, Solver | LoopSolver):
        return ours.sampler_of(target, sde=sde or usual_process(target))
    if isinstance(target, type) and hasattr(target, "set_timesteps") and hasattr(target, "step"):
        return of_scheduler(target, **claims)
    if isinstance(target, type) and any(base.__module__ == "azula.sample" for base in target.__mro__):
        return of_azula(target, **claims)
    return functions.sampler_of(target, **claims)


def imported(text: str) -> Any:
    """The object `name` of "module:name" or "file.py:name", as `numerics.modules.module_of` finds the module.

    Raises:
        ValueError: there is no such module or name.
    """
    source, _, name = text.partition(":")
    try:
        found: Any = module_of(source)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError) as error:
        raise ValueError(f"{text}: {error}") from None
    return found


def usual_process(solver: Solver | LoopSolver) -> SDE | None:
    """The process of a fitted solver among the usual ones; None for other solvers.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(solver, TunedSolver):
        return None
    ddpm = VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    for sde in (VPSDE(), ddpm, VPSDE.cosine(), EDM(), RectifiedFlow()):
        try:
            require_same_process(solver.process, sde, "")
        except ValueError:
            continue
        return sde
    raise ValueError("this solver is of a process that is none of the usual ones: give sde=, or --run on the command line")
