"""How each kind of pipeline calls its network: with which conditions, times and order of a guided batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...models.score_model import as_output

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


class Kind(NamedTuple):
    """A kind of pipelines.

    Attributes:
        guided: how it calls its network.
        guidance_scale: what the pipeline has by default.
        scales_noise: whether the pipeline multiplies its noise by `init_noise_sigma`; only then can it start a late first call.
    """

    guided: Callable[..., Guided]
    guidance_scale: float
    scales_noise: bool


KINDS = {
    "DDPMPipeline": Kind(_unconditional, 1.0, False),
    "DDIMPipeline": Kind(_unconditional, 1.0, False),
    "DiTPipeline": Kind(_classes, 4.0, False),
    "StableDiffusionPipeline": Kind(_stable_diffusion, 7.5, True),
    "StableDiffusionImg2ImgPipeline": Kind(_stable_diffusion, 7.5, True),
    "StableDiffusionInpaintPipeline": Kind(_stable_diffusion, 7.5, True),
    "StableDiffusionXLPipeline": Kind(_stable_diffusion_xl, 5.0, True),
    "StableDiffusionXLImg2ImgPipeline": Kind(_stable_diffusion_xl, 5.0, True),
    "StableDiffusionXLInpaintPipeline": Kind(_stable_diffusion_xl, 7.5, True),
    "StableDiffusion3Pipeline": Kind(_stable_diffusion_3, 7.0, False),
    "StableDiffusion3Img2ImgPipeline": Kind(_stable_diffusion_3, 7.0, False),
    "StableDiffusion3InpaintPipeline": Kind(_stable_diffusion_3, 7.0, False),
    "FluxPipeline": Kind(_flux, 3.5, False),
    "FluxImg2ImgPipeline": Kind(_flux, 7.0, False),
}


def kind_of(pipe: Any) -> Kind:
    """The kind of a pipeline.

    Raises:
        ValueError: it is none of those that are known; names them.
    """
    name = type(pipe).__name__
    if name not in KINDS:
        raise ValueError(f"model_of knows {', '.join(KINDS)}, not {name}: use from_diffusers(network, scheduler)")
    return KINDS[name]
