"""Solvers as samplers of k-diffusion, ComfyUI and the web UI. Neither of them is imported.

Their contract is `sample(model, x, sigmas, extra_args, callback, ...)` with `model(x, sigma, **extra_args)` the data prediction D. Their x is a
state of one of two paths, and a solver runs on it:

    x = x_0 + s eps                 EDM, with t = s/s_0                z = x
    x = (1 - s) x_0 + s eps         RectifiedFlow, with t = s          z = x       models that are trained as flows
    x = z/alpha,  s = sigma/alpha   the path of a fitted solver        z = alpha x
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import Time
from ..numerics.random import NoiseSource
from ..sampling.planning import AnySolver, plan
from ..sampling.plans import TablePlan
from ..sampling.registry import SOLVERS, name_of, resolve
from ..sde.base import SDE
from ..sde.families import EDM, RectifiedFlow
from ..sde.fingerprint import require_same_process
from ..sde.vp import VPSDE, VPChain
from ..solvers.base import Solver
from ..solvers.tuned import TunedSolver
from ..tableau.executor import run
from ..tableau.tableau import Tableau

__all__ = ["ScoresdeSampler", "as_k_diffusion_sampler", "comfy_node_classes"]

NoiseSampler = Callable[[Tensor, Tensor], Tensor]
# By how much the first sigma of the host may differ from the one that a fitted solver starts at.
START_TOLERANCE = 1e-3


def as_k_diffusion_sampler(
    solver: str | PathLike[str] | AnySolver | None = None, *, sde: SDE | None = None, flow: bool | None = None
) -> Callable[..., Tensor]:
    """`solver` as a function with the signature of `k_diffusion.sampling.sample_euler`.

    Repeated sigmas are dropped, as a step of length 0 costs a call and does nothing. One sigma returns `x`. Noise comes from `noise_sampler`,
    called with the two sigmas of an interval that no other draw shares; else from a generator with `extra_args["seed"]`; else from torch's
    global state, as is usual there.

    A fitted or selected solver has its own times. It takes the number of sigmas and their first one as checks.

    Args:
        solver: a solver that is a table, its name, the file of a fitted one, or None for the default.
        sde: the path of a fitted solver. By default the chain of the host's model, or a rectified flow where it is one.
        flow: whether x is a state of a rectified flow. By default what the model says of itself: in ComfyUI a `model_sampling` of the class
            `CONST`.

    Raises:
        TypeError: the solver is no table.
    """
    made = resolve(str(solver)) if isinstance(solver, str | PathLike) else solver
    if made is not None and not isinstance(made, Solver):
        raise TypeError(f"{made} is no table of coefficients: a host's loop over sigmas runs tables only")

    @torch.no_grad()
    def sample(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
        noise_sampler: NoiseSampler | None = None,
    ) -> Tensor:
        kept = falling([float(sigma) for sigma in sigmas])
        if len(kept) < 2:
            return x
        extra = dict(extra_args or {})
        is_flow = is_flow_model(model) if flow is None else flow
        if isinstance(made, TunedSolver):
            path = sde or host_path(model, is_flow)
            table, to_sigma = tuned_table(made, path, kept, is_flow), sigma_of(path, is_flow)
        else:
            path = host_edm(kept) if not is_flow else RectifiedFlow()
            to_sigma = sigma_of(path, is_flow)
            times = torch.tensor(kept, dtype=torch.float64, device="cpu") / (1 if is_flow else kept[0])
            planned = plan(path, made, grid=times, event=x.shape[1:])
            assert isinstance(planned, TablePlan)
            table = planned.tableau
        denoised = Denoised(model, path, to_sigma, extra)
        noise = SamplerNoise(draw_intervals(table, to_sigma), noise_sampler or default_noise(extra.get("seed"), x), x)
        scale = denoised.scale(table.times[0])

        def report(n: int, t: float, z: Tensor, data: Tensor) -> None:
            assert callback is not None
            start, call = (x.new_tensor(to_sigma(s)) for s in (table.times[table.grid_states[n]], t))
            callback({"x": z / denoised.scale(t), "i": n, "sigma": start, "sigma_hat": call, "denoised": data})

        end = run(table, denoised, scale * x, noise, callback=report if callback is not None else None).x
        return end / denoised.scale(table.times[-1])

    sample.__name__ = f"sample_{'default' if made is None else name_of(made)}"
    return sample


class Denoised(Model):
    """The host's model as one that predicts the data, on a path of ours."""

    prediction = "data"

    def __init__(self, model: Any, sde: SDE, to_sigma: Callable[[float], float], extra: dict[str, Any]) -> None:
        self.model, self.sde, self.to_sigma, self.extra = model, sde, to_sigma, extra

    def scale(self, t: float) -> float:
        """z/x at time t: alpha where the host's state is z/alpha, and 1 on a rectified flow."""
        return 1.0 if isinstance(self.sde, RectifiedFlow) else float(self.sde.alpha(t))

    def output(self, z: Tensor, t: Time, **cond: object) -> Tensor:
        time = float(t)
        denoised: Tensor = self.model(z / self.scale(time), z.new_full((len(z),), self.to_sigma(time)), **self.extra)
        return denoised


class SamplerNoise:
    """Noise of a host's `noise_sampler`, each draw with an interval of its own."""

    def __init__(self, intervals: Iterator[tuple[float, float]], sampler: NoiseSampler, x: Tensor) -> None:
        self.intervals, self.sampler, self.x = intervals, sampler, x

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        above, below = (self.x.new_tensor(sigma) for sigma in next(self.intervals))
        return std * self.sampler(above, below).to(device=device, dtype=dtype)

    def rewind(self) -> None:
        raise NotImplementedError("a host's noise_sampler cannot go back")

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        raise NotImplementedError("a host samples whole batches")


