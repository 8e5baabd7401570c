"""What papers and other libraries call our solvers.

An alias is an equality: what is called so elsewhere has the same coefficients on the same noise levels above 0. The step to 0 is the plain data
prediction here. A solver of the same family with other coefficients is suggested, and not accepted.

Three families of names meet here: those of k-diffusion and ComfyUI (`sample_dpmpp_2m`), of the web UI ("DPM++ 2M"), and the classes of
diffusers (`DPMSolverMultistepScheduler`), with the options that these have by default.
"""

from __future__ import annotations

import re

from ..solvers import DEIS, DPMSolverPP, SDEDPMSolverPP, Solver, UniPC

# The published code weighs the previous data prediction by the midpoint rule. Our "dpm++2m", "sde-dpm++2m" and "unipc2" have the exact weights.
DPMPP_2M = DPMSolverPP(order=2, compat="midpoint")
DPMPP_2M_SDE = SDEDPMSolverPP(order=2, compat="midpoint")
UNIPC = UniPC(order=2, compat="midpoint")
LMS = DEIS(order=4, clock="r")

# Each name with a name of ours, or with a solver that has no short name.
ALIASES: dict[str, str | Solver] = {
    # k-diffusion and ComfyUI, and with spaces and "DPM++" for "dpmpp" the web UI
    "dpmpp_2m": DPMPP_2M,
    "dpmpp_2m_sde": DPMPP_2M_SDE,
    "dpmpp_2s": "dpm++2s",
    "dpmpp_2s_ancestral": "dpm++2s-ancestral",
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2-ancestral",
    "euler_ancestral": "ancestral-posterior",
    "lms": LMS,
    "unipc": UNIPC,
    # papers
    "ddpm": "ancestral",
    "dpmsolver++": DPMPP_2M,
    "sde-dpmsolver++": DPMPP_2M_SDE,
    # the web UI alone
    "DPM++ 2S a": "dpm++2s-ancestral",
    "DPM2 a": "dpm2-ancestral",
    "Euler a": "ancestral-posterior",
    # diffusers, also without "Scheduler"
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "DDPMScheduler": "ancestral-posterior",
    "DEISMultistepScheduler": "dpm2m",
    "DPMSolverMultistepScheduler": DPMPP_2M,
    "EDMDPMSolverMultistepScheduler": DPMPP_2M,
    "EDMEulerScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "ancestral-posterior",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "dpm2-ancestral",
    "KDPM2DiscreteScheduler": "dpm2",
    "LMSDiscreteScheduler": LMS,
    "UniPCMultistepScheduler": UNIPC,
}

# Names of solvers whose coefficients are not ours, each with the nearest ones of ours.
SIMILAR: dict[str, tuple[str, ...]] = {
    "deis": ("deis2", "deis3", "rho-deis3"),
    "dpm++": ("dpmpp_2m", "dpm++2m", "dpm++3m", "dpm++2s"),
    "dpm++ sde": ("seeds2", "sde-dpm++2m"),
    "dpmadaptive": ("adaptive",),
    "dpmfast": ("dpm3", "dpm2"),
    "dpmsolver": ("dpm2", "dpm3", "dpm2m", "dpmsolver++"),
    "DPMSolverSDEScheduler": ("seeds2", "sde-dpm++2m"),
    "DPMSolverSinglestepScheduler": ("dpm++2s", "dpm2"),
    "dpmpp_3m": ("dpm++3m",),
    "dpmpp_3m_sde": ("sde-dpm++3m",),
    "FlowMatchHeunDiscreteScheduler": ("heun",),
    "ipndm": ("ipndm3", "ipndm4"),
    "ode": ("adaptive", "heun"),
    "pndm": ("plms", "ipndm4"),
    "rk45": ("adaptive",),
    "sa": ("sa-solver",),
    "SASolverScheduler": ("sa-solver",),
    "sde": ("euler-maruyama", "sde-dpm++2m"),
}


# Solvers elsewhere of networks that were distilled.
DISTILLED = ("lcm", "tcd", "scm", "flowmatchlcm")


def folded(name: str) -> str:
    """A name without what its spellings differ in: case, hyphens, underscores and spaces, "pp" for "++", and "sample_" or "k_" before it."""
    plain = re.sub(r"^(sample|k)_|[-_ ]", "", name.lower().strip())
    return plain.replace("dpmpp", "dpm++").replace("solverpp", "solver++")
