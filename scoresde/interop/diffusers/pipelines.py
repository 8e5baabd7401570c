"""The network of a pipeline with its guidance and its prompts as a model, on which `solvers.fit` and `solvers.select` run.

    model = model_of(pipe, prompt="a lighthouse", guidance_scale=7.5)
    solver = solvers.fit(model, 6, shape=model.event)
    pipe.scheduler = Scheduler.from_scheduler(pipe.scheduler, solver)

or, for several prompts at once, `pipe.scheduler = fitted_scheduler(pipe, 6, prompt=[...], guidance_scale=7.5)`.

With c the prompt and u what the pipeline takes in its place, guidance is out = out_u + w (out_c - out_u), as in the pipeline.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models.score_model import ScoreModel
from ...sde.base import SDE
from ...tuning import fit
from .configuration import scheduler_from_json
from .kinds import Guided, Rows, kind_of
from .reading import Reading, read
from .scheduler import Scheduler


class GuidedNetwork(nn.Module):
    """`network(z, time)` with guidance; see the module's docstring."""

    def __init__(self, guided: Guided, guidance_scale: float) -> None:
        super().__init__()
        self.network, self.guided, self.guidance_scale = guided.network, guided, guidance_scale

    def forward(self, z: Tensor, time: Tensor, prompt: Tensor | None = None) -> Tensor:
        """The output `(B, *event)`.

        Args:
            prompt: the number of the prompt of each sample, `(B,)`. By default there is one for all, or one a sample.

        Raises:
            ValueError: there are several prompts, and the batch has another size.
        """
        guided = self.guided
        if prompt is None:
            if guided.prompts not in (1, len(z)):
                raise ValueError(
                    f"{guided.prompts} prompts for a batch of {len(z)}: give prompt=, the number of the prompt of each sample"
                )
            prompt = torch.arange(len(z)) % guided.prompts

        def rows(of: Rows) -> Rows:
            return {name: value[prompt.to(value.device)] for name, value in of.items()}

        if guided.unconditional is None:
            return guided.call(self.network, z, time, rows(guided.conditional))
        both = (
            (guided.conditional, guided.unconditional) if guided.conditional_first else (guided.unconditional, guided.conditional)
        )
        first, second = (rows(part) for part in both)
        stacked = {name: torch.cat([first[name], second[name]]) for name in first}
        outs = guided.call(self.network, torch.cat([z, z]), torch.cat([time, time]), stacked).chunk(2)
        c, u = outs if guided.conditional_first else outs[::-1]
        return u + self.guidance_scale * (c - u)


class PipelineModel(ScoreModel):
    """A pipeline's network with its guidance and its prompts. States are those that the pipeline holds: latents, where it has them.

    Attributes:
        event: the shape of a state, without the batch.
        prompts: how many prompts there are.
    """

    def __init__(self, guided: Guided, scheduler: Any, guidance_scale: float) -> None:
        reading = read(scheduler)
        super().__init__(
            GuidedNetwork(guided, guidance_scale), reading.sde, reading.prediction, time=partial(_network_time, reading)
        )
        self.event, self.prompts, self.guidance_scale = guided.event, guided.prompts, guidance_scale

    def cond(self, samples: int) -> dict[str, Tensor]:
        """The condition of `samples` samples that take the prompts in turn, for `cond=` of `fit` and `select` and for `sample`."""
        return {"prompt": torch.arange(samples) % self.prompts}

    def extra_repr(self) -> str:
        """Solvers know by it the guidance that they were fitted to."""
        return f"guidance_scale={self.guidance_scale:g}"


def _network_time(reading: Reading, sde: SDE, t: Tensor) -> Tensor:
    return reading.network_time(t)


def model_of(
    pipe: Any, *, guidance_scale: float | None = None, height: int | None = None, width: int | None = None, **prompts: Any
) -> PipelineModel:
    """The network of a pipeline as a model.

    Pipelines: Stable Diffusion, SDXL and Stable Diffusion 3 (also image to image, and inpainting with a network that does not see the mask),
    Flux, DiT, DDPM and DDIM.

    Args:
        pipe: the pipeline. Its scheduler says the path, the prediction and the time of the network; it may be one of ours.
        guidance_scale: w, by default the pipeline's own. 1 is no guidance, except in Flux, whose network takes it as an input.
        height, width: of the image in pixels, by default the pipeline's own.
        **prompts: as in a call of the pipeline: `prompt`, `negative_prompt` or embeddings; for DiT `class_labels`.

    Raises:
        ValueError: a pipeline of another kind, or one without guidance that is given some; names it.
        TypeError: an argument that the pipeline's encoder does not have.
    """
    kind = kind_of(pipe)
    scale = kind.guidance_scale if guidance_scale is None else float(guidance_scale)
    with torch.no_grad():
        guided = kind.guided(pipe, scale, height, width, **prompts)
    scheduler = pipe.scheduler
    if isinstance(scheduler, Scheduler):
        scheduler = scheduler_from_json(scheduler.config["source"])
    return PipelineModel(guided, scheduler, scale)


def fitted_scheduler(
    pipe: Any,
    nfe: int,
    *,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    trajectories: int = 256,
    clip: bool | float | None = None,
    fit_options: dict[str, Any] | None = None,
    **prompts: Any,
) -> Scheduler:
    """A scheduler with a solver of `nfe` calls that is fitted to a pipeline at this guidance. Several prompts take turns among the starts.

    The first call is late only where the pipeline can start one (`Kind.scales_noise`).

    Args:
        pipe, guidance_scale, height, width, **prompts: as in `model_of`.
        nfe: network calls per image; a call with guidance counts once, as a step does.
        trajectories: as in `solvers.fit`, which says what a fit costs.
        clip: as in `Scheduler.from_scheduler`; the fit is to the model without.
        fit_options: other arguments of `solvers.fit`.

    Raises:
        ValueError: as `model_of` and `solvers.fit`.
    """
    model = model_of(pipe, guidance_scale=guidance_scale, height=height, width=width, **prompts)
    options = {"late": kind_of(pipe).scales_noise} | (fit_options or {})
    solver = fit(model, nfe, shape=model.event, trajectories=trajectories, cond=dict(model.cond(trajectories)), **options)
    return Scheduler.from_scheduler(pipe.scheduler, solver, clip=clip)
