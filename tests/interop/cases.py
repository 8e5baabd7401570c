"""Tiny pipelines with the arguments of a call, and the same call as one of `sample`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import scoresde as ss
from scoresde.interop.diffusers.pipelines import model_of
from scoresde.interop.diffusers.scheduler import Scheduler

from ..conftest import generator
from . import tiny

STEPS = 4
BATCH = 2


def embeddings(*names):
    """Random embeddings, one row for all samples, by the names of a pipeline's arguments."""
    shapes = {"prompt_embeds": (1, 5, 16), "pooled_prompt_embeds": (1, 16)}
    shapes |= {f"negative_{name}": shape for name, shape in shapes.items()}
    return {name: torch.randn(shapes[name], generator=generator(10 + k)) for k, name in enumerate(names)}


@dataclass(frozen=True)
class Case:
    """A pipeline.

    Attributes:
        make: makes it.
        prompts: arguments of a call and of `model_of`.
        call: arguments of a call alone.
        passes_generator: whether the pipeline gives its generator to `step`.
        needs: what it needs beside diffusers.
    """

    make: Callable[[], Any]
    prompts: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    passes_generator: bool = True
    needs: tuple[str, ...] = ("transformers",)

    def network(self, pipe):
        return pipe.unet if hasattr(pipe, "unet") else pipe.transformer

    def model(self, pipe):
        return model_of(pipe, **self.prompts)


LATENT = {"output_type": "latent"}
TEXT = {"prompt": ["a b", "c"], "negative_prompt": ["d", "d"], "guidance_scale": 7.5}
SD3 = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")


def batch_of(rows):
    return {name: row.repeat(BATCH, *(1 for _ in row.shape[1:])) for name, row in rows.items()}


CASES = {
    "DDPM": Case(tiny.ddpm, {}, {"batch_size": BATCH, "output_type": "np"}, needs=()),
    "DDIM": Case(lambda: tiny.ddpm(kind="DDIMPipeline"), {}, {"batch_size": BATCH, "output_type": "np"}, needs=()),
    "DiT": Case(tiny.dit_pipeline, {"class_labels": [3, 7], "guidance_scale": 4.0}, {"output_type": "np"}, False, ()),
    "StableDiffusion": Case(tiny.stable_diffusion, TEXT, LATENT),
    "StableDiffusionXL": Case(tiny.stable_diffusion_xl, TEXT, LATENT),
    "StableDiffusion3": Case(
        tiny.sd3, {**batch_of(embeddings(*SD3)), "guidance_scale": 5.0, "height": 16, "width": 16}, LATENT, False
    ),
    "Flux": Case(tiny.flux, {**batch_of(embeddings(*SD3[:2])), "guidance_scale": 3.5, "height": 16, "width": 16}, LATENT, False),
}
cases = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=tiny.needs_transformers if case.needs else ()) for name, case in CASES.items()],
)


class Recorder:
    """Records the states that a scheduler returns, and the calls of a network: `with Recorder(pipe, network) as seen: pipe(...)`."""

    def __init__(self, pipe, network):
        self.pipe, self.network = pipe, network
        self.states, self.inputs, self.times = [], [], []

    def __enter__(self):
        step = self.pipe.scheduler.step

        @functools.wraps(step)
        def recorded(*args, **options):
            out = step(*args, **options)
            self.states.append(out[0].clone())
            return out

        self.pipe.scheduler.step = recorded
        self._hook = self.network.register_forward_pre_hook(self._see, with_kwargs=True)
        return self

    def __exit__(self, *error):
        self._hook.remove()
        del self.pipe.scheduler.step

    def _see(self, module, args, options):
        self.inputs.append((args[0] if args else options["hidden_states"]).clone())
        time = options["timestep"] if "timestep" in options else args[1]
        self.times.append(float(torch.as_tensor(time).reshape(-1)[0]))


def run(case, pipe, steps=STEPS, seed=0, **call):
    """Run the pipeline; the recorder has what it did."""
    with Recorder(pipe, case.network(pipe)) as seen:
        pipe(num_inference_steps=steps, **{"generator": generator(seed)} | case.prompts | case.call | call)
    return seen


def expected(case, pipe, solver, steps=STEPS, seed=0, **options):
    """The samples that `sample` draws for the same call: the start from the generator, then the noise of the steps."""
    model, noise = case.model(pipe), generator(seed)
    z = torch.randn(BATCH, *event_of(case, pipe, model), generator=noise)
    z = case_layout(pipe, z)
    return ss.sample(model, (BATCH, *model.event), solver, steps=steps, z=z, generator=noise, **options)


def event_of(case, pipe, model):
    """The shape in which the pipeline draws its start."""
    return (4, 8, 8) if type(pipe).__name__ == "FluxPipeline" else model.event


def case_layout(pipe, z):
    """The state that the pipeline makes of its noise."""
    return pipe._pack_latents(z, len(z), 4, 8, 8) if type(pipe).__name__ == "FluxPipeline" else z


def with_solver(pipe, solver=None, **options):
    """The pipeline with a scheduler of ours in place of its own."""
    pipe.scheduler = Scheduler.from_scheduler(pipe.scheduler, solver, **options)
    return pipe
