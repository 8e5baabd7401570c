"""Networks as people write them: in place, wrapped, with tuples, tables of times and layers that know of training."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import scoresde as ss
from scoresde import networks

from ..conftest import generator, linear_betas

CHAIN = ss.VPSDE.from_betas(linear_betas(100))
SOLVERS = ("ddim", "heun", "dpm++3m", "unipc3", "ancestral", "pc", "adaptive")


def budget(name):
    return {} if name == "adaptive" else {"steps": 5}


class Plain(torch.nn.Module):
    """tanh(z/2), out of place."""

    def forward(self, z, t, **cond):
        return torch.tanh(z * 0.5)


class InPlace(torch.nn.Module):
    def forward(self, z, t, **cond):
        return z.mul_(0.5).tanh_()


class OneBuffer(torch.nn.Module):
    """Returns the same memory in every call, as a network behind a CUDA graph does."""

    def __init__(self):
        super().__init__()
        self.out = None

    def forward(self, z, t, **cond):
        if self.out is None or self.out.shape != z.shape:
            self.out = torch.empty_like(z)
        return self.out.copy_(torch.tanh(z * 0.5))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("network", [InPlace, OneBuffer])
@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
def test_a_network_may_reuse_its_memory(network, name, prediction):
    """Input and output belong to the network only during the call: the samples are those of the network written out of place."""
    if network is OneBuffer and name == "adaptive":
        pytest.skip("an adaptive solver calls with batches of changing size")
    samples = [
        ss.sample(ss.ScoreModel(net(), CHAIN, prediction), (3, 2), name, seeds=range(3), **budget(name)) for net in (Plain, network)
    ]
    assert torch.equal(*samples)


@pytest.mark.parametrize("quantity", ["data", "noise", "score", "velocity"])
def test_a_network_in_place_leaves_the_callers_state_alone(quantity):
    z = torch.ones(2, 2)
    read = [getattr(ss.ScoreModel(net(), CHAIN, "data"), quantity)(z, 0.5) for net in (Plain, InPlace)]
    assert torch.equal(*read)
    assert torch.equal(z, torch.ones(2, 2))


def test_times_of_the_caller_are_not_lent():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, z, t):
            return z * t.mul_(0.5)[:, None] * self.weight

    t = torch.tensor([0.2, 0.4], dtype=torch.float64)
    ss.ScoreModel(Network(), ss.VPSDE(), "data", time="t").data(torch.ones(2, 2), t)
    assert t.tolist() == [0.2, 0.4]


def test_a_condition_that_the_network_changes_is_refused():
    class Network(torch.nn.Module):
        def forward(self, z, t, shift):
            return z + shift.add_(1)

    with pytest.raises(ValueError, match="changed one of its conditions shift in place"):
        ss.sample(ss.ScoreModel(Network(), CHAIN), (2, 2), "ddim", steps=2, shift=torch.zeros(2, 2))


def test_a_callback_that_changes_the_state_is_refused():
    with pytest.raises(ValueError, match="the callback changed the state of step 0 in place"):
        ss.sample(ss.ScoreModel(Plain(), CHAIN), (2, 2), "ddim", steps=2, callback=lambda n, t, z, data: z.zero_())


@dataclass
class Output:
    sample: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        Output,
        lambda out: (out,),
        lambda out: [out, None],
        lambda out: {"sample": out},
        lambda out: {"x": out},
        lambda out: SimpleNamespace(sample=out),
    ],
    ids=["dataclass", "tuple", "list", "dict", "dict of one", "namespace"],
)
def test_the_tensor_is_found_in_what_a_network_returns(wrap):
    class Network(Plain):
        def forward(self, z, t):
            return wrap(super().forward(z, t))

    samples = [ss.sample(ss.ScoreModel(net, CHAIN), (2, 2), "ddim", steps=3, seeds=range(2)) for net in (Network(), Plain())]
    assert torch.equal(*samples)


@pytest.mark.parametrize("out", [None, "x", (), {}, (None,), 3.0], ids=str)
def test_a_network_that_returns_no_tensor_is_told_so(out):
    class Network(torch.nn.Module):
        def forward(self, z, t):
            return out

    with pytest.raises(TypeError, match="in which no tensor is found"):
        ss.sample(ss.ScoreModel(Network(), CHAIN), (2, 2), "ddim", steps=2)


class Wrapper(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z, t, **cond):
        return self.inner(z, t, **cond)


@pytest.mark.parametrize(
    "wrap",
    [Wrapper, torch.nn.DataParallel, lambda net: Wrapper(Wrapper(net)), lambda net: torch.compile(net, backend="eager")],
    ids=["wrapper", "DataParallel", "twice", "compile"],
)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDM(), ss.RectifiedFlow(), CHAIN], ids=repr)
def test_a_wrapper_does_not_hide_the_time_convention(sde, wrap):
    bare = networks.MLP(2, 16)
    for parameter in bare.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator())
    z = torch.ones(2, 2)
    expected = ss.ScoreModel(bare, sde, "velocity").data(z, 0.5)
    fresh = networks.MLP(2, 16)
    fresh.load_state_dict(bare.state_dict())
    torch.testing.assert_close(ss.ScoreModel(wrap(fresh), sde, "velocity").data(z, 0.5), expected)


def test_a_table_of_times_gets_integers():
    seen = []

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(100, 2)

        def forward(self, z, t):
            seen.append(t)
            return z * 0 + self.table(t)

    model = ss.ScoreModel(Table(), CHAIN, time=lambda sde, t: (t * sde.steps - 1).round().long())
    ss.sample(model, (3, 2), "ddim", steps=4, grid="ddpm")
    assert [t.tolist() for t in seen] == [[99] * 3, [74] * 3, [49] * 3, [24] * 3]
    assert seen[0].dtype == torch.int64
    model.data(torch.zeros(3, 2), torch.tensor([0.01, 0.5, 1.0]))
    assert seen[-1].tolist() == [0, 49, 99]


@pytest.mark.parametrize("t", [0.5, torch.tensor(0.5), torch.tensor([0.25, 0.5, 1.0])], ids=["float", "scalar", "batch"])
def test_times_may_have_more_axes(t):
    class Column(torch.nn.Module):
        def forward(self, z, t):
            assert t.shape == (3, 1)
            return z * t

    z, model = torch.ones(3, 2), ss.ScoreModel(Column(), ss.VPSDE(), "data", time=lambda sde, t: t[:, None])
    torch.testing.assert_close(model.data(z, t), z * torch.as_tensor(t).expand(3)[:, None])
    assert ss.sample(model, (3, 2), "dpm++2m", steps=3).shape == (3, 2)


def test_a_time_function_must_return_one_time_each():
    with pytest.raises(ValueError, match="one entry for each of 1 times"):
        ss.ScoreModel(Plain(), ss.VPSDE(), time=lambda sde, t: torch.zeros(7)).data(torch.ones(2, 2), 0.5)


@pytest.mark.parametrize(
    "layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2), torch.nn.RReLU()], ids=lambda layer: type(layer).__name__
)
def test_sampling_in_training_mode_is_told_with_the_remedy(layer):
    model = ss.ScoreModel(torch.nn.Sequential(layer), ss.VPSDE(), "data")
    model.network.forward = lambda z, t: layer(z)
    calls = (
        lambda: ss.sample(model, (3, 2), "ddim", steps=2),
        lambda: ss.encode(model, torch.zeros(3, 2), steps=500),
        lambda: ss.log_likelihood(model.double(), torch.zeros(3, 2, dtype=torch.float64), rtol=0.1, atol=0.1),
    )
    with pytest.warns(UserWarning, match=rf"training mode, in which {type(layer).__name__} .* call model\.eval\(\) first"):
        calls[0]()
    model.eval()
    calls[0]()  # warnings are errors here


def test_layers_that_do_nothing_in_training_are_not_told():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.0), torch.nn.LayerNorm(2))

        def forward(self, z, t):
            return self.net(z)

    ss.sample(ss.ScoreModel(Network(), CHAIN), (2, 2), "ddim", steps=2)


def test_what_is_no_network_or_no_path_is_refused():
    with pytest.raises(TypeError, match="network must be a module"):
        ss.ScoreModel(None, ss.VPSDE())
    with pytest.raises(TypeError, match="network must be a module"):
        ss.ScoreModel(networks.MLP, ss.VPSDE())
    with pytest.raises(TypeError, match="sde must be a path"):
        ss.ScoreModel(Plain(), "vp")


def test_export_and_vmap_take_tensors_of_times():
    model = ss.ScoreModel(networks.MLP(2, 16), ss.VPSDE.cosine(100)).eval()
    z, t = torch.zeros(2, 2), torch.tensor([0.3, 0.5])
    exported = torch.export.export(model, (z, t))
    torch.testing.assert_close(exported.module()(z, t), model(z, t))
    torch.testing.assert_close(torch.func.vmap(lambda z, t: model.noise(z[None], t)[0])(z, t), model.noise(z, t))
