"""Batches, seeds, devices and arguments of likelihoods."""

import weakref

import pytest
import torch

import scoresde as ss
from scoresde import networks

from ..conftest import SDES, generator, mixture
from .targets import unet, wide_mixture

FLOW, LINEAR = SDES["flow"], SDES["linear"]


class Shifted(torch.nn.Module):
    """A mixture moved by a condition with one row a sample, and scaled by one that all share."""

    def forward(self, z, t, shift, scale):
        assert shift.shape == z.shape
        assert scale.shape == (3,)
        return mixture().model(LINEAR).data(z - shift, t) + scale.mean() * shift


def test_bug_42_a_batch_may_be_split_and_gives_the_same():
    """Also a last part of 3 samples, where the shared condition of 3 entries could be taken for one row a sample."""
    model = ss.ScoreModel(Shifted(), LINEAR, "data", time="t")
    x, shift = (torch.randn(7, 2, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    cond = {"shift": shift, "scale": torch.tensor([0.9, 1.0, 1.1])}
    whole, parts = (
        ss.log_likelihood(model, x, divergence="hutchinson", probes=2, generator=generator(2), batch_size=size, **cond)
        for size in (None, 4)
    )
    for name in ("nats", "stderr", "z", "prior_mismatch"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    assert torch.equal(parts.nfe, whole.nfe)
    encoded = [ss.encode(model, x, batch_size=size, **cond) for size in (None, 4)]
    torch.testing.assert_close(*encoded, rtol=1e-9, atol=1e-9)


def test_bug_42_no_state_of_the_past_is_kept():
    alive, most = [], 0

    class Network(torch.nn.Module):
        def forward(self, z, t):
            nonlocal most
            alive.append(weakref.ref(z))
            most = max(most, sum(ref() is not None for ref in alive))
            return torch.tanh(3 * z)

    model = ss.ScoreModel(Network(), FLOW, "data", time="t")
    counts = []
    for tol in (1e-3, 1e-7):
        alive.clear()
        most = 0
        ss.log_likelihood(model, torch.ones(2, 3), t_end=0.01, rtol=tol, atol=tol)
        counts.append((most, len(alive)))
    assert counts[1][1] > 2 * counts[0][1]
    assert counts[0][0] == counts[1][0] <= 2


def test_a_sample_depends_on_its_own_seed_only():
    target = wide_mixture()
    model, x = target.model(FLOW), target.sample(6, generator())
    options = {"divergence": "hutchinson", "rtol": 1e-4, "atol": 1e-4}
    batch = ss.log_likelihood(model, x, seeds=range(6), **options).nats
    for i in (0, 5):
        alone = ss.log_likelihood(model, x[i : i + 1], seeds=[i], **options).nats
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ss.log_likelihood(model, x, seeds=range(1, 7), **options).nats, batch)
    state = torch.get_rng_state()
    first, second = (ss.log_likelihood(model, x, **options).nats for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_network_calls_are_counted():
    calls = torch.zeros(3, dtype=torch.int64)

    class Spy(torch.nn.Module):
        def forward(self, z, t, who):
            calls[who] += 1
            return torch.tanh(z)

    model = ss.ScoreModel(Spy(), FLOW, "data", time="t")
    x = torch.tensor([[0.1, 0.2], [3.0, -1.0], [0.0, 0.0]])
    for options in ({}, {"divergence": "hutchinson", "probes": 3}, {"divergence": "hutch++"}):
        calls.zero_()
        out = ss.log_likelihood(model, x, who=torch.arange(3), **options)
        assert torch.equal(out.nfe, calls)


def test_bug_31_public_calls_run_where_the_data_are(device):
    model, x = unet(dtype=torch.float32).to(device), torch.randn(2, 2, 4, 4, generator=generator()).to(device)
    loose = {"t_end": 0.5, "rtol": 1e-3, "atol": 1e-3}
    for divergence in ("exact", "hutchinson", "hutch++"):
        out = ss.log_likelihood(model, x, divergence=divergence, seeds=range(2), **loose)
        for value in (out.nats, out.stderr, out.nfe, out.prior_mismatch, out.z):
            assert value.device.type == device.type
    assert ss.decode(model, ss.encode(model, x, **loose), **loose).device.type == device.type
    noisy = ss.dequantise(x.clamp(-1, 1), width=0.1, generator=generator())
    assert noisy.x.device.type == noisy.log_density.device.type == device.type
    assert ss.bits_per_dim(out.nats, (2, 4, 4), bins=256).device.type == device.type


def test_wrong_arguments_are_refused_by_name():
    model, x = mixture().model(LINEAR), torch.zeros(2, 2)
    for options, message in (
        ({"t_end": 0.0}, r"t_end must lie in \(0, 1\)"),
        ({"rtol": 0}, "rtol must be positive"),
        ({"divergence": "skilling"}, "divergence must be"),
        ({"probes": 4}, "probes=4 means nothing to divergence='exact'"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"probe_law": "uniform"}, "probe_law must be"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"divergence": "hutchinson", "seeds": range(3)}, "3 seeds were given"),
        ({"seeds": range(2), "generator": generator()}, "not both"),
    ):
        with pytest.raises(ValueError, match=message):
            ss.log_likelihood(model, x, **options)
    for call in (ss.encode, ss.decode, ss.log_likelihood):
        with pytest.raises(TypeError, match=r"[xz] holds torch\.int64: give real numbers"):
            call(model, torch.zeros(2, 2, dtype=torch.int64))
        with pytest.raises(ss.loops.StepLimitError, match="steps="):
            call(model, x + 1, steps=2)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        ss.log_likelihood(model, x)
    with pytest.raises(ValueError, match="does not determine the data at t=1"):
        ss.encode(ss.ScoreModel(networks.MLP(2, width=8, layers=1), FLOW, "noise"), x)
