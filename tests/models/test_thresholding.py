"""Models whose data prediction is held to a range, against the exact prediction of a mixture."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import networks
from scoresde.models import compiled, thresholded

from ..conftest import SDES, OwnPrediction, generator, mixture, sdes

WIDE = 100.0
PREDICTIONS = ("noise", "data", "velocity", "edm")


def states(sde, count=16, seed=0):
    return sde.prior_std * torch.randn(count, 2, dtype=torch.float64, generator=generator(seed))


def imagen(data, low, high, q, most=math.inf):
    """One sample after the other, in the words of the paper (arXiv 2205.11487, section 2.3), for any range."""
    rows = []
    for sample in data:
        y = (sample - (low + high) / 2) / ((high - low) / 2)
        s = min(max(float(torch.quantile(y.abs().flatten(), q)), 1.0), most)
        rows.append((low + high) / 2 + (high - low) / 2 * y.clamp(-s, s) / s)
    return torch.stack(rows)


@sdes
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
def test_static_thresholding_is_the_clamp_of_the_exact_data_prediction(sde, prediction):
    exact, model = mixture().model(sde), thresholded(OwnPrediction(sde, prediction), -0.4, 0.7)
    z = states(sde)
    assert float(exact.data(z, 0.05).max()) > 0.7
    for t in (0.05, 0.4, 0.9, torch.linspace(0.1, 0.9, len(z), dtype=torch.float64)):
        clipped = exact.data(z, t).clamp(-0.4, 0.7)
        torch.testing.assert_close(model.output(z, t), clipped, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.data(z, t), clipped, rtol=0, atol=1e-12)
    # The other predictions are conversions of the clipped data: z = alpha D' + sigma eps'.
    alpha, sigma = float(sde.alpha(0.4)), float(sde.sigma(0.4))
    torch.testing.assert_close(alpha * model.data(z, 0.4) + sigma * model.noise(z, 0.4), z, rtol=0, atol=1e-10)
    assert model.prediction == "data"


@sdes
def test_prepared_times_give_the_same_as_times(sde):
    model, z = thresholded(OwnPrediction(sde, "velocity"), -0.4, 0.7), states(sde)
    times = [0.8, 0.3, 0.05]
    for prepared, t in zip(model.prepare(times, z), times, strict=True):
        torch.testing.assert_close(model.output(z, prepared), model.output(z, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "heun", "ancestral", "adaptive", "pc"])
@pytest.mark.parametrize("options", [{}, {"quantile": 0.9}])
def test_bounds_that_are_never_reached_change_no_sample(name, options):
    sde = SDES["ddpm"]
    steps = {} if name == "adaptive" else {"steps": 12}
    bare = mixture().model(sde)
    ours, theirs = (
        ss.sample(model, (6, 2), name, seeds=range(6), dtype=torch.float64, **steps)
        for model in (thresholded(bare, -WIDE, WIDE, **options), bare)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_bounds_that_are_reached_hold_the_samples():
    bare = mixture().model(SDES["ddpm"])
    model = thresholded(bare, -0.5, 0.5)
    z = states(bare.sde)
    assert float(ss.sample(bare, z.shape, "dpm++2m", steps=20, z=z).abs().max()) > 0.9
    # The last step of every deterministic solver ends in the data prediction, to the weights of its predecessors.
    assert float(ss.sample(model, z.shape, "ddim", steps=20, z=z).abs().max()) <= 0.5 + 1e-9
    hand = z
    times = ss.grids.uniform(bare.sde, 5)
    for s, t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        data = bare.data(hand, s).clamp(-0.5, 0.5)
        noise = (hand - bare.sde.alpha(s) * data) / bare.sde.sigma(s)
        hand = bare.sde.alpha(t) * data + bare.sde.sigma(t) * noise
    torch.testing.assert_close(ss.sample(model, z.shape, "ddim", grid=times, z=z), hand, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.5, 0.5), (0.0, 2.0)])
@pytest.mark.parametrize(("q", "most"), [(0.995, None), (0.8, None), (0.5, 1.5), (1.0, None), (1.0, 1.0)])
@pytest.mark.parametrize("event", [(3, 5, 7), (2,), (1,), ()])
def test_dynamic_thresholding_is_the_formula_of_the_paper(low, high, q, most, event):
    sde = SDES["ddpm"]
    model = thresholded(mixture().model(sde), low, high, quantile=q, max_scale=most)
    data = 2 * torch.randn(8, *event, dtype=torch.float64, generator=generator())
    data[0] *= 0.01  # inside the range [-1, 1]
    expected = imagen(data, low, high, q, math.inf if most is None else most)
    torch.testing.assert_close(model.threshold(data), expected, rtol=0, atol=1e-12)
    assert float(expected.min()) >= low - 1e-12
    assert float(expected.max()) <= high + 1e-12
    half = model.threshold(data.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("q", [0.01, 0.5, 0.995, 1.0])
def test_the_quantile_of_a_row_is_that_of_torch(q):
    values = torch.rand(3, 1001, dtype=torch.float64, generator=generator())
    ours = ss.models.thresholding.quantile_of_rows(values, q)
    torch.testing.assert_close(ours, torch.quantile(values, q, dim=1), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:z has a root mean square of")  # large states, to be thresholded
@pytest.mark.parametrize("options", [{}, {"quantile": 0.6}, {"quantile": 0.995, "max_scale": 1.2}])
def test_a_batch_equals_its_samples_one_by_one(options):
    sde = SDES["ddpm"]
    network = networks.MLP(6, width=16)
    torch.nn.init.normal_(list(network.parameters())[-2], generator=generator())
    model = thresholded(ss.ScoreModel(network, sde).double(), -0.3, 0.3, **options)
    z = torch.randn(5, 6, dtype=torch.float64, generator=generator(1))
    z[3] *= 20  # its own scale must not reach the others
    together = ss.sample(model, z.shape, "dpm++2m", steps=6, z=z)
    alone = torch.cat([ss.sample(model, (1, 6), "dpm++2m", steps=6, z=row[None]) for row in z])
    parts = ss.sample(model, z.shape, "dpm++2m", steps=6, z=z, batch_size=2)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-10)
    torch.testing.assert_close(parts, together, rtol=0, atol=1e-10)
    z[3] = torch.nan
    rest = [0, 1, 2, 4]
    torch.testing.assert_close(model.data(z, 0.5)[rest], model.data(z[rest], 0.5), rtol=0, atol=1e-12)


def test_conditions_dtypes_and_modes_reach_the_model_inside():
    network = networks.MLP(2, width=8, classes=3)
    bare = ss.ScoreModel(network.double(), SDES["cosine"], "velocity").eval()
    for p in bare.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator())
    model = thresholded(bare, -WIDE, WIDE)
    label = torch.tensor([0, 1, 2, 0])
    ours, theirs = (ss.sample(m, (4, 2), "ddim", steps=4, seeds=range(4), label=label, batch_size=3) for m in (model, bare))
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    assert model.device == bare.device
    assert not model.training
    bare.train()
    assert thresholded(bare).training
    assert not thresholded(bare).eval().model.training
    assert thresholded(mixture().model(SDES["cosine"])).dtype == torch.float32


def test_samples_are_differentiable():
    model = thresholded(mixture().model(SDES["ddpm"]), -0.7, 0.7)
    z = states(model.sde, 4).requires_grad_()

    def endpoint(z):
        return ss.sample(model, z.shape, "ddim", steps=3, z=z, grad=True)

    assert torch.autograd.gradcheck(endpoint, z)
    dynamic = thresholded(mixture().model(SDES["ddpm"]), -0.3, 0.3, quantile=0.7)
    assert torch.autograd.gradcheck(lambda z: dynamic.data(z, 0.3), z)
    assert not ss.sample(model, z.shape, "ddim", steps=3, z=z).requires_grad


def test_tuned_solvers_know_thresholded_models_from_bare_ones():
    bare = ss.ScoreModel(networks.MLP(2, width=8), SDES["ddpm"])
    one, same, other, dynamic = (
        thresholded(bare, *arguments, **options)
        for arguments, options in (((-1, 1), {}), ((-1, 1), {}), ((0, 1), {}), ((-1, 1), {"quantile": 0.9}))
    )
    fingerprint = ss.tuning.fitting.fingerprint
    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(model) for model in (bare, one, other, dynamic)}) == 4


def test_densities_are_those_of_the_wrapped_flow():
    bare = mixture().model(SDES["ddpm"])
    x = mixture().sample(4, generator())
    wide, narrow = (ss.log_likelihood(thresholded(bare, -a, a), x).nats for a in (WIDE, 0.6))
    exact = ss.log_likelihood(bare, x).nats
    torch.testing.assert_close(wide, exact, rtol=0, atol=1e-6)
    assert float((narrow - exact).abs().max()) > 0.1


def test_compile_reaches_the_network_inside_and_cuda_graph_refuses_with_the_remedy(monkeypatch):
    bare = ss.ScoreModel(networks.MLP(2, width=8), SDES["ddpm"])
    with pytest.raises(ValueError, match=r"of a ScoreModel, got ThresholdedModel: wrap scoresde.models.graphed\(model\)"):
        ss.sample(thresholded(bare), (4, 2), "ddim", steps=2, cuda_graph=True)
    torch._dynamo.reset()
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_network(network, backend="eager"))
    model, options = thresholded(bare, -0.2, 0.2), {"steps": 3, "seeds": range(4)}
    theirs = ss.sample(model, (4, 2), "ddim", **options)
    torch.testing.assert_close(ss.sample(thresholded(compiled(bare), -0.2, 0.2), (4, 2), "ddim", **options), theirs)
    torch.testing.assert_close(ss.sample(model, (4, 2), "ddim", compile=True, **options), theirs)
    assert compiled(model).model is compiled(bare)
    assert model.model is bare


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1.0, -1.0), {}, ValueError, "high must be larger than 1, got -1.0"),
        ((0.0, 0.0), {}, ValueError, "high must be positive, got 0.0"),
        (("a",), {}, TypeError, "low must be a number"),
        ((float("nan"),), {}, ValueError, "low must be finite"),
        ((), {"quantile": 0.0}, ValueError, "quantile must lie in"),
        ((), {"quantile": 1.5}, ValueError, "quantile must lie in"),
        ((), {"quantile": 0.9, "max_scale": 0.5}, ValueError, "max_scale must be at least 1, got 0.5"),
        ((), {"max_scale": 2.0}, ValueError, "give quantile= too"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, options, error, message):
    with pytest.raises(error, match=message):
        thresholded(mixture().model(SDES["ddpm"]), *arguments, **options)
    with pytest.raises(TypeError, match="model must be a ScoreModel or another"):
        thresholded(networks.MLP(2))
