"""EDM2: magnitudes are kept, by each operation and through the network, and lengths of weights play no part."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, pad

from scoresde import networks
from scoresde.networks import magnitude

from ..conftest import generator


def made(**options):
    network = networks.EDM2(2, 16, (1, 2), 1, head_channels=16, **options).eval()
    for name, parameter in network.named_parameters():
        # Also rows of very different lengths, and gains that are no longer 0.
        nn.init.normal_(parameter, std=0.5 if name.endswith("gain") else 3.0, generator=generator(parameter.numel()))
    return network


def within(values, expected=1.0):
    """Whether independent values have a mean within 4 standard errors of the expected one."""
    values = values.detach().double()
    return abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(len(values))


def test_every_operation_keeps_the_magnitude():
    a, b = torch.randn(4096, 30, generator=generator()), torch.randn(4096, 10, generator=generator(1))
    silu = magnitude.mp_silu(a.flatten()).square()
    # 0.596 has three digits.
    assert abs(float(silu.mean()) - 1) < 4 * float(silu.std()) / math.sqrt(len(silu)) + 2 * 0.0005 / 0.596
    for share in (0.1, 0.3, 0.5):
        assert within(magnitude.mp_sum(a[:, :10], b, share).square().flatten())
        # And each has its share.
        torch.testing.assert_close(
            magnitude.mp_sum(a, 0 * a, share) / magnitude.mp_sum(0 * a, a, share), torch.full_like(a, (1 - share) / share)
        )
    both = magnitude.mp_cat(a, b)
    assert both.shape == (4096, 40)
    assert within(both.square().mean(1))
    # Each contributes as much, whatever its number of channels.
    assert within(both[:, :30].square().sum(1), 20.0)
    assert within(both[:, 30:].square().sum(1), 20.0)
    torch.testing.assert_close(magnitude.normalised(7 * a, 1).square().mean(1), torch.ones(4096))
    torch.testing.assert_close(magnitude.normalised(0 * a, 1), 0 * a)


def test_layers_keep_the_magnitude_whatever_the_length_of_their_rows():
    for make, x in (
        (lambda: magnitude.MPLinear(20, 50), torch.randn(64, 20, generator=generator())),
        (lambda: magnitude.MPConv(20, 50, 3), torch.randn(4, 20, 9, 9, generator=generator())),
    ):
        layer = make()
        nn.init.normal_(layer.weight, generator=generator(2))
        out = layer(x)
        # One value a unit, independent given x; borders see fewer pixels.
        values = (out if out.ndim == 2 else out[..., 1:-1, 1:-1].transpose(0, 1).flatten(1).t()).square().mean(0)
        assert within(values)
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(-3, 3, 50).reshape(-1, *[1] * (layer.weight.ndim - 1)))
        torch.testing.assert_close(layer(x), out)


def test_the_features_of_time_keep_the_magnitude():
    """The mean of 2 cos^2 over even phases is 1."""
    embedding = magnitude.MPEmbedding(64, 256, None)
    features = []
    embedding.noise.register_forward_hook(lambda _, inputs, __: features.append(inputs[0]))
    embedding.declare_time("edm")
    embedding(torch.linspace(-1.6, 1.1, 50), None)
    assert float((features[0].square().mean(1) - 1).abs().max()) < 0.05
    # No two times look alike, and close ones do.
    near, far = (features[0][:-k] * features[0][k:] for k in (1, 30))
    assert float(near.mean(1).min()) > 0.9
    assert float(far.mean(1).abs().max()) < 0.5


@pytest.mark.parametrize("time", ["t", "index", "half_log_snr"])
def test_every_time_convention_spans_the_same_features(time):
    """From the least to the largest time, as far as log(sigma)/4 of the paper goes, within a factor of 2."""
    embedding = magnitude.MPEmbedding(8, 16, None)
    embedding.declare_time(time)
    span = {"t": 1.0, "index": 999.0, "half_log_snr": 10.6}[time]
    seen = []
    embedding.units = lambda t, units=embedding.units: seen.append(units(t) / 200) or units(t)
    embedding(torch.tensor([0.0, span]), None)
    assert 0.5 < float(seen[0][1] - seen[0][0]) / (math.log(80 / 0.002) / 4) < 2


def test_activations_of_every_block_keep_the_magnitude(monkeypatch):
    """The mean square is 1 in the mean over weights: 20 networks, with wrapped borders and attention over one pixel, which mixes nothing."""
    monkeypatch.setattr(
        magnitude, "conv2d", lambda x, w, padding: conv2d(pad(x, (padding,) * 4, mode="circular") if padding else x, w)
    )
    torch.manual_seed(0)
    rows = []
    for _ in range(20):
        network, row = networks.EDM2(4, 32, (1, 2, 2), 1, (), head_channels=32, classes=3), []
        nn.init.ones_(network.gain)
        for module in (network.embedding, network.enter, *network.down, *network.up, network.leave):
            module.register_forward_hook(lambda _, __, out, row=row: row.append(float(out.square().mean())))
        with torch.no_grad():
            out = network(torch.randn(24, 4, 4, 4), torch.linspace(1, 900, 24), torch.arange(24) % 3)
        rows.append([*row, float(out.square().mean())])
    for values in torch.tensor(rows).t():
        assert within(values)


def test_normalise_changes_lengths_and_not_the_function():
    network = made(classes=3)
    z, t, label = torch.randn(3, 2, 6, 6, generator=generator()), torch.tensor([1.0, 400.0, 900.0]), torch.tensor([0, 2, -1])
    before, weights = network(z, t, label), [p.clone() for p in network.parameters()]
    network.normalise()
    torch.testing.assert_close(network(z, t, label), before, rtol=1e-5, atol=1e-5)
    changed = 0
    for module in network.modules():
        if isinstance(module, magnitude.Weight):
            rms = module.weight.detach().flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(rms, torch.ones_like(rms))
    changed = sum(not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    # All but the gains.
    assert changed == len(weights) - sum(name.endswith("gain") for name, _ in network.named_parameters())
    assert all(p.is_leaf and p.requires_grad for p in network.parameters())
    # Forward writes no weights, in training too.
    after = [p.clone() for p in network.parameters()]
    network.train()(z, t, label).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(after, network.parameters(), strict=True))


def test_rows_are_normalised_one_by_one():
    """As for a weight sharded along its rows: half of them alone give the same half."""
    layer, half = magnitude.MPConv(3, 8, 3), magnitude.MPConv(3, 4, 3)
    half.weight.data.copy_(layer.weight[4:])
    layer.normalise()
    half.normalise()
    assert torch.equal(layer.weight[4:], half.weight)


def test_gradients_are_at_right_angles_to_the_weights():
    """So that a step can only lengthen them: what `normalise` is for (arXiv 2312.02696, section 2.3)."""
    network = made()
    network(torch.randn(2, 2, 6, 6, generator=generator()), torch.tensor([1.0, 400.0])).square().mean().backward()
    for module in network.modules():
        if isinstance(module, magnitude.Weight):
            w, g = module.weight.detach().flatten(1), module.weight.grad.flatten(1)
            assert float(((w * g).sum(1) / (w.norm(dim=1) * g.norm(dim=1) + 1e-12)).abs().max()) < 1e-3


def test_the_published_sizes():
    """124.7M and 280.2M (arXiv 2312.02696, table 2); a column of our class for none is more than theirs, as wide as the embedding."""
    with torch.device("meta"):
        for width, numbers in ((128, 124_713_125), (192, 280_212_709)):
            network = networks.EDM2(4, width=width, classes=1000)
            assert sum(p.numel() for p in network.parameters()) == numbers + 4 * width


def test_a_network_starts_at_zero_and_every_input_matters():
    network = networks.EDM2(2, 16, (1, 2), 1, head_channels=16, classes=5)
    z, t, label = (
        torch.randn(4, 2, 7, 5, generator=generator()),
        torch.tensor([1.0, 50.0, 500.0, 999.0]),
        torch.tensor([0, 1, 2, 4]),
    )
    assert not network(z, t, label).any()
    network = made(classes=5, outputs=3)
    out = network(z, t, label)
    assert out.shape == (4, 3, 7, 5)
    for other in (network(z + 0.1, t, label), network(z, t + 5, label), network(z, t, (label + 1) % 5), network(z, t)):
        assert bool(((other - out).reshape(4, -1).abs().amax(1) > 1e-5).all())
    for i in range(4):
        torch.testing.assert_close(network(z[i : i + 1], t[i : i + 1], label[i : i + 1])[0], out[i], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(z, torch.tensor(50.0).expand(4), label), network(z, torch.full((4,), 50.0), label))


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (1, 9)])
def test_images_of_any_size(size):
    network = made()
    z, t = torch.randn(2, 2, *size, generator=generator()), torch.tensor([3.0, 700.0])
    out = network(z, t)
    assert out.shape == z.shape
    moved = z.clone()
    moved[:, 0, -1, -1] += 1
    assert float(((network(moved, t) - out).abs() > 0).float().mean()) > 0.95


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"16 channels .*head_channels=64"):
        networks.EDM2(1, 16, (1,))
    with pytest.raises(ValueError, match=r"\(B, 2, height, width\)"):
        made()(torch.zeros(2, 3, 8, 8), torch.zeros(2))
    with pytest.raises(ValueError, match="without classes"):
        made()(torch.zeros(2, 2, 8, 8), torch.zeros(2), torch.zeros(2))
