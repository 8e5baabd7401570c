"""Networks: any size, and every input reaches the output."""

import pytest
import torch

import scoresde as ss
from scoresde import losses, networks

from ..conftest import SDES, generator


def awake(network):
    """With random weights where networks start at zero, so that outputs depend on inputs."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2, generator=generator(4))
    return network.eval()


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 7), (5, 12), (1, 1), (33, 17)])
@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size(size, patch, channels):
    network = awake(networks.UNet(channels, width=8, multipliers=(1, 2, 2), patch=patch))
    z = torch.randn(2, channels, *size, generator=generator())
    out = network(z, torch.tensor([3.0, 700.0]))
    assert out.shape == z.shape
    # Attention at the bottom lets every pixel move every other (but for a few that rounding swallows).
    moved = z.clone()
    moved[:, 0, -1, -1] += 1
    assert float(((network(moved, torch.tensor([3.0, 700.0])) - out).abs() > 0).float().mean()) > 0.98


@pytest.mark.parametrize(
    "network",
    [
        networks.MLP((3, 4), width=16, classes=5),
        networks.UNet(2, width=8, classes=5),
        networks.UNet(2, width=8, multipliers=(1,), classes=5, attention=()),
    ],
    ids=["mlp", "unet", "unet of one level"],
)
def test_state_time_and_label_matter_and_batch_mates_do_not(network):
    awake(network)
    shape = (3, 4) if isinstance(network, networks.MLP) else (2, 6, 6)
    z, t, label = torch.randn(4, *shape, generator=generator()), torch.tensor([1.0, 50.0, 500.0, 999.0]), torch.tensor([0, 1, 2, 4])
    out = network(z, t, label)
    for other in (network(z + 0.1, t, label), network(z, t + 5, label), network(z, t, (label + 1) % 5), network(z, t)):
        assert bool(((other - out).reshape(4, -1).abs().amax(1) > 1e-6).all())
    for i in range(4):
        torch.testing.assert_close(network(z[i : i + 1], t[i : i + 1], label[i : i + 1])[0], out[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", [networks.MLP(6, width=32), networks.UNet(1, width=16)], ids=["mlp", "unet"])
def test_every_parameter_learns(network):
    shape = (6,) if isinstance(network, networks.MLP) else (1, 8, 8)
    model = ss.ScoreModel(network, SDES["ddpm"])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    before = [p.clone() for p in network.parameters()]
    x = torch.full((16, *shape), 0.5)
    for i in range(4):
        optimizer.zero_grad()
        losses.denoising(model, x, generator=generator(i)).mean().backward()
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_an_mlp_learns_a_point():
    """Data at one point: noise is (z - alpha x)/sigma, and a few steps must beat the zero network by far."""
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(2, width=64), SDES["ddpm"])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x = torch.tensor([[0.5, -0.3]]).expand(256, 2)
    for i in range(150):
        loss = losses.denoising(model, x, generator=generator(i)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.15


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        networks.MLP(2)(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"\(B, 1, height, width\)"):
        networks.UNet(1)(torch.zeros(4, 3, 8, 8), torch.zeros(4))
    with pytest.raises(ValueError, match="without classes"):
        networks.MLP(2)(torch.zeros(4, 2), torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="even"):
        networks.MLP(2, width=9)
    with pytest.raises(ValueError, match="heads"):
        networks.UNet(1, width=8, heads=5)


def test_networks_stay_short():
    from pathlib import Path

    for file in Path(networks.__file__).parent.glob("*.py"):
        assert len(file.read_text().splitlines()) < 200, file


@pytest.mark.parametrize("classes", [None, 3])
def test_one_time_for_the_batch_is_embedded_once(classes):
    """A time repeated without a copy gives what as many equal times give, and its embedding has one row."""
    torch.manual_seed(0)
    label = torch.tensor([0, 2, 1, 1]) if classes else None
    for network, event in (
        (networks.MLP(3, width=16, classes=classes), (3,)),
        (networks.UNet(1, width=8, classes=classes), (1, 4, 4)),
    ):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        z, rows = torch.randn(4, *event), []
        network.embedding.layers.register_forward_hook(lambda _, inputs, out, rows=rows: rows.append(len(out)))
        repeated = network(z, torch.tensor(700.0).expand(4), label)
        torch.testing.assert_close(repeated, network(z, torch.full((4,), 700.0), label), rtol=1e-4, atol=1e-5)
        assert rows == [1, 4]


def test_every_sample_has_the_gradient_of_its_own_time():
    network = networks.MLP(2, width=16)
    torch.nn.init.normal_(network.blocks[0].second.weight)
    z, gradients = torch.randn(3, 2), []
    for t in (torch.tensor(5.0).expand(3), torch.full((3,), 5.0)):
        t = t.detach().requires_grad_()
        gradients.append(torch.autograd.grad(network(z, t).sum(), t)[0])
    torch.testing.assert_close(*gradients)
