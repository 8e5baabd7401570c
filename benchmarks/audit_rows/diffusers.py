"""Schedulers of diffusers. The claims are the numbers in their names and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scoresde.audit import Sampler

SPACINGS = ("leading", "linspace")
# Of other data, of their own pipelines, or with levels that cannot be given.
SKIPPED = {
    "DDIMInverseScheduler, DPMSolverMultistepInverseScheduler": "from data to noise",
    "KarrasVeScheduler, ScoreSdeVeScheduler, UnCLIPScheduler, CMStochasticIterativeScheduler": "steps with interfaces of their own",
    "LCMScheduler, FlowMatchLCMScheduler, FlowMapEulerDiscreteScheduler, SCMScheduler, PiflowScheduler": "for distilled networks",
    "FlowMatchHeunDiscreteScheduler, IPNDMScheduler, CosineDPMSolverMultistepScheduler": "hard-coded levels",
    "VQDiffusionScheduler, AmusedScheduler, BlockRefinementScheduler, EntropyBoundScheduler, DiscreteDDIMScheduler": "discrete data",
    "RePaintScheduler, CogVideoX*, Helios*, LTX*, MiniMax*, RFD4*, DDPMWuerstchenScheduler": "of one pipeline",
}


def entries() -> Iterator[tuple[str, str, dict[str, Any], int | None, int | None]]:
    """(class without "Scheduler", label, options, order, calls a step)."""
    for eta in (0.0, 0.5, 1.0):
        yield "DDIM", f"DDIM eta={eta}", {"eta": eta}, 1, 1
    yield "DDIMParallel", "DDIMParallel", {}, 1, 1
    for variance in ("fixed_small", "fixed_large", "fixed_small_log", "fixed_large_log"):
        yield "DDPM", f"DDPM {variance}", {"variance_type": variance}, 1, 1
    yield "DDPMParallel", "DDPMParallel", {}, 1, 1
    # Its paper proves order 2 (Liu et al. 2022, section 3.4), although its weights are those of order 4.
    yield "PNDM", "PNDM", {}, 2, 1
    yield "PNDM", "PNDM with Runge-Kutta steps", {"skip_prk_steps": False}, 2, 1
    yield "EulerDiscrete", "Euler", {}, 1, 1
    yield "EulerAncestralDiscrete", "Euler ancestral", {}, 1, 1
    yield "HeunDiscrete", "Heun", {}, 2, 2
    yield "KDPM2Discrete", "KDPM2", {}, 2, 2
    yield "KDPM2AncestralDiscrete", "KDPM2 ancestral", {}, 2, 2
    yield "LMSDiscrete", "LMS order=4", {}, 4, 1
    for order in (1, 2, 3):
        yield "LMSDiscrete", f"LMS order={order}", {}, order, 1
    yield "DPMSolverSDE", "DPM-Solver SDE", {}, 2, 2
    yield "TCD", "TCD eta=0", {"eta": 0.0}, 1, 1
    for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"):
        for order in (1, 2, 3):
            for kind in ("midpoint", "heun") if order > 1 else ("midpoint",):
                options = {"solver_order": order, "algorithm_type": algorithm, "solver_type": kind}
                yield "DPMSolverMultistep", f"DPMSolverMultistep {algorithm} {kind} order={order}", options, order, 1
    for algorithm in ("dpmsolver", "dpmsolver++", "sde-dpmsolver++"):
        for order in (1, 2, 3) if algorithm[:3] != "sde" else (1, 2):
            options = {"solver_order": order, "algorithm_type": algorithm}
            yield "DPMSolverSinglestep", f"DPMSolverSinglestep {algorithm} order={order}", options, order, None
    for order in (1, 2, 3):
        for kind in ("bh1", "bh2"):
            yield "UniPCMultistep", f"UniPC {kind} order={order}", {"solver_order": order, "solver_type": kind}, order, 1
        yield "DEISMultistep", f"DEIS order={order}", {"solver_order": order}, order, 1
        yield "EDMDPMSolverMultistep", f"EDM DPMSolverMultistep order={order}", {"solver_order": order}, order, 1
    for predictor, corrector in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        options = {"predictor_order": predictor, "corrector_order": corrector}
        for tau, function in enumerate((_no_noise, _full_noise)):
            label = f"SASolver predictor={predictor} corrector={corrector} tau={tau}"
            # Its own tau is a function of the index, for chains of 1000.
            yield "SASolver", label, {**options, "tau_func": function}, min(predictor, corrector), 1
    for solver in ("midpoint", "heun"):
        options = {"solver_order": 2, "solver_type": solver, "algorithm_type": "sde-dpmsolver++"}
        yield "EDMDPMSolverMultistep", f"EDM SDE DPMSolverMultistep {solver} order=2", options, 2, 1
    yield "EDMEuler", "EDM Euler", {}, 1, 1
    yield "FlowMatchEulerDiscrete", "FlowMatch Euler", {}, 1, 1
    yield "FlowMatchEulerDiscrete", "FlowMatch Euler stochastic", {"stochastic_sampling": True}, 1, 1
    spaced: tuple[tuple[str, str, dict[str, Any], int], ...] = (
        ("DDIM", "DDIM", {}, 1),
        ("DDPM", "DDPM", {}, 1),
        ("PNDM", "PNDM", {}, 2),
        ("EulerDiscrete", "Euler", {}, 1),
        ("EulerAncestralDiscrete", "Euler ancestral", {}, 1),
        ("HeunDiscrete", "Heun", {}, 2),
        ("LMSDiscrete", "LMS", {}, 4),
        ("DPMSolverMultistep", "DPM++ 2M", {}, 2),
        ("UniPCMultistep", "UniPC", {}, 2),
        ("DEISMultistep", "DEIS", {}, 2),
    )
    for cls, label, options, order in spaced:
        for spacing in SPACINGS:
            calls = 2 if cls == "HeunDiscrete" else 1
            yield cls, f"{label} {spacing}", {**options, "timestep_spacing": spacing}, order, calls


def _no_noise(t: object) -> int:
    return 0


def _full_noise(t: object) -> int:
    return 1


def rows() -> Iterator[Sampler]:
    """Every row.

    Raises:
        ImportError: diffusers is not installed.
    """
    import diffusers

    from scoresde.audit.hosts.diffusers import sampler_of

    for cls, label, options, order, calls in entries():
        # These end at the lowest level of the chain.
        exact_end = cls not in ("DEISMultistep", "SASolver", "TCD")
        yield sampler_of(getattr(diffusers, f"{cls}Scheduler"), f"diffusers {label}", order, calls, exact_end, **options)
