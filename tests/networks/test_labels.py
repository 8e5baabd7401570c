"""Labels, empty batches and the frequencies of the embedding."""

import copy
import math

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import losses, networks

MAKE = {
    "mlp": (lambda **options: networks.MLP(4, 16, **options), (4,)),
    "unet": (lambda **options: networks.UNet(1, 8, **options), (1, 4, 4)),
}


def made(kind, **options):
    torch.manual_seed(0)
    network, event = MAKE[kind][0](**options), MAKE[kind][1]
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return network, event


WRONG = {
    "the index of no label": torch.tensor([0, 3]),
    "beyond": torch.tensor([0, 100]),
    "negative": torch.tensor([-2, 0]),
    "floats": torch.tensor([0.0, 1.0]),
    "bytes": torch.tensor([0, 1], dtype=torch.uint8),
    "truth values": torch.tensor([False, True]),
    "three for two samples": torch.tensor([0, 1, 2]),
    "one for two samples": torch.tensor([0]),
    "a scalar": torch.tensor(1),
    "a number": 1,
    "a column": torch.tensor([[0], [1]]),
    "a list of floats": [0.0, 1.0],
    "a numpy array of floats": np.zeros(2),
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("name", WRONG)
def test_labels_that_mean_no_class_are_refused(kind, name):
    network, event = made(kind, classes=3)
    model = ss.ScoreModel(network, ss.VPSDE()).eval()
    z = torch.zeros(2, *event)
    for call in (
        lambda: model.noise(z, 0.5, label=WRONG[name]),
        lambda: losses.denoising(model, z, label=WRONG[name]),
        lambda: ss.sample(model, (2, *event), "ddim", steps=2, label=WRONG[name]),
    ):
        with pytest.raises(ValueError, match=r"label (must lie in 0\.\.2|must have|holds)"):
            call()


@pytest.mark.parametrize("kind", MAKE)
def test_a_label_of_minus_one_means_none(kind):
    network, event = made(kind, classes=3)
    z, t = torch.randn(2, *event), torch.full((2,), 5.0)
    none = network(z, t)
    assert network.embedding.null == -1
    torch.testing.assert_close(network(z, t, torch.tensor([-1, -1])), none)
    mixed = network(z, t, torch.tensor([-1, 2]))
    torch.testing.assert_close(mixed[0], none[0])
    torch.testing.assert_close(mixed[1], network(z, t, torch.tensor([2, 2]))[1])
    assert not torch.allclose(mixed[1], none[1])
    assert networks.MLP(4, 16).embedding.null is None


def test_labels_are_named_with_their_range():
    network, _ = made("mlp", classes=3)
    with pytest.raises(ValueError, match=r"label must lie in 0\.\.2, got 3"):
        network(torch.zeros(2, 4), torch.zeros(2), torch.tensor([1, 3]))
    with pytest.raises(TypeError, match="label must be a tensor of integers, got a dict"):
        network(torch.zeros(2, 4), torch.zeros(2), {"label": 1})


@pytest.mark.parametrize("kind", MAKE)
def test_labels_of_every_integer_and_container_are_one(kind):
    network, event = made(kind, classes=3)
    z, t = torch.randn(2, *event), torch.full((2,), 5.0)
    right = network(z, t, torch.tensor([2, 0]))
    assert not torch.equal(right, network(z, t))
    for label in (torch.tensor([2, 0], dtype=torch.int32), [2, 0], np.array([2, 0])):
        assert torch.equal(network(z, t, label), right)
    # Per-sample gradients hide the values of labels.
    mapped = torch.func.vmap(lambda z, t, label: network(z[None], t[None], label[None])[0])(z, t, torch.tensor([2, 0]))
    torch.testing.assert_close(mapped, right)


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("classes", [None, 3])
def test_no_samples_give_no_outputs(kind, classes):
    network, event = made(kind, classes=classes)
    label = torch.zeros(0, dtype=torch.long) if classes else None
    assert network(torch.zeros(0, *event), torch.zeros(0), label).shape == (0, *event)
    assert network(torch.zeros(0, *event), torch.zeros(()).expand(0)).shape == (0, *event)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_frequencies_do_not_depend_on_the_default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        frequencies = networks.MLP(2, 64).embedding.frequencies
    finally:
        torch.set_default_dtype(before)
    exact = torch.tensor([10_000 ** (-i / 32) for i in range(32)], dtype=torch.float64)
    assert float((frequencies.double() / exact - 1).abs().max()) < 1e-6
    halved = copy.deepcopy(networks.MLP(2, 64)).bfloat16()
    assert float((halved.embedding.frequencies.double() / exact - 1).abs().max()) < 1e-6


def test_a_network_made_without_numbers_gets_its_frequencies():
    """`torch.device("meta")`, `to_empty` and `load_state_dict`: how large networks are made."""
    right, _ = made("mlp")
    with torch.device("meta"):
        network = networks.MLP(4, 16)
    network.to_empty(device="cpu").load_state_dict(right.state_dict())
    z, t = torch.randn(2, 4), torch.full((2,), 5.0)
    assert torch.equal(network(z, t), right(z, t))
    assert math.isfinite(float(network.embedding.frequencies.sum()))
