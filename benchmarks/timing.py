"""What overhead.py, gpu.py and training.py share: interleaved medians, and the loops whose overhead is measured.

Every loop is a function without arguments that draws one batch in `steps` network calls. All call one network that predicts the noise of a
1000-step linear chain, the way that their authors call networks: the time of a step is one number, repeated for the batch without a copy.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

import scoresde as ss
from scoresde import networks

Loop = Callable[[], object]
T = 1000
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
SOLVERS = ("ancestral", "ddim", "dpm++2m", "unipc2", "unipc3", "vab3", "ipndm3")


class ThreeLayers(nn.Module):
    """A network of 17,282 weights, small enough that the loop around it counts: linear layers 3-128-128-2 on the state and its time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([z, t[:, None].to(z.dtype) / T], 1))


# Name, network, shape of a batch, and the share of --steps that keeps a run short.
CASES: tuple[tuple[str, Callable[[], nn.Module], tuple[int, ...], float], ...] = (
    ("three linear layers, batch 256", ThreeLayers, (256, 2), 1.0),
    ("MLP(128), batch 1", lambda: networks.MLP(8, width=128), (1, 8), 1.0),
    ("MLP(128), batch 256", lambda: networks.MLP(8, width=128), (256, 8), 1.0),
    ("MLP(128), batch 4096", lambda: networks.MLP(8, width=128), (4096, 8), 0.2),
    ("U-Net of the demo, batch 16", lambda: networks.UNet(1), (16, 1, 8, 8), 0.2),
)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(loops: dict[str, Loop], device: torch.device, repeats: int, budget: float) -> dict[str, list[float]]:
    """Seconds of every loop in each of `repeats` rounds, or of as many as fit into `budget` seconds, at least three.

    Every round runs each loop once in an order of its own, so that what disturbs the machine, and what a loop leaves in its caches, disturbs
    all alike.
    """
    seconds = {name: list[float]() for name in loops}
    order, shuffle = list(loops), random.Random(0).shuffle
    for loop in loops.values():
        loop()
    end = time.perf_counter() + budget
    for n in range(repeats):
        if n >= 3 and time.perf_counter() > end:
            break
        shuffle(order)
        for name in order:
            wait(device)
            start = time.perf_counter()
            loops[name]()
            wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def rows(seconds: dict[str, list[float]], bare: str, steps: int) -> dict[str, dict[str, float]]:
    """For every loop the median microseconds a step, and the medians over the rounds of the time above the loop `bare` and of the ratio to it.

    A round takes seconds: the drift of a shared machine over minutes, larger than what is measured, drops out.
    """
    results = {}
    for name, values in seconds.items():
        pairs = list(zip(values, seconds[bare], strict=True))
        figures = {
            "us": 1e6 * statistics.median(values) / steps,
            "above": 1e6 * statistics.median(value - base for value, base in pairs) / steps,
            "ratio": statistics.median(value / base for value, base in pairs),
        }
        results[name] = {key: float(f"{value:.4g}") for key, value in figures.items()}
    return results


def print_table(title: str, head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(f'{value:.4g}' if isinstance(value, float) else str(value) for value in line)} |")
    print(flush=True)


def write(path: Path, results: dict[str, Any]) -> None:
    """The results with what they were measured on, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"torch": torch.__version__, "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
    path.write_text(json.dumps({**about, **results}, indent=1) + "\n")
    print(f"wrote {path}")


def chain() -> ss.VPSDE:
    """The process of every loop."""
    return ss.VPSDE.from_betas(BETAS)


def bare(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> Loop:
    """The network alone, with inputs made before."""
    z, times = torch.randn(shape, device=device), torch.linspace(T - 1, 0, steps, device=device)
    inputs = times[:, None].expand(steps, shape[0]).unbind()

    def loop() -> None:
        with torch.no_grad():
            for t in inputs:
                network(z, t)

    return loop


def by_hand(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> Loop:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) as one writes it down, with coefficients that are floats and made before."""
    bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
    at = torch.linspace(T, 0, steps + 1).round().long()
    ratio = bar[at[:-1]] / bar[at[1:]]
    shrink, noise = ratio.rsqrt().tolist(), (1 - ratio).sqrt().tolist()
    slope = ((1 - ratio) / (1 - bar[at[:-1]]).sqrt()).tolist()
    times = (at[:-1] - 1).float().to(device)

    @torch.no_grad()
    def loop() -> Tensor:
        z = torch.randn(shape, device=device)
        for k in range(steps):
            eps = network(z, times[k].expand(len(z)))
            z = shrink[k] * (z - slope[k] * eps)
            if k < steps - 1:
                z = z + noise[k] * torch.randn_like(z)
        return z

    return loop


