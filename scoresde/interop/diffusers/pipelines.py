"""The network of a pipeline with its guidance and its prompts as a model, on which `solvers.fit` and `solvers.select` run.

    model = model_of(pipe, prompt="a lighthouse", guidance_scale=7.5)
    solver = solvers.fit(model, 6, shape=model.event)
    pipe.scheduler = Scheduler.from_scheduler(pipe.scheduler, solver)

or, for several prompts at once, `pipe.scheduler = fitted_scheduler(pipe, 6, prompt=[...], guidance_scale=7.5)`. With c the prompt and u what
the pipeline takes in its place, guidance is out = out_u + w (out_c - out_u), as in the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models.score_model import ScoreModel, as_output
from ...sde.base import SDE
from ...tuning import fit
from .configuration import scheduler_from_json
from .reading import Reading, read
from .scheduler import Scheduler

Rows = dict[str, Tensor]


@dataclass(frozen=True)
class Guided:
    """How a pipeline calls its network.

    Attributes:
        network: the module.
        event: the shape of a state, without the batch.
        call: (network, z, time, rows) -> the output.
        conditional: the conditions, one row a prompt.
        unconditional: those of u; None where there is no guidance.
        conditional_first: the order in a batch of both.
    """

    network: nn.Module
    event: tuple[int, ...]
    call: Callable[[nn.Module, Tensor, Tensor, Rows], Tensor]
    conditional: Rows
    unconditional: Rows | None = None
    conditional_first: bool = False

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return max((len(rows) for rows in self.conditional.values()), default=1)


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
        event: the shape of a state.
        prompts: how many there are.
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
    name = type(pipe).__name__
    if name not in KINDS:
        raise ValueError(f"model_of knows {', '.join(KINDS)}, not {name}: use from_diffusers(network, scheduler)")
    build, default_scale = KINDS[name]
    scale = default_scale if guidance_scale is None else float(guidance_scale)
    with torch.no_grad():
        guided = build(pipe, scale, height, width, **prompts)
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
    # A late first call needs another start than a pipeline's unit noise.
    fit_late = partial(fit, late=False, trajectories=trajectories, cond=dict(model.cond(trajectories)))
    solver = fit_late(model, nfe, shape=model.event, **fit_options or {})
    return Scheduler.from_scheduler(pipe.scheduler, solver, clip=clip)


def _unconditional(pipe: Any, scale: float, height: int | None, width: int | None) -> Guided:
    """DDPM and DDIM."""
    size = pipe.unet.config.sample_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if scale != 1:
        raise ValueError(f"{type(pipe).__name__} has no guidance, and guidance_scale={scale:g}")
    return Guided(pipe.unet, (pipe.unet.config.in_channels, *sides), lambda network, z, time, rows: as_output(network(z, time)), {})


def _classes(pipe: Any, scale: float, height: int | None, width: int | None, class_labels: int | Sequence[int] = 0) -> Guided:
    """DiT, whose last class is that of no class. Half of the channels of its output may be a variance."""
    labels = torch.as_tensor(class_labels).reshape(-1)
    channels, size = pipe.transformer.config.in_channels, pipe.transformer.config.sample_size

    def call(network: nn.Module, z: Tensor, time: Tensor, rows: Rows) -> Tensor:
        return as_output(network(z, timestep=time, class_labels=rows["class_labels"].to(z.device)))[:, :channels]

    null = torch.full_like(labels, pipe.transformer.config.num_embeds_ada_norm)
    guided = {"class_labels": null} if scale > 1 else None
    return Guided(pipe.transformer, (channels, size, size), call, {"class_labels": labels}, guided, conditional_first=True)


def _latent_event(pipe: Any, channels: int, height: int | None, width: int | None, size: int) -> tuple[int, int, int]:
    return channels, *(side // pipe.vae_scale_factor if side else size for side in (height, width))  # type: ignore[return-value]


def _require_unet(pipe: Any) -> None:
    inside, outside = pipe.unet.config.in_channels, pipe.unet.config.out_channels
    if inside != outside:
        raise ValueError(
            f"the network of {type(pipe).__name__} sees {inside} channels for {outside} of the state: the others are no prompt"
        )


def _stable_diffusion(pipe: Any, scale: float, height: int | None, width: int | None, prompt: Any = None, **encoded: Any) -> Guided:
    _require_unet(pipe)
    c, u = pipe.encode_prompt(prompt, pipe.device, 1, scale > 1, **encoded)

    def call(network: nn.Module, z: Tensor, time: Tensor, rows: Rows) -> Tensor:
        return as_output(network(z, time, encoder_hidden_states=rows["text"]))

    event = _latent_event(pipe, pipe.unet.config.in_channels, height, width, pipe.unet.config.sample_size)
    return Guided(pipe.unet, event, call, {"text": c}, {"text": _as_many(u, c)} if scale > 1 else None)


def _stable_diffusion_xl(
    pipe: Any, scale: float, height: int | None, width: int | None, prompt: Any = None, **encoded: Any
) -> Guided:
    _require_unet(pipe)
    c, u, pooled_c, pooled_u = pipe.encode_prompt(prompt, device=pipe.device, do_classifier_free_guidance=scale > 1, **encoded)
    event = _latent_event(pipe, pipe.unet.config.in_channels, height, width, pipe.default_sample_size)
    sides = tuple(side * pipe.vae_scale_factor for side in event[1:])
    projection = pooled_c.shape[-1] if pipe.text_encoder_2 is None else pipe.text_encoder_2.config.projection_dim
    ids = pipe._get_add_time_ids(sides, (0, 0), sides, dtype=c.dtype, text_encoder_projection_dim=projection).to(c.device)

    def call(network: nn.Module, z: Tensor, time: Tensor, rows: Rows) -> Tensor:
        added = {"text_embeds": rows["pooled"], "time_ids": rows["time_ids"]}
        return as_output(network(z, time, encoder_hidden_states=rows["text"], added_cond_kwargs=added))

    conditional = {"text": c, "pooled": pooled_c, "time_ids": ids.repeat(len(c), 1)}
    if scale <= 1:
        return Guided(pipe.unet, event, call, conditional)
    unconditional = {"text": _as_many(u, c), "pooled": _as_many(pooled_u, c), "time_ids": conditional["time_ids"]}
    return Guided(pipe.unet, event, call, conditional, unconditional)


def _stable_diffusion_3(
    pipe: Any, scale: float, height: int | None, width: int | None, prompt: Any = None, **encoded: Any
) -> Guided:
    second = {name: encoded.pop(name, None) for name in ("prompt_2", "prompt_3")}
    c, u, pooled_c, pooled_u = pipe.encode_prompt(
        prompt, **second, device=pipe.device, do_classifier_free_guidance=scale > 1, **encoded
    )

    def call(network: nn.Module, z: Tensor, time: Tensor, rows: Rows) -> Tensor:
        return as_output(network(z, timestep=time, encoder_hidden_states=rows["text"], pooled_projections=rows["pooled"]))

    event = _latent_event(pipe, pipe.transformer.config.in_channels, height, width, pipe.default_sample_size)
    unconditional = {"text": _as_many(u, c), "pooled": _as_many(pooled_u, c)} if scale > 1 else None
    return Guided(pipe.transformer, event, call, {"text": c, "pooled": pooled_c}, unconditional)


def _flux(pipe: Any, scale: float, height: int | None, width: int | None, prompt: Any = None, **encoded: Any) -> Guided:
    c, pooled, text_ids = pipe.encode_prompt(prompt, device=pipe.device, **encoded)
    side = [
        2 * ((pixels or pipe.default_sample_size * pipe.vae_scale_factor) // (2 * pipe.vae_scale_factor))
        for pixels in (height, width)
    ]
    patches = side[0] // 2, side[1] // 2
    ids = pipe._prepare_latent_image_ids(1, *patches, c.device, c.dtype)

    def call(network: nn.Module, z: Tensor, time: Tensor, rows: Rows) -> Tensor:
        guidance = (
            torch.full([len(z)], scale, device=z.device, dtype=torch.float32) if pipe.transformer.config.guidance_embeds else None
        )
        return as_output(
            network(
                hidden_states=z,
                timestep=time / 1000,
                guidance=guidance,
                pooled_projections=rows["pooled"],
                encoder_hidden_states=rows["text"],
                txt_ids=text_ids,
                img_ids=ids,
            )
        )

    event = (patches[0] * patches[1], pipe.transformer.config.in_channels)
    return Guided(pipe.transformer, event, call, {"text": c, "pooled": pooled})


def _as_many(u: Tensor, c: Tensor) -> Tensor:
    """The unconditional rows, as many as there are prompts."""
    return u if len(u) == len(c) else u.expand(len(c), *u.shape[1:])


# With the guidance that the pipeline has by default.
KINDS: dict[str, tuple[Callable[..., Guided], float]] = {
    "DDPMPipeline": (_unconditional, 1.0),
    "DDIMPipeline": (_unconditional, 1.0),
    "DiTPipeline": (_classes, 4.0),
    "StableDiffusionPipeline": (_stable_diffusion, 7.5),
    "StableDiffusionImg2ImgPipeline": (_stable_diffusion, 7.5),
    "StableDiffusionInpaintPipeline": (_stable_diffusion, 7.5),
    "StableDiffusionXLPipeline": (_stable_diffusion_xl, 5.0),
    "StableDiffusionXLImg2ImgPipeline": (_stable_diffusion_xl, 5.0),
    "StableDiffusionXLInpaintPipeline": (_stable_diffusion_xl, 7.5),
    "StableDiffusion3Pipeline": (_stable_diffusion_3, 7.0),
    "StableDiffusion3Img2ImgPipeline": (_stable_diffusion_3, 7.0),
    "StableDiffusion3InpaintPipeline": (_stable_diffusion_3, 7.0),
    "FluxPipeline": (_flux, 3.5),
    "FluxImg2ImgPipeline": (_flux, 7.0),
}
