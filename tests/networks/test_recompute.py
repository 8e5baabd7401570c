"""What every network of blocks must allow: recomputed activations, half precision, channels last, compilation, export and sharding."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde import networks

from ..conftest import generator

NETWORKS = {
    "unet": (lambda **o: networks.UNet(2, 16, (1, 2), classes=3, **o), (2, 6, 6)),
    "adm": (lambda **o: networks.ADM(2, 16, (1, 2), 1, head_channels=16, classes=3, **o), (2, 6, 6)),
    "edm2": (lambda **o: networks.EDM2(2, 16, (1, 2), 1, head_channels=16, classes=3, **o), (2, 6, 6)),
    "dit": (lambda **o: networks.DiT(2, 16, 2, 2, patch=2, classes=3, **o), (2, 6, 6)),
    "dit of sets": (lambda **o: networks.DiT(2, 16, 2, 2, kind="set", classes=3, **o), (5, 2)),
}
# The blocks of a network whose activations are computed again.
BLOCKS = (networks.unet.ResidualBlock, networks.unet.Attention, networks.adm.Block, networks.edm2.Block, networks.dit.Block)
every = pytest.mark.parametrize("name", NETWORKS)


def made(name, **options):
    """With random weights, as new networks return 0."""
    make, event = NETWORKS[name]
    network = make(**options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator(parameter.numel()))
    z = torch.randn(3, *event, generator=generator())
    # At 998 half precision would be off by two units.
    return network, (z, torch.tensor([3.0, 400.0, 998.0]), torch.tensor([0, 2, -1]))


def gradients(network, given):
    """The output and the gradients, and how often blocks were called."""
    calls = []
    # Before the call: what is recomputed stops as soon as all is there.
    hooks = [m.register_forward_pre_hook(lambda *_: calls.append(1)) for m in members(network) if isinstance(m, BLOCKS)]
    torch.manual_seed(1)
    out = network(*given)
    once = len(calls)
    found = torch.autograd.grad(out.square().sum(), list(network.parameters()))
    for hook in hooks:
        hook.remove()
    return out.detach(), found, once, len(calls)


def members(network):
    return [m for lst in network.modules() if isinstance(lst, nn.ModuleList) for m in lst]


@every
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputing_changes_no_bit(name, dropout):
    options = {} if name.startswith("dit") else {"dropout": dropout}
    plain, given = made(name, **options)
    again, _ = made(name, recompute=True, **options)
    out, expected, once, in_all = gradients(plain, given)
    assert once == in_all > 0
    kept, found, once, in_all = gradients(again, given)
    assert in_all == 2 * once > 0
    assert torch.equal(out, kept)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    # Dropout is at work in training, and only there.
    if options.get("dropout"):
        torch.manual_seed(2)
        assert not torch.equal(plain(*given), out)
        assert torch.equal(plain.eval()(*given), plain(*given))
    # An attribute, and of no use without gradients.
    plain.train().recompute = True
    assert gradients(plain, given)[3] == 2 * once
    with torch.no_grad():
        torch.manual_seed(1)
        assert torch.equal(again(*given), out)


@every
def test_recomputing_keeps_fewer_activations(name):
    kept = {}
    for recompute in (False, True):
        network, given = made(name, recompute=recompute)
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, n=numbers: (n.append(x.numel()), x)[1], lambda x: x):
            network(*given)
        kept[recompute] = sum(numbers)
    assert kept[True] < 0.6 * kept[False]


@pytest.mark.parametrize("name", ["adm", "edm2", "dit"])
def test_attention_keeps_no_matrix_of_all_pairs(name):
    network, (z, t, label) = made(name)
    z = torch.randn(3, 2, 12, 12, generator=generator())
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (shapes.append(x.shape[-2:]), x)[1], lambda x: x):
        network(z, t, label)
    assert (36, 36) not in shapes
    # The other kernel has second derivatives.
    with sdpa_kernel(SDPBackend.MATH):
        z.requires_grad_()
        (slope,) = torch.autograd.grad(network(z, t, label).square().sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), z)
    assert bool(curvature.any())


@every
def test_mixed_precision_is_close(name):
    network, given = made(name)
    network.eval()
    sinusoids, exact = [], network(*given)
    first = network.embedding.noise if name == "edm2" else network.embedding.layers
    first.register_forward_hook(lambda _, inputs, __: sinusoids.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*given)
    network(*given)
    assert torch.equal(*sinusoids)
    if name != "edm2":
        assert float(sinusoids[0][2, 0]) == pytest.approx(math.sin(998), abs=1e-4)
    assert sinusoids[0].dtype == torch.float32
    assert bool(out.isfinite().all())
    # Each of some tens of roundings in turn is off by at most 2^-9.
    assert float((out.float() - exact).detach().norm() / exact.detach().norm()) < 32 * 2**-9
    out.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())


@every
def test_a_network_in_bfloat16_is_close(name):
    network, (z, t, label) = made(name)
    network.eval()
    exact = network(z, t, label).detach()
    out = copy.deepcopy(network).bfloat16()(z.bfloat16(), t, label).detach()
    assert out.dtype == torch.bfloat16
    assert float((out.float() - exact).norm() / exact.norm()) < 64 * 2**-9


@pytest.mark.parametrize("name", ["unet", "adm", "edm2", "dit"])
def test_channels_last_gives_the_same(name):
    network, (z, t, label) = made(name)
    network.eval()
    expected = network(z, t, label)
    torch.testing.assert_close(network(z.to(memory_format=torch.channels_last), t, label), expected, rtol=1e-4, atol=1e-5)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    out = last(z.to(memory_format=torch.channels_last), t, label)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


# Tracing is slow: as few blocks as have one of each kind. `ADM` has the layers of one U-Net, the levels of the other, the embedding of `DiT`.
# The export of a U-Net is in tests/interop/test_export.py.
FEW = {
    "unet": lambda **o: networks.UNet(2, 16, (1,), classes=3, **o),
    "edm2": lambda **o: networks.EDM2(2, 16, (1, 2), 0, (), head_channels=16, classes=3, **o),
    "dit": lambda **o: networks.DiT(2, 16, 1, 2, patch=2, classes=3, **o),
}


@pytest.mark.parametrize("name", ["unet", "edm2", "dit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_compiles_without_graph_breaks(name, monkeypatch):
    monkeypatch.setitem(NETWORKS, name, (FEW[name], NETWORKS[name][1]))
    network, given = made(name, recompute=True)
    out, expected, *_ = gradients(network, given)
    again = torch.compile(network, backend="eager", fullgraph=True)(*given)
    torch.testing.assert_close(again, out)
    for a, b in zip(torch.autograd.grad(again.square().sum(), list(network.parameters())), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["edm2", "dit"])
def test_exports_with_a_dynamic_batch(name, monkeypatch):
    monkeypatch.setitem(NETWORKS, name, (FEW[name], NETWORKS[name][1]))
    network, given = made(name)
    network.eval().requires_grad_(False)
    batch = {0: Dim("batch", min=1)}
    program = torch.export.export(network, given, dynamic_shapes=(batch, batch, batch)).module()
    for size in (1, 5):
        z = torch.randn(size, *given[0].shape[1:], generator=generator(size))
        t, label = torch.linspace(1, 900, size), torch.arange(size) % 3
        torch.testing.assert_close(program(z, t, label), network(z, t, label), rtol=0, atol=0)


@every
def test_blocks_are_members_of_flat_lists(name):
    """What wrappers shard: the members of lists, each with a forward of its own, and most parameters in them."""
    network, _ = made(name)
    inside = members(network)
    assert not any(isinstance(m, nn.ModuleList) for m in inside)
    numbers = {id(p): p.numel() for m in inside for p in m.parameters()}
    assert all(p.ndim > 0 for p in network.parameters())
    rest = sum(p.numel() for p in network.parameters() if id(p) not in numbers) / sum(p.numel() for p in network.parameters())
    assert rest < 0.45


def test_the_unet_is_what_it_was():
    """Names, first weights and outputs of a U-Net from before `dropout` and `outputs`, as recorded then."""
    torch.manual_seed(0)
    network = networks.UNet(2, 8, (1, 2), classes=3)
    sums = {name: float(p.detach().double().sum()) for name, p in network.named_parameters()}
    recorded = {"embedding.layers.0.weight": -0.0751573, "embedding.label.weight": -3.2416899, "enter.weight": 0.7752686}
    assert len(sums) == 87
    assert {name: sums[name] for name in recorded} == pytest.approx(recorded, abs=1e-4)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator(parameter.numel()))
    out = network(torch.randn(2, 2, 5, 7, generator=generator()), torch.tensor([3.0, 700.0]), torch.tensor([1, -1]))
    assert float(out.detach().double().square().sum()) == pytest.approx(3.0638615, rel=1e-4)
