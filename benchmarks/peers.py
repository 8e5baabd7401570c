"""The configurations of diffusers, k-diffusion and azula that a user would try, each as a function of (model, z, calls).

All start from the same state, see the same model and run on the same chain. Returns of a run: the samples and the network calls that it
really made.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import scoresde as ss

Run = Callable[[ss.Model, Tensor, int], tuple[Tensor, int]]


def last(sde: ss.SDE, model: ss.Model) -> float:
    """The smallest time at which a model may be asked."""
    return sde.t_min if isinstance(model, ss.ScoreModel) else float(sde.time(math.log(1e3)))


# --- diffusers ---------------------------------------------------------------------------------------------------------


def _diffusers(
    make: Callable[..., object], per_step: int, options: dict, model: ss.Model, z: Tensor, nfe: int
) -> tuple[Tensor, int]:
    sde = model.sde
    assert isinstance(sde, ss.VPSDE)
    common = {"trained_betas": sde.betas.tolist(), "num_train_timesteps": len(sde.betas), "prediction_type": "v_prediction"}
    scheduler: object = make(**common, **options)
    scheduler.set_timesteps((nfe + per_step - 1) // per_step)
    x, calls = z * float(scheduler.init_noise_sigma), 0
    sigmas = getattr(scheduler, "sigmas", None)
    generator = torch.Generator().manual_seed(2)
    stochastic = "generator" in scheduler.step.__code__.co_varnames
    for i, t in enumerate(scheduler.timesteps):
        state = scheduler.scale_model_input(x, t)
        time = (float(t) + 1) / len(sde.betas)
        if sigmas is not None and len(sigmas) > i:
            time = float(sde.time(-math.log(float(sigmas[i]))))
        velocity = model.velocity(state, min(time, 1.0))
        x = scheduler.step(velocity, t, x, **({"generator": generator} if stochastic else {})).prev_sample
        calls += 1
    return x, calls


def diffusers_ode() -> Iterator[tuple[str, Run]]:
    """Deterministic schedulers over order and spacing."""
    import diffusers as d

    trailing, karras, lu = {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}, {"use_lu_lambdas": True}
    exponential = {"use_exponential_sigmas": True}
    zero = {"final_sigmas_type": "zero"}
    made: dict[str, tuple[object, int, dict]] = {
        "DDIM trailing": (d.DDIMScheduler, 1, {"clip_sample": False, **trailing}),
        "PNDM": (d.PNDMScheduler, 1, {"skip_prk_steps": True}),
        "Euler": (d.EulerDiscreteScheduler, 1, trailing),
        "Euler karras": (d.EulerDiscreteScheduler, 1, karras),
        "Heun": (d.HeunDiscreteScheduler, 2, trailing),
        "Heun karras": (d.HeunDiscreteScheduler, 2, karras),
        "LMS": (d.LMSDiscreteScheduler, 1, trailing),
        "LMS karras": (d.LMSDiscreteScheduler, 1, karras),
    }
    for order in (2, 3):
        for suffix, options in (("", trailing), (" karras", karras), (" exponential", exponential), (" lu", lu)):
            made[f"DPM++ {order}M{suffix}"] = (d.DPMSolverMultistepScheduler, 1, {"solver_order": order, **zero, **options})
        for suffix, options in (("", trailing), (" karras", karras), (" exponential", exponential)):
            made[f"UniPC-{order}{suffix}"] = (d.UniPCMultistepScheduler, 1, {"solver_order": order, **zero, **options})
            made[f"DEIS-{order}{suffix}"] = (d.DEISMultistepScheduler, 1, {"solver_order": order, **options})
    for name, (make, per_step, options) in made.items():
        yield f"diffusers {name}", partial(_diffusers, make, per_step, options)


def diffusers_sde() -> Iterator[tuple[str, Run]]:
    """Stochastic schedulers."""
    import diffusers as d

    trailing, zero = {"timestep_spacing": "trailing"}, {"final_sigmas_type": "zero"}
    made = {
        "DDPM": (d.DDPMScheduler, {"clip_sample": False, **trailing}),
        "Euler ancestral": (d.EulerAncestralDiscreteScheduler, trailing),
        "SDE-DPM++ 2M": (d.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", **zero, **trailing}),
        "SDE-DPM++ 2M karras": (
            d.DPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True, **zero},
        ),
        "SA-Solver": (d.SASolverScheduler, trailing),
    }
    for name, (make, options) in made.items():
        yield f"diffusers {name}", partial(_diffusers, make, 1, options)


# --- k-diffusion -------------------------------------------------------------------------------------------------------


def k_diffusion() -> types.ModuleType | None:
    """Its sampling module alone: the package's own __init__ imports wandb, kornia and more, which sampling does not need."""
    import site

    root = next((Path(p) / "k_diffusion" for p in site.getsitepackages() if (Path(p) / "k_diffusion").is_dir()), None)
    if root is None or importlib.util.find_spec("torchdiffeq") is None:
        return None
    package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = [str(root)]
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    package.utils = utils
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def _k_diffusion(
    k: types.ModuleType, sampler: Callable, grid: str, per_step: int, model: ss.Model, z: Tensor, nfe: int
) -> tuple[Tensor, int]:
    sde, calls = model.sde, 0
    high, low = (math.exp(-float(sde.half_log_snr(t))) for t in (1.0, sde.t_min))

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        t = min(float(sde.time(-math.log(float(sigma[0])))), 1.0)
        return model.data(float(sde.alpha(t)) * x, t)

    steps = (nfe + per_step - 1) // per_step
    sigmas = getattr(k, f"get_sigmas_{grid}")(steps, low, high) if grid != "vp" else k.get_sigmas_vp(steps)
    if grid == "vp":
        sigmas = sigmas * (high / float(sigmas[0])) if float(sigmas[0]) > high else sigmas
    torch.manual_seed(2)
    x = sampler(denoiser, z / float(sde.alpha(1.0)), sigmas.to(z.dtype), disable=True)
    return x, calls