def ours(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device, **options: bool) -> dict[str, Loop]:
    """`sample` as a user calls it."""
    model = ss.ScoreModel(network, chain())
    generator = torch.Generator(device).manual_seed(0)

    def loop(name: str) -> Loop:
        return lambda: ss.sample(model, shape, name, steps=steps, generator=generator, **options)

    return {name: loop(name) for name in SOLVERS}


def diffusers_loops(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> dict[str, Loop]:
    """The loop of its pipelines."""
    import diffusers as d

    common = {"trained_betas": BETAS.tolist(), "num_train_timesteps": T, "timestep_spacing": "trailing"}
    zero = {"final_sigmas_type": "zero"}
    made = {
        "DDPM": d.DDPMScheduler(**common, clip_sample=False),
        "DDIM": d.DDIMScheduler(**common, clip_sample=False),
        "DPM++2M": d.DPMSolverMultistepScheduler(**common, solver_order=2, **zero),
        "UniPC-2": d.UniPCMultistepScheduler(**common, solver_order=2, **zero),
        "UniPC-3": d.UniPCMultistepScheduler(**common, solver_order=3, **zero),
    }

    def loop(scheduler: Any) -> Loop:
        @torch.no_grad()
        def run() -> Tensor:
            scheduler.set_timesteps(steps, device=device)
            z = torch.randn(shape, device=device) * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                out = network(scheduler.scale_model_input(z, t), t.expand(len(z)))
                z = scheduler.step(out, t, z).prev_sample
            return z

        return run

    return {f"diffusers {name}": loop(scheduler) for name, scheduler in made.items()}


def azula_loops(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> dict[str, Loop]:
    """Its samplers around a denoiser that is made of a noise prediction."""
    import azula.sample as a
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Wrapped(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.schedule = network, VPSchedule()

        def forward(self, z: Tensor, t: Tensor) -> DiracPosterior:
            alpha, sigma = self.schedule(t)
            return DiracPosterior((z - sigma * self.backbone(z, (t * T - 1).expand(len(z)))) / alpha)

    denoiser = Wrapped()

    def loop(sampler: Callable[..., Any]) -> Loop:
        def run() -> Tensor:
            made = sampler(denoiser, steps=steps, silent=True, device=device)
            return made(torch.randn(shape, device=device))

        return run

    return {"azula DDPM": loop(a.DDPMSampler), "azula DDIM": loop(a.DDIMSampler)}


def k_diffusion_loops(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> dict[str, Loop]:
    """Its samplers around its own wrapper of a DDPM network.

    It gives every sample a time of its own. They are made one here, so that the network does the same work in all loops.
    """
    if (k := peers.k_diffusion()) is None:
        return {}
    external = importlib.import_module("k_diffusion.external")

    def inner(z: Tensor, t: Tensor) -> Tensor:
        return network(z, t[0].expand(len(t)))

    model = external.DiscreteEpsDDPMDenoiser(inner, (1 - BETAS).cumprod(0).float(), quantize=False).to(device)

    def loop(name: str) -> Loop:
        sampler = getattr(k, f"sample_{name}")

        @torch.no_grad()
        def run() -> Tensor:
            sigmas = model.get_sigmas(steps)
            return sampler(model, torch.randn(shape, device=device) * sigmas[0], sigmas, disable=True)

        return run

    return {f"k-diffusion {name}": loop(name) for name in ("euler_ancestral", "dpmpp_2m")}


def theirs(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> dict[str, Loop]:
    """The loops of the peers that are installed."""
    loops: dict[str, Loop] = {}
    for source in (diffusers_loops, azula_loops, k_diffusion_loops):
        with contextlib.suppress(ImportError):
            loops |= source(network, shape, steps, device)
    return loops
