"""The latent space of an autoencoder of diffusers, in which a score model lives.

    latent = (encode(x) - shift) scale,      x = decode(latent/scale + shift)

With the moments of every channel in its configuration (`latents_mean`, `latents_std`: Wan, some of SDXL) shift is the mean and scale is
`scaling_factor` over the standard deviation, `scaling_factor` being 1 where it is missing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Latents(NamedTuple):
    """Both maps.

    Attributes:
        vae: the autoencoder.
        shift, scale: numbers, or one for every channel.
    """

    vae: Any
    shift: float | tuple[float, ...]
    scale: float | tuple[float, ...]

    def encode(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The latents of images in [-1, 1], a sample of the posterior where a generator is given and its mode without."""
        posterior = self.vae.encode(x).latent_dist
        raw = posterior.mode() if generator is None else posterior.sample(generator)
        return (raw - _wide(self.shift, raw)) * _wide(self.scale, raw)

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents."""
        out: Tensor = self.vae.decode(latents / _wide(self.scale, latents) + _wide(self.shift, latents)).sample
        return out


def latents(vae: Any) -> Latents:
    """The maps between images and the latents of an autoencoder of diffusers.

    Raises:
        ValueError: its configuration has neither a scaling factor nor moments.
    """
    config = vae.config
    factor, mean, std = (config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std"))
    if mean is not None and std is not None:
        return Latents(vae, tuple(mean), tuple((factor or 1.0) / s for s in std))
    if factor is None:
        raise ValueError(f"{type(vae).__name__} has neither scaling_factor nor latents_mean and latents_std in its configuration")
    return Latents(vae, float(config.get("shift_factor") or 0.0), float(factor))


def _wide(value: float | tuple[float, ...], like: Tensor) -> Tensor | float:
    """One value for every channel, the second axis."""
    if isinstance(value, float):
        return value
    return like.new_tensor(value).reshape(1, -1, *(1 for _ in like.shape[2:]))
