"""The multistep form of a table."""

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.tuning import selection

from ..conftest import SDES, generator, mixture

ADAMS = ("ipndm3", "vab3", "circle-vab3", "unipc3", "dpm++2m", "deis2", "heun", "dpm2")


@pytest.mark.parametrize("name", ADAMS)
@pytest.mark.parametrize("path", ["ddpm", "edm", "cosine"])
def test_every_deterministic_table_has_a_multistep_form(name, path):
    model = mixture().model(SDES[path])
    tableau = solvers.get(name).tableau(model.sde, grids.half_log_snr(model.sde, 7))
    form = ss.tableau.multistep(tableau)
    assert form.a.shape == (tableau.nfe,)
    z = model.sde.prior_std * torch.randn(16, 2, dtype=torch.float64, generator=generator())
    expected = selection.solve(model, tableau, z, {}, 16)
    torch.testing.assert_close(selection.solve(model, form.table(model.sde), z, {}, 16), expected, rtol=1e-9, atol=1e-9)


def test_a_method_with_noise_has_none():
    with pytest.raises(ValueError, match="draws noise"):
        ss.tableau.multistep(solvers.get("ancestral").tableau(SDES["ddpm"], grids.uniform(SDES["ddpm"], 4)))
