"""Schedulers of diffusers, on a training chain that is made for the levels.

A scheduler takes its levels from a table over T indices and its own spacing of them. So the table is chosen such that timestep number i of the
scheduler has the level sigma(i/M): with equal strides, t_i = t_0 - i stride,

    sigma[j] = levels.sigma((t_0 - j) / (stride M)),    alpha-bar = 1/(1 + sigma^2).

A run that ends above sigma = 0 is the first M of about 4M/3 steps, so that a scheduler's last steps, which are of lower order, stay outside.
The network is told the level of the timestep that the scheduler names, log-linear between indices. The state that it sees is what
`scale_model_input` gives, in z = alpha x.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..levels import RHO, Levels
from ..sampler import Denoiser, Sampler

# Indices of the chain for each step; even, as some evaluate half a step on.
STRIDE = 4


def sampler_of(
    cls: type,
    name: str | None = None,
    order: int | None = None,
    calls_per_step: int | None = None,
    exact_end: bool = True,
    **options: Any,
) -> Sampler:
    """A scheduler class in diffusers' form: `set_timesteps`, `step`, and a constructor whose arguments are its configuration.

    Args:
        cls: the class.
        name, order, calls_per_step, exact_end: as in `Sampler`.
        **options: of the configuration, and of `step`.

    Raises:
        TypeError: it has no training chain, and is none of the classes with levels of their own that are known here.
    """
    arguments = set(inspect.signature(cls).parameters)
    takes = {method: set(inspect.signature(getattr(cls, method)).parameters) for method in ("set_timesteps", "step")}
    if "trained_betas" in arguments:
        run_on = run_chain
    elif {"sigma_data", "rho", "sigma_schedule"} <= arguments:
        run_on = run_edm
    elif "shift" in arguments and "sigmas" in takes["set_timesteps"]:
        run_on = run_flow
    else:
        raise TypeError(
            f"{cls.__name__} takes neither trained_betas nor levels: a scheduler with levels of its own cannot be audited"
        )
    if "order" in takes["step"] and order is not None:
        options["order"] = order
    return Sampler(
        name or f"diffusers {cls.__name__}",
        partial(run_on, cls, options),
        order,
        calls_per_step,
        # The noise prediction has no step to sigma = 0, and these schedulers refuse it.
        exact_end=exact_end and options.get("algorithm_type") not in ("dpmsolver", "sde-dpmsolver"),
        drawn_globally="generator" not in takes["step"],
    )


@dataclass(frozen=True)
class Chain:
    """A scheduler with a chain for some levels.

    Attributes:
        scheduler: ready to run.
        sigmas: of its table, `(T,)`.
        stop: how many of its timesteps belong to the run.
    """

    scheduler: Any
    sigmas: Tensor
    stop: int

    def told(self, t: Tensor) -> Tensor:
        """The level of a timestep, possibly between two indices."""
        place = float(t)
        j = min(max(math.floor(place), 0), len(self.sigmas) - 2)
        log_sigma = self.sigmas[j : j + 2].log()
        return torch.exp(log_sigma[0] + (place - j) * (log_sigma[1] - log_sigma[0]))


def run_chain(cls: type, options: dict[str, Any], denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
    """A run of a scheduler with a training chain."""
    config = {key: value for key, value in options.items() if key in inspect.signature(cls).parameters}
    chain = chain_for(cls, config, levels, steps)
    scheduler, step = chain.scheduler, stepping(chain.scheduler, options)
    # Some keep x itself as the state and hand out z = alpha x; the others keep z.
    keeps_x = float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), scheduler.timesteps[0])) < 0.999
    state = x if keeps_x else x * _alpha(chain.told(scheduler.timesteps[0])).to(x.dtype)
    for t in scheduler.timesteps[: chain.stop]:
        z, sigma = scheduler.scale_model_input(state, t), chain.told(t)
        alpha = _alpha(sigma)
        data = denoiser((z / alpha).to(x.dtype), sigma.expand(len(x)))
        noise = (z - alpha * data) / (alpha * sigma)
        state = step(noise.to(z.dtype), t, state)
    if keeps_x or levels.low == 0:
        return state
    return state / _alpha(torch.tensor(levels.low, dtype=torch.float64)).to(state.dtype)


def chain_for(cls: type, config: dict[str, Any], levels: Levels, steps: int) -> Chain:
    """The scheduler whose timesteps have the levels."""
    group = config.get("solver_order", 1) if "Singlestep" in cls.__name__ else 1
    run_steps = max(group, group * round(steps / group))
    total = run_steps if levels.low == 0 else group * math.ceil((4 * run_steps / 3 + 1) / group)
    for count in (STRIDE * total, STRIDE * total + 1, STRIDE * (total - 1) + 1):
        # Timesteps depend on the size of the chain and not on its levels, which are put in afterwards.
        timesteps = grid_of(made(cls, config, torch.linspace(80.0, 0.1, count, dtype=torch.float64).flip(0), total))
        strides = -timesteps.diff()
        if bool((strides == strides[:1]).all()) and float(strides[:1].sum()) == int(strides[:1].sum()):
            break
    else:
        count = STRIDE * total
        timesteps = grid_of(made(cls, config, torch.linspace(80.0, 0.1, count, dtype=torch.float64).flip(0), total))
    stride = float(strides[-1]) if len(strides) else float(STRIDE)
    index = torch.arange(count, dtype=torch.float64)
    sigmas = levels.sigma((timesteps[0] - index) / (stride * run_steps)).clamp(min=1e-8)
    scheduler = made(cls, config, sigmas, total)
    if levels.low == 0:
        return Chain(scheduler, sigmas, len(scheduler.timesteps))
    target = float(timesteps[0]) - stride * run_steps
    at = [k for k, t in enumerate(scheduler.timesteps) if abs(float(t) - target) < 0.5]
    # Where a timestep is named twice the first is the second call of the step before.
    return Chain(scheduler, sigmas, at[-1] if getattr(scheduler, "order", 1) == 2 else at[0])


def made(cls: Any, config: dict[str, Any], sigmas: Tensor, steps: int) -> Any:
    """The scheduler with this table, and its timesteps."""
    alpha_bar = 1 / (1 + sigmas**2)
    betas = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    defaults = {
        "timestep_spacing": "trailing",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "final_sigmas_type": "sigma_min" if config.get("algorithm_type") in ("dpmsolver", "sde-dpmsolver") else "zero",
        "lambda_min_clipped": -math.inf,
        "skip_prk_steps": True,
        "noise_sampler_seed": torch.initial_seed() % 2**31,
        "original_inference_steps": steps,
        "timestep_scaling": 10.0,
    }
    arguments = set(inspect.signature(cls).parameters)
    scheduler = cls(
        num_train_timesteps=len(sigmas),
        trained_betas=betas.clamp(1e-12, 1 - 1e-12).tolist(),
        **{key: value for key, value in defaults.items() if key in arguments and key not in config},
        **config,
    )
    # Its own products of float32 betas would be another table.
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, alpha_bar
    for name, table in (("alpha_t", alpha_bar.sqrt()), ("sigma_t", (1 - alpha_bar).sqrt())):
        if hasattr(scheduler, name):
            setattr(scheduler, name, table)
    if hasattr(scheduler, "lambda_t"):
        scheduler.lambda_t = torch.log(scheduler.alpha_t) - torch.log(scheduler.sigma_t)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    if hasattr(scheduler, "one"):
        scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    return scheduler


def grid_of(scheduler: Any) -> Tensor:
    """The timesteps at which steps start, `(N,)` float64: every second where a step has two calls, each once."""
    timesteps = scheduler.timesteps.double()
    return timesteps[::2] if getattr(scheduler, "order", 1) == 2 else torch.unique_consecutive(timesteps)


def run_edm(cls: Any, options: dict[str, Any], denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
    """A run of a scheduler with the levels and the preconditioning of EDM, which are x and sigma themselves.

    The network's output F has D = c_skip x + c_out F, with sigma_data = 0.5.
    """
    sigmas = levels.sigmas(steps)
    # The formula of its levels is ours, over as many levels as calls: the last one of a run to 0 is not among them.
    count, last = (steps, float(sigmas[-2])) if levels.low == 0 else (steps + 1, levels.low)
    scheduler = cls(sigma_min=last, sigma_max=levels.high, sigma_data=0.5, rho=RHO, sigma_schedule="karras", **options)
    scheduler.set_timesteps(count)
    step, state = stepping(scheduler, options), x
    for t in scheduler.timesteps[:steps]:
        told = torch.exp(4 * t.double())
        denominator = told**2 + 0.25
        data = denoiser(state, told.expand(len(x)))
        # A call to the host's own scaling only counts the step.
        scheduler.scale_model_input(state, t)
        output = (data - 0.25 / denominator * state) / (0.5 * told / denominator.sqrt())
        state = step(output.to(state.dtype), t, state)
    return state


def run_flow(cls: Any, options: dict[str, Any], denoiser: Denoiser, x: Tensor, levels: Levels, steps: int) -> Tensor:
    """A run of a scheduler of flows: z = (1 - s) x with s = sigma/(1 + sigma), and the velocity eps - x_0 = (z - D)/s."""
    sigmas = levels.sigmas(steps)
    s = sigmas / (1 + sigmas)
    scheduler = cls(shift=1.0, **{key: value for key, value in options.items() if not key.startswith("s_")})
    scheduler.set_timesteps(sigmas=(s[:-1] if levels.low == 0 else s).tolist())
    step, state = stepping(scheduler, options), x * (1 - s[0]).to(x.dtype)
    for t in scheduler.timesteps[:steps]:
        told = t.double() / scheduler.config.num_train_timesteps
        data = denoiser((state / (1 - told)).to(x.dtype), (told / (1 - told)).expand(len(x)))
        state = step(((state - data) / told).to(state.dtype), t, state)
    return state / (1 - s[-1]).to(state.dtype)


def stepping(scheduler: Any, options: dict[str, Any]) -> Any:
    """`scheduler.step` as a function of (output, timestep, state), with noise that the seed of torch's global state decides."""
    names = inspect.signature(scheduler.step).parameters
    extra: dict[str, Any] = {key: value for key, value in options.items() if key in names}
    if "generator" in names:
        extra["generator"] = torch.Generator().manual_seed(torch.initial_seed())
    return lambda output, t, state: scheduler.step(output, t, state, **extra).prev_sample


def _alpha(sigma: Tensor) -> Tensor:
    """alpha of z = alpha x on a variance-preserving path."""
    return (1 + sigma**2).rsqrt()
