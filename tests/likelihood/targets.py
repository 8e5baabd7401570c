"""Data with a known density, and a network on images."""

import torch

import scoresde as ss
from scoresde import analytic, networks

from ..conftest import SDES, generator


def unet(sde=SDES["linear"], dtype=torch.float64, prediction="velocity"):
    """With attention, and with weights that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.UNet(2, width=8, multipliers=(1, 2), heads=2).to(dtype)
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    network.embedding.frequencies *= 1e-3  # smooth in time, so that tight tolerances are cheap
    return ss.ScoreModel(network, sde, prediction).requires_grad_(False)


def wide_mixture(d=16):
    """Four modes of different widths in d dimensions."""
    means = 0.7 * torch.randn(4, d, generator=generator(3), dtype=torch.float64)
    return analytic.GaussianMixture(means, torch.tensor([0.1, 0.2, 0.3, 0.4]))


def gaussian(mean, std):
    """Independent coordinates."""
    mean, std = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    return analytic.GaussianMixture(mean[None], std[None] ** 2)
