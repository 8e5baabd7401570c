"""The variance of a step has one formula, in tensors here and in floats in `Ancestral`."""

import pytest
import torch

from scoresde import grids, solvers
from scoresde.sde.transitions import step_variance, variance_exponent

from ..conftest import SDES


@pytest.mark.parametrize("variance", ["beta", "posterior", 0.3])
def test_the_noise_of_ancestral_sampling_has_the_variance_of_the_step(variance):
    sde = SDES["linear"]
    grid = grids.uniform(sde, 7)
    late, early = grid[:-2], grid[1:-1]  # the last step draws no noise
    h = sde.half_log_snr(late) - sde.half_log_snr(early)
    expected = step_variance(sde.sigma(early), sde.sigma(late), h, variance_exponent(variance, "-"))
    rows = solvers.Ancestral(variance).tableau(sde, grid).rows[:-1]
    std = torch.tensor([value for row in rows for value in row.xi.values()], dtype=torch.float64)
    torch.testing.assert_close(std**2, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variance", ["gamma", 1.5, -0.1, None])
def test_other_variances_are_refused(variance):
    with pytest.raises(ValueError, match="or a rule, got"):
        variance_exponent(variance, "a rule")