def k_diffusion_ode() -> Iterator[tuple[str, Run]]:
    """Deterministic samplers on its own spacings."""
    if (k := k_diffusion()) is None:
        return
    for name, per_step in (("euler", 1), ("heun", 2), ("dpm_2", 2), ("lms", 1), ("dpmpp_2m", 1)):
        for grid in ("karras", "exponential", "vp"):
            yield f"k-diffusion {name} {grid}", partial(_k_diffusion, k, getattr(k, f"sample_{name}"), grid, per_step)


def k_diffusion_sde() -> Iterator[tuple[str, Run]]:
    """Stochastic samplers."""
    if (k := k_diffusion()) is None:
        return
    for name, per_step in (
        ("euler_ancestral", 1),
        ("dpm_2_ancestral", 2),
        ("dpmpp_2s_ancestral", 2),
        ("dpmpp_sde", 2),
        ("dpmpp_2m_sde", 1),
        ("dpmpp_3m_sde", 1),
    ):
        for grid in ("karras", "exponential"):
            yield f"k-diffusion {name} {grid}", partial(_k_diffusion, k, getattr(k, f"sample_{name}"), grid, per_step)


# --- azula -------------------------------------------------------------------------------------------------------------


def _azula(sampler: Callable, options: dict, per_step: int, model: ss.Model, z: Tensor, nfe: int) -> tuple[Tensor, int]:
    from azula.denoise import Denoiser, DiracPosterior

    sde, end, calls = model.sde, last(model.sde, model), 0

    def at(t: Tensor) -> Tensor:
        return end + t.double() * (1 - end)

    class Wrapped(Denoiser):
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return sde.alpha(at(t)).to(z.dtype), sde.sigma(at(t)).to(z.dtype)

        def forward(self, x: Tensor, t: Tensor) -> DiracPosterior:
            nonlocal calls
            calls += 1
            return DiracPosterior(model.data(x, float(at(t))))

    torch.manual_seed(2)
    x = sampler(Wrapped(), steps=max(1, nfe // per_step), silent=True, dtype=torch.float64, **options)(z)
    return x / float(sde.alpha(end)), calls


def azula_ode() -> Iterator[tuple[str, Run]]:
    """Deterministic samplers on its uniform times."""
    import azula.sample as a

    for name in ("DDIM", "Euler", "Heun"):
        yield f"azula {name}", partial(_azula, getattr(a, f"{name}Sampler"), {}, 2 if name == "Heun" else 1)
    for name in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        for order in (2, 3):
            yield f"azula {name}-{order}", partial(_azula, getattr(a, f"{name}Sampler"), {"order": order}, 1)


def azula_sde() -> Iterator[tuple[str, Run]]:
    """Stochastic samplers."""
    import azula.sample as a

    for label, name, options in (("DDPM", "DDPM", {}), ("DDIM eta=1", "DDIM", {"eta": 1.0}), ("Ito", "Ito", {})):
        yield f"azula {label}", partial(_azula, getattr(a, f"{name}Sampler"), options, 1)


def _installed(*sources: Callable[[], Iterator[tuple[str, Run]]]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for source in sources:
        with contextlib.suppress(ImportError):
            runs.update(source())
    return runs


def deterministic() -> dict[str, Run]:
    """Every deterministic configuration of the peers that are installed."""
    return _installed(diffusers_ode, k_diffusion_ode, azula_ode)


def stochastic() -> dict[str, Run]:
    """Every stochastic one."""
    return _installed(diffusers_sde, k_diffusion_sde, azula_sde)
