"""The density along the reverse SDE against that of a mixture."""

import torch

from scoresde import analytic, diagnostics, grids

from ..conftest import SDES, generator


def test_the_error_falls_as_the_root_of_the_steps():
    sde, mixture = SDES["linear"], analytic.GaussianMixture(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.3]))
    model, errors = mixture.model(sde), []
    for steps in (100, 400, 1600):
        times = grids.half_log_snr(sde, steps, t_end=0.02)
        z = torch.randn(2000, 1, dtype=torch.float64, generator=generator(1))
        end, change = diagnostics.path_log_density(model, z, times, generator(2))
        expected = mixture.log_prob(end, float(times[-1]), sde) - mixture.log_prob(z, float(times[0]), sde)
        errors.append(float((change - expected).square().mean().sqrt()))
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    assert all(abs(ratio - 2) < 0.3 for ratio in ratios), errors
