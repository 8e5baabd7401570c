"""The configurations that users of diffusers and azula try on a flow-matching network, and of diffusers and k-diffusion on one of EDM.

Each is a function of (model, z, calls), as in `peers.py`: z is the state at t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import peers
from torch import Tensor

import scoresde as ss


def _flow(make: Callable[..., object], per_step: int, options: dict, model: ss.Model, z: Tensor, nfe: int) -> tuple[Tensor, int]:
    """A scheduler of diffusers on flow sigmas, which are the times of the rectified flow."""
    scheduler: object = make(**options)
    scheduler.set_timesteps((nfe + per_step - 1) // per_step)
    x, calls = z, 0
    for t in scheduler.timesteps:
        x = scheduler.step(model.velocity(x, min(float(t) / 1000, 1.0)), t, x).prev_sample
        calls += 1
    return x, calls


def diffusers_flow() -> Iterator[tuple[str, peers.Run]]:
    """Deterministic schedulers over order and shift."""
    import diffusers as d

    for shift in (1.0, 3.0):
        yield f"diffusers FlowMatchEuler shift {shift:g}", partial(_flow, d.FlowMatchEulerDiscreteScheduler, 1, {"shift": shift})
        yield f"diffusers FlowMatchHeun shift {shift:g}", partial(_flow, d.FlowMatchHeunDiscreteScheduler, 2, {"shift": shift})
        common = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
        for order in (2, 3):
            made = {
                f"DPM++ {order}M": (d.DPMSolverMultistepScheduler, {"final_sigmas_type": "zero"}),
                f"UniPC-{order}": (d.UniPCMultistepScheduler, {"final_sigmas_type": "zero"}),
                f"DEIS-{order}": (d.DEISMultistepScheduler, {}),
            }
            for name, (make, options) in made.items():
                yield f"diffusers {name} shift {shift:g}", partial(_flow, make, 1, {"solver_order": order, **common, **options})


def _edm(make: Callable[..., object], options: dict, model: ss.Model, z: Tensor, nfe: int) -> tuple[Tensor, int]:
    """A scheduler of diffusers for EDM, which is given F and does the preconditioning itself."""
    sde = model.sde
    scale = model.prediction.sigma_data if isinstance(model.prediction, ss.sde.Preconditioned) else 0.5
    scheduler: object = make(sigma_min=sde.sigma_min, sigma_max=sde.sigma_max, sigma_data=scale, **options)
    scheduler.set_timesteps(nfe)
    x = z / sde.prior_std * float(scheduler.init_noise_sigma)
    for i, t in enumerate(scheduler.timesteps):
        sigma = float(scheduler.sigmas[i])
        scheduler.scale_model_input(x, t)
        time = min(float(sde.time(-math.log(sigma))), 1.0)
        x = scheduler.step(_f(model, x, time, sigma, scale), t, x).prev_sample
    return x, len(scheduler.timesteps)


def _f(model: ss.Model, x: Tensor, t: float, sigma: float, scale: float) -> Tensor:
    """F with D = c_skip x + c_out F."""
    total = sigma**2 + scale**2
    return (model.data(x, t) - scale**2 / total * x) / (sigma * scale / math.sqrt(total))


def diffusers_edm() -> Iterator[tuple[str, peers.Run]]:
    """Euler and DPM++ on both of their spacings."""
    import diffusers as d

    for schedule in ("karras", "exponential"):
        yield f"diffusers EDM Euler {schedule}", partial(_edm, d.EDMEulerScheduler, {"sigma_schedule": schedule})
        for order in (2, 3):
            options = {"solver_order": order, "sigma_schedule": schedule, "final_sigmas_type": "zero"}
            yield f"diffusers EDM DPM++ {order}M {schedule}", partial(_edm, d.EDMDPMSolverMultistepScheduler, options)


def deterministic(sde: ss.SDE) -> dict[str, peers.Run]:
    """Every deterministic configuration of the peers for this process."""
    if isinstance(sde, ss.RectifiedFlow):
        return dict([*diffusers_flow(), *peers.azula_ode()])
    if isinstance(sde, ss.EDM):
        return dict([*diffusers_edm(), *peers.k_diffusion_ode()])
    return peers.deterministic()
