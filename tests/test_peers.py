"""Equality with independent implementations where they do the same thing: diffusers' schedulers."""

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.random import BatchNoise

from .conftest import generator, mixture

diffusers = pytest.importorskip("diffusers")


def chain(steps):
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    return betas, ss.VPSDE.from_betas(betas)


def their_loop(scheduler, exact, steps, z, **options):
    """The loop that diffusers' pipelines run, with our exact noise prediction as the network."""
    for index in scheduler.timesteps:
        noise = exact.noise(z, (float(index) + 1) / steps)
        z = scheduler.step(noise, index, z, **options).prev_sample
    return z


class Replay(BatchNoise):
    """The noises that diffusers draws: one for each step but the last."""

    def draw(self, shape, dtype, device):
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype)


def in_float64(scheduler, betas):
    """Their tables are float32, which alone costs them 1.5e-5 here: give them ours, so that the algorithms are compared."""
    scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = betas, 1 - betas, torch.cumprod(1 - betas, 0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    return scheduler


@pytest.mark.parametrize(("ours", "theirs"), [("beta", "fixed_large"), ("posterior", "fixed_small")])
@pytest.mark.parametrize("total", [100, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_ancestral_is_their_ddpm(ours, theirs, total, dtype, tolerance):
    betas, sde = chain(total)
    scheduler = in_float64(diffusers.DDPMScheduler(total, variance_type=theirs, clip_sample=False), betas)
    exact = mixture().model(sde)
    z = torch.randn(16, 2, dtype=dtype, generator=generator())
    got = solvers.run(solvers.Ancestral(ours).tableau(sde, grids.ddpm(sde, total)), exact, z, Replay(generator(1))).x
    expected = their_loop(scheduler, exact, total, z, generator=generator(1))
    assert float((got - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_learned_ancestral_is_their_learned_range(steps, dtype, tolerance):
    """On the full chain and respaced; the network's second half depends on the state.

    Their spacing is "leading": with "trailing", whose last index is not 0, they add noise in the step to t = 0.
    """
    total = 100
    betas, sde = chain(total)
    scheduler = in_float64(
        diffusers.DDPMScheduler(total, variance_type="learned_range", clip_sample=False, timestep_spacing="leading"), betas
    )
    scheduler.set_timesteps(steps)
    exact = mixture().model(sde)

    class Network(torch.nn.Module):
        def forward(self, z, index):
            return torch.cat([exact.noise(z, (index + 1) / total), torch.sin(3 * z)], dim=1)

    network, z = Network(), torch.randn(16, 2, dtype=dtype, generator=generator())
    run = solvers.LearnedAncestral().run
    got = run(ss.LearnedVariance(network, sde), z, Replay(generator(1)), grids.ddpm(sde, steps, spacing="leading")).x
    noise = generator(1)
    for index in scheduler.timesteps:
        z = scheduler.step(network(z, index.double()), index, z, generator=noise).prev_sample
    assert float((got - z).abs().max()) <= tolerance


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_is_theirs(spacing, steps):
    total = 1000
    betas, sde = chain(total)
    scheduler = in_float64(
        diffusers.DDIMScheduler(total, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing), betas
    )
    scheduler.set_timesteps(steps)
    exact = mixture().model(sde)
    grid = grids.ddpm(sde, steps, spacing=spacing)
    assert (grid[:-1] * total).round().long().tolist() == [int(i) + 1 for i in scheduler.timesteps]
    z = torch.randn(16, 2, dtype=torch.float64, generator=generator())
    got = solvers.run(solvers.DDIM().tableau(sde, grid), exact, z, BatchNoise()).x
    assert float((got - their_loop(scheduler, exact, total, z)).abs().max()) <= 1e-10