def default_noise(seed: int | None, x: Tensor) -> NoiseSampler:
    """Independent noise like `x`: of a generator with this seed, or of torch's global state."""
    generator = None if seed is None else torch.Generator(x.device).manual_seed(seed)

    def sampler(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    return sampler


def draw_intervals(table: Tableau, to_sigma: Callable[[float], float]) -> Iterator[tuple[float, float]]:
    """For every draw of the table, in order, an interval of sigma. The draws of a step share the step's interval out.

    A Brownian tree then gives independent noises, as the table expects them.
    """
    seen = set[int]()
    for first, last in zip(table.grid_states[:-1], table.grid_states[1:], strict=True):
        fresh = {i for row in table.rows[first:last] for i in row.xi} - seen
        seen |= fresh
        above, below = to_sigma(table.times[first]), to_sigma(table.times[last])
        width = (above - below) / max(len(fresh), 1)
        yield from ((above - k * width, above - (k + 1) * width) for k in range(len(fresh)))


def falling(sigmas: Sequence[float]) -> list[float]:
    """The sigmas without those that are not below the one before."""
    kept = list(sigmas[:1])
    for sigma in sigmas[1:]:
        if sigma < kept[-1]:
            kept.append(sigma)
    return kept


def host_edm(sigmas: Sequence[float]) -> EDM:
    """The path on which t = sigma/sigmas[0]."""
    lowest = sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]
    return EDM(lowest if lowest < sigmas[0] else sigmas[0] / 2, sigmas[0])


def sigma_of(path: SDE, is_flow: bool) -> Callable[[float], float]:
    """The host's sigma as a function of our time."""
    if is_flow:
        return lambda t: float(path.sigma(t))
    return lambda t: float(path.sigma(t) / path.alpha(t))


def tuned_table(solver: TunedSolver, path: SDE, sigmas: Sequence[float], is_flow: bool) -> Tableau:
    """The table of a fitted solver, where the host starts where it starts and takes as many steps as it has calls.

    Raises:
        ValueError: another path, number of steps or first sigma; names it.
    """
    require_same_process(solver.process, path, type(solver).__name__)
    if len(sigmas) - 1 != solver.nfe:
        raise ValueError(
            f"this solver was fitted for {solver.nfe} calls, but the host has {len(sigmas) - 1} steps: take {solver.nfe}"
        )
    table = solver.table(path)
    start = sigma_of(path, is_flow)(table.times[0])
    if abs(sigmas[0] - start) > START_TOLERANCE * start:
        raise ValueError(
            f"this solver starts at sigma={start:.5g}, but the host at {sigmas[0]:.5g}: take another solver for a part of the path"
        )
    return table


def host_models(model: Any) -> Iterator[Any]:
    """The model, the model inside it, and so on."""
    while model is not None:
        yield model
        model = getattr(model, "inner_model", None)


def is_flow_model(model: Any) -> bool:
    """Whether a model's `model_sampling` is ComfyUI's `CONST`, with denoised = x - sigma v."""
    samplings = [sampling for part in host_models(model) if (sampling := getattr(part, "model_sampling", None)) is not None]
    return any(base.__name__ == "CONST" for sampling in samplings for base in type(sampling).__mro__)


def host_path(model: Any, is_flow: bool) -> SDE:
    """The path of the host's model: a rectified flow, or the chain in whose table of sigmas it looks its times up.

    Raises:
        ValueError: the model has no such table.
    """
    if is_flow:
        return RectifiedFlow()
    for part in host_models(model):
        table = getattr(getattr(part, "model_sampling", part), "sigmas", None)
        if isinstance(table, Tensor) and table.ndim == 1 and len(table) > 1:
            return chain_of(table)
    raise ValueError("a fitted solver needs its path, and the model has no table of sigmas: give sde=")


def chain_of(sigmas: Tensor) -> VPChain:
    """The chain with sigma/alpha = `sigmas` `(T,)`, rising: alpha-bar = 1/(1 + sigma^2)."""
    return VPSDE.from_alphas_bar(1 / (1 + sigmas.detach().cpu().double() ** 2))


def comfy_node_classes() -> dict[str, type]:
    """`NODE_CLASS_MAPPINGS` for ComfyUI: a node that gives a SAMPLER for `SamplerCustom`.

        from scoresde.interop.k_diffusion import comfy_node_classes
        NODE_CLASS_MAPPINGS = comfy_node_classes()

    Its inputs are the name of a solver and, in its place, the file of a fitted one.
    """
    return {"ScoresdeSampler": ScoresdeSampler}


class ScoresdeSampler:
    """The node. ComfyUI is imported when it runs."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"
    CATEGORY = "sampling/custom_sampling/samplers"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """A choice of solvers, and the path of a file."""
        names = ["default", *(name for name, solver in SOLVERS.items() if isinstance(solver, Solver))]
        return {"required": {"solver": (names,)}, "optional": {"file": ("STRING", {"default": ""})}}

    def get_sampler(self, solver: str, file: str = "") -> tuple[Any]:
        """The sampler, in a tuple as ComfyUI wants it."""
        samplers = importlib.import_module("comfy.samplers")
        return (samplers.KSAMPLER(as_k_diffusion_sampler(file or solver)),)
