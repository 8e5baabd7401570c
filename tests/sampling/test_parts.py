"""A batch in parts."""

import pytest
import torch

import scoresde as ss

from ..conftest import SDES, budget, generator, mixture

DDPM = SDES["ddpm"]


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m", "restart", "pc", "adaptive", "gotta-go-fast"])
def test_parts_of_a_batch_give_the_same_samples(name):
    model, options = mixture().model(DDPM), {"dtype": torch.float64, **budget(name, 6)}
    for source in ("seeds", "generator"):
        if source == "generator" and name == "gotta-go-fast":
            continue  # the number of its draws depends on the slowest sample of the batch
        noise = {"seeds": range(7)} if source == "seeds" else {"generator": generator(3)}
        whole = ss.sample(model, (7, 2), name, **noise, **options)
        noise = {"seeds": range(7)} if source == "seeds" else {"generator": generator(3)}
        parts = ss.sample(model, (7, 2), name, batch_size=3, **noise, **options)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_parts_of_a_batch_get_their_start_conditions_and_path():
    class Shifted(torch.nn.Module):
        def forward(self, z, t, shift, scale):
            assert shift.shape == (len(z),)
            return (z + shift[:, None]) * scale

    model, z = ss.ScoreModel(Shifted(), DDPM), torch.randn(5, 2, generator=generator())
    cond = {"shift": torch.arange(5.0), "scale": torch.tensor(0.5)}
    whole = ss.sample(model, z.shape, "heun", steps=4, z=z, trajectory=True, **cond)
    seen = []
    parts = ss.sample(
        model,
        z.shape,
        "heun",
        steps=4,
        z=z,
        trajectory=True,
        batch_size=2,
        callback=lambda n, t, z, data: seen.append(len(z)),
        **cond,
    )
    torch.testing.assert_close(parts.path, whole.path)
    assert parts.nfe == whole.nfe
    assert seen == [2] * 8 + [1] * 4
    with pytest.raises(ValueError, match="no trajectory with batch_size"):
        ss.sample(mixture().model(DDPM), (4, 2), "adaptive", batch_size=2, trajectory=True)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        ss.sample(mixture().model(DDPM), (4, 2), "ddim", steps=2, batch_size=0)
