"""Pipelines of diffusers with networks of a few thousand weights, made offline."""

import functools
import importlib.util
import json
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
NEED_TRANSFORMERS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")

with warnings.catch_warnings():
    # Modules load when their names are first asked for, and warn of what torch and numpy deprecate.
    warnings.simplefilter("ignore")
    for name in ("DDPMPipeline", "DDIMPipeline", "DiTPipeline", "AutoencoderKL"):
        getattr(diffusers, name)
    if HAS_TRANSFORMERS:
        import transformers

        for name in (*NEED_TRANSFORMERS, "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"):
            getattr(diffusers, name)

needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
VOCABULARY = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
TEXT_WIDTH = 16


def seeded(seed):
    """A decorator: the function makes a network with weights from this seed, once; torch's global state stays as it is."""

    def decorate(make):
        @functools.cache
        @functools.wraps(make)
        def made(*args, **options):
            with torch.random.fork_rng([]):
                torch.manual_seed(seed)
                return make(*args, **options).eval().requires_grad_(False)

        return made

    return decorate


@seeded(0)
def unet(**options):
    return diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    )


@seeded(1)
def vae(channels=4):
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )


@seeded(2)
def text_unet(channels=4, **options):
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=options.pop("cross_attention_dim", TEXT_WIDTH),
        attention_head_dim=4,
        **options,
    )


@functools.cache
def tokenizer():
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, "tokenizer_class": "CLIPTokenizer"}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


@seeded(3)
def text_encoder(projection=False):
    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=VOCABULARY.index("<|startoftext|>"),
        eos_token_id=VOCABULARY.index("<|endoftext|>"),
        projection_dim=16,
        hidden_act="gelu",
    )
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


@seeded(4)
def dit():
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8, patch_size=2
    )
    for weight in network.parameters():  # some are 0 when made, and nothing would depend on the class
        weight.data.normal_(0, 0.1)
    return network


@seeded(5)
def sd3_transformer():
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=16,
    )


@seeded(6)
def flux_transformer():
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sd_scheduler(**options):
    """The chain of Stable Diffusion, and how its files space the times."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **options,
    )


def stable_diffusion(kind="StableDiffusionPipeline", channels=4, **options):
    return quiet(
        getattr(diffusers, kind)(
            vae=vae(),
            text_encoder=text_encoder(),
            tokenizer=tokenizer(),
            unet=text_unet(channels),
            scheduler=sd_scheduler(**options),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def stable_diffusion_xl():
    network = text_unet(
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=text_encoder(),
            text_encoder_2=text_encoder(projection=True),
            tokenizer=tokenizer(),
            tokenizer_2=tokenizer(),
            unet=network,
            scheduler=sd_scheduler(),
            add_watermarker=False,
        )
    )


def ddpm(prediction="epsilon", kind="DDPMPipeline"):
    scheduler = (diffusers.DDIMScheduler if kind == "DDIMPipeline" else diffusers.DDPMScheduler)(
        clip_sample=False, prediction_type=prediction
    )
    return quiet(getattr(diffusers, kind)(unet=unet(), scheduler=scheduler))


def dit_pipeline():
    return quiet(diffusers.DiTPipeline(dit(), vae(), diffusers.DDIMScheduler(clip_sample=False)))


def sd3():
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))
    return quiet(
        diffusers.StableDiffusion3Pipeline(
            transformer=sd3_transformer(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(), **parts
        )
    )


def flux():
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096, shift=3.0
    )
    return quiet(diffusers.FluxPipeline(transformer=flux_transformer(), scheduler=scheduler, vae=vae(), **parts))
