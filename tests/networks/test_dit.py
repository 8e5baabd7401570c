"""DiT: blocks that start as the identity, positions where there are some, and sets without any."""

import math

import pytest
import torch
from torch import nn

from scoresde import networks
from scoresde.networks import dit

from ..conftest import generator

SHAPES = {"image": (2, 6, 4), "sequence": (6, 2), "set": (6, 2)}


def made(kind, dtype=torch.float32, **options):
    """With random weights: a new network returns 0."""
    network = networks.DiT(2, 16, 2, 2, kind=kind, **options).to(dtype).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(parameter.numel()))
    return network


def inputs(kind, dtype=torch.float32, batch=3):
    return torch.randn(batch, *SHAPES[kind], generator=generator(), dtype=dtype), torch.linspace(3, 900, batch, dtype=dtype)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_new_network_returns_zero_and_its_blocks_are_the_identity(kind):
    network = networks.DiT(2, 16, 2, 2, kind=kind)
    z, t = inputs(kind)
    assert not network(z, t).any()
    h, embedded = torch.randn(3, 5, 16), torch.randn(3, 16)
    for block in network.blocks:
        assert torch.equal(block(h, embedded), h)
    # The modulation alone holds it back.
    nn.init.normal_(network.blocks[0].modulation.weight)
    assert not torch.allclose(network.blocks[0](h, embedded), h)
    # Every parameter learns once the last layer is not 0.
    network = made(kind)
    network(z, t).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_permutation_of_a_set_permutes_the_result(number):
    network = made("set", torch.float64)
    z, t = torch.randn(2, number, 2, generator=generator(), dtype=torch.float64), torch.tensor([3.0, 700.0], dtype=torch.float64)
    order = torch.randperm(number, generator=generator(1))
    out = network(z, t)
    torch.testing.assert_close(network(z[:, order], t), out[:, order], rtol=0, atol=1e-12)
    # Members see each other.
    if number > 1:
        moved = z.clone()
        moved[:, 0] += 1
        assert bool(((network(moved, t) - out)[:, 1:].abs().amax((1, 2)) > 1e-3).all())


@pytest.mark.parametrize("kind", ["image", "sequence"])
def test_positions_matter(kind):
    """Reversed along any axis, the state gives more than the reversed result."""
    network = made(kind).requires_grad_(False)
    z, t = inputs(kind)
    for axis in (2, 3) if kind == "image" else (1,):
        assert float((network(z.flip(axis), t) - network(z, t).flip(axis)).abs().max()) > 0.1


def test_positions_are_the_sinusoids_of_the_coordinates():
    """Row y, column x: sin, cos of y with half the width, then those of x (arXiv 2212.09748 takes them from MAE)."""
    width, (rows, columns) = 16, (3, 5)
    found = dit.positions((rows, columns), width, torch.device("cpu")).reshape(rows, columns, width)

    def exact(p):
        f = [10_000 ** (-i / (width // 4)) for i in range(width // 4)]
        return [math.sin(p * k) for k in f] + [math.cos(p * k) for k in f]

    expected = torch.tensor([[exact(y) + exact(x) for x in range(columns)] for y in range(rows)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert dit.positions((7,), 8, torch.device("cpu")).shape == (7, 8)


@pytest.mark.parametrize(
    ("kind", "patch", "shape", "index", "patch_of_it"),
    [
        ("image", 2, (2, 4, 6), (0, 1, 3, 2), (slice(2, 4), slice(2, 4))),
        ("image", 3, (2, 3, 6), (0, 0, 1, 5), (slice(0, 3), slice(3, 6))),
        ("sequence", 3, (9, 2), (0, 4, 1), (slice(3, 6),)),
    ],
)
def test_a_patch_is_one_token(kind, patch, shape, index, patch_of_it):
    """Without attention, one number moves the patch that holds it and nothing else."""
    network = made(kind, patch=patch, outputs=3)
    for block in network.blocks:
        nn.init.zeros_(block.mixed.weight)
    z, t = torch.randn(1, *shape, generator=generator()), torch.tensor([3.0])
    moved = z.clone()
    moved[index] += 1
    difference = network(moved, t) - network(z, t)
    assert difference.shape == ((1, 3, *shape[1:]) if kind == "image" else (1, shape[0], 3))
    where = (difference[0] != 0).all(0 if kind == "image" else 1)
    expected = torch.zeros_like(where)
    expected[patch_of_it] = True
    assert torch.equal(where, expected)


@pytest.mark.parametrize("kind", SHAPES)
def test_state_time_and_label_matter_and_batch_mates_do_not(kind):
    network = made(kind, classes=5)
    z, t = inputs(kind, batch=4)
    label = torch.tensor([0, 1, 2, 4])
    out = network(z, t, label)
    assert out.shape == z.shape
    for other in (network(z + 0.1, t, label), network(z, t + 5, label), network(z, t, (label + 1) % 5), network(z, t)):
        assert bool(((other - out).reshape(4, -1).abs().amax(1) > 1e-5).all())
    for i in range(4):
        torch.testing.assert_close(network(z[i : i + 1], t[i : i + 1], label[i : i + 1])[0], out[i], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(z, torch.tensor(50.0).expand(4)), network(z, torch.full((4,), 50.0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "layers", "heads", "numbers"),
    # 33M, 130M, 458M and 675M (arXiv 2212.09748, table 1). Theirs count their 256 fixed positions.
    [(384, 12, 6, 32_963_360), (768, 12, 12, 130_512_416), (1024, 24, 16, 458_102_816), (1152, 28, 16, 675_129_632)],
)
def test_the_published_sizes(width, layers, heads, numbers):
    with torch.device("meta"):
        network = networks.DiT(4, width, layers, heads, patch=2, classes=1000, outputs=8)
    assert sum(p.numel() for p in network.parameters()) == numbers - 256 * width


def test_what_does_not_fit_is_refused():
    for options, words in (
        ({"kind": "graph"}, "kind must be one of image, sequence, set, got 'graph'"),
        ({"kind": "set", "patch": 2}, "patch must be 1, got 2"),
        ({"heads": 5}, "heads=5"),
        ({"width": 18, "heads": 2}, "divisible by 4"),
    ):
        with pytest.raises(ValueError, match=words):
            networks.DiT(2, **{"width": 16, "layers": 1, "heads": 2} | options)
    for kind, shape, words in (
        ("image", (3, 4, 4), r"images \(B, 2, height, width\)"),
        ("sequence", (4, 3), r"sequences \(B, length, 2\)"),
        ("set", (2, 4, 4), r"sets \(B, number, 2\)"),
    ):
        with pytest.raises(ValueError, match=words):
            made(kind)(torch.zeros(1, *shape), torch.zeros(1))
    for kind, shape in (("image", (2, 4, 5)), ("image", (2, 5, 4)), ("sequence", (5, 2))):
        with pytest.raises(ValueError, match="patch=2 must divide the sides"):
            made(kind, patch=2)(torch.zeros(1, *shape), torch.zeros(1))
