"""torch.export and ONNX: networks and unrolled plans, with the batch left open."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.export import Dim

import scoresde as ss
from scoresde import networks, solvers, tuning
from scoresde.models import thresholded
from scoresde.sampling import Unrolled

from ..conftest import LOOPS, SDES, generator, mixture

BATCHES = (1, 4, 9)
BATCH = Dim("batch", min=1)
NETWORKS = {
    "mlp": (lambda: networks.MLP(3, width=8, layers=1), (3,), None),
    "mlp of an event with classes": (lambda: networks.MLP((2, 3), width=8, layers=1, classes=4), (2, 3), 4),
    "unet": (lambda: networks.UNet(1, width=8), (1, 8, 8), None),
    "unet with patches and classes": (lambda: networks.UNet(2, width=8, patch=2, classes=4, attention=(0, 1)), (2, 9, 7), 4),
}
# A path, a prediction and a solver that differ from row to row; None is the default, which makes a late first call here.
PLANS = {
    "unipc": ("ddpm", "noise", "unipc3"),
    "heun": ("edm", "edm", "heun"),
    "late": ("flow", "velocity", None),
    "ancestral": ("cosine", "velocity", "ancestral"),
    "free first step": ("linear", "data", solvers.FreeFirstStep(solvers.UniPC(order=2))),
}


def network_of(name):
    make, event, classes = NETWORKS[name]
    network = make()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator(parameter.numel()))
    return network.eval().requires_grad_(False), event, classes


def labels(classes, batch):
    return torch.arange(batch) % classes


def unrolled_of(network, plan):
    net, event, classes = network_of(network)
    sde, prediction, solver = PLANS[plan]
    model = ss.ScoreModel(net, SDES[sde], prediction)
    return ss.unroll(model, ss.plan(model, solver, nfe=4, event=event)), event, classes


def arguments(unrolled, event, batch, seed=0):
    g = generator(seed)
    z = unrolled.start_std * torch.randn(batch, *event, generator=g)
    return (z,) if not unrolled.draws else (z, torch.randn(unrolled.draws, *z.shape, generator=g))


def dynamic(unrolled):
    return ({0: BATCH}, {1: BATCH}) if unrolled.draws else ({0: BATCH},)


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_export_with_a_dynamic_batch(name):
    network, event, classes = network_of(name)
    for with_label in (False, True) if classes else (False,):

        def inputs(batch, label=with_label):
            z, t = torch.randn(batch, *event, generator=generator(batch)), torch.linspace(0, 0.9, batch)
            return (z, t, labels(classes, batch)) if label else (z, t)

        program = torch.export.export(network, inputs(4), dynamic_shapes=({0: BATCH},) * len(inputs(4))).module()
        for batch in BATCHES:
            assert float((program(*inputs(batch)) - network(*inputs(batch))).abs().max()) == 0.0


@pytest.mark.parametrize("plan", PLANS)
def test_an_unrolled_plan_is_what_sample_does(plan):
    unrolled, event, _ = unrolled_of("mlp", plan)
    g = generator(3)
    # 24 numbers: torch draws fewer than 16 in float64, so that a draw with a standard deviation is rounded once and not twice.
    z = unrolled.start_std * torch.randn(8, *event, generator=g)
    noises = torch.stack([torch.randn(z.shape, generator=g) for _ in range(unrolled.draws)]) if unrolled.draws else None
    x = ss.sample(unrolled.model, z.shape, unrolled.tableau, generator=generator(3))
    assert unrolled.nfe == (3 if plan == "heun" else 4)
    assert float((unrolled(z, noises) - x).abs().max()) == 0.0
    if plan == "late":
        assert unrolled.tableau.evaluated[0] == 1


@pytest.mark.parametrize("plan", PLANS)
def test_an_unrolled_plan_exports_with_a_dynamic_batch(plan):
    for name in ("mlp", "unet") if plan in ("unipc", "ancestral") else ("mlp",):
        unrolled, event, _ = unrolled_of(name, plan)
        program = torch.export.export(unrolled, arguments(unrolled, event, 4), dynamic_shapes=dynamic(unrolled)).module()
        for batch in BATCHES:
            given = arguments(unrolled, event, batch, seed=batch)
            assert relative(program(*given), unrolled(*given)) <= 1e-5


def test_conditions_and_wrapped_models_export_too():
    unrolled, event, classes = unrolled_of("mlp of an event with classes", "unipc")
    model = thresholded(unrolled.model, -1, 1)
    unrolled = ss.unroll(model, unrolled.tableau)
    shapes = ({0: BATCH}, None, {"label": {0: BATCH}})
    z = arguments(unrolled, event, 4)[0]
    program = torch.export.export(unrolled, (z, None, {"label": labels(classes, 4)}), dynamic_shapes=shapes).module()
    for batch in BATCHES:
        z = arguments(unrolled, event, batch)[0]
        x = ss.sample(model, z.shape, unrolled.tableau, z=z, label=labels(classes, batch))
        assert float((program(z, None, {"label": labels(classes, batch)}) - x).abs().max()) == 0.0
        assert x.abs().max() > 0


def test_a_fitted_solver_unrolls(tmp_path):
    model = mixture().model(SDES["flow"])
    fitted = solvers.fit(model, 4, shape=(2,), trajectories=32, reference_steps=64, progress=False)
    z = torch.randn(6, 2, generator=generator())
    x = ss.sample(model, z.shape, fitted, z=z)
    fitted.save(tmp_path / "fitted.safetensors")
    for given in (fitted, tmp_path / "fitted.safetensors", ss.plan(model, fitted)):
        assert float((ss.unroll(model, given)(z) - x).abs().max()) == 0.0
    assert isinstance(tuning.load(tmp_path / "fitted.safetensors"), tuning.FittedSolver)


def test_jit_trace_and_gradients():
    unrolled, event, _ = unrolled_of("mlp", "heun")
    (z,) = arguments(unrolled, event, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(unrolled, (z,))
    (other,) = arguments(unrolled, event, 4, seed=1)
    assert float((traced(other) - unrolled(other)).abs().max()) == 0.0
    (slope,) = torch.autograd.grad(unrolled(z.requires_grad_()).sum(), z)
    assert slope.abs().min() > 0


def test_the_dtype_of_the_network_may_change_later():
    unrolled, event, _ = unrolled_of("mlp", "unipc")
    (z,) = arguments(unrolled, event, 3)
    for dtype in (torch.bfloat16, torch.float64):
        moved = copy.deepcopy(unrolled).to(dtype)
        x = ss.sample(moved.model, z.shape, unrolled.tableau, z=z)
        assert float((moved(z) - x).abs().max()) == 0.0
    # In bfloat16 itself the index 998 would be 1000.
    assert float(copy.deepcopy(unrolled).to(torch.bfloat16)._times[0].time) == 999


def test_what_cannot_be_unrolled_is_refused_by_name():
    unrolled, event, _ = unrolled_of("mlp", "ancestral")
    model, z = unrolled.model, arguments(unrolled, event, 2)[0]
    with pytest.raises(ValueError, match=rf"draws {unrolled.draws} noises"):
        unrolled(z)
    with pytest.raises(ValueError, match="needs noises of shape"):
        unrolled(z, torch.zeros(1, 2, 3))
    plain = ss.unroll(model, ss.plan(model, "ddim", steps=2))
    with pytest.raises(ValueError, match="draws no noise"):
        plain(z, torch.zeros(1, 2, 3))
    for name in LOOPS:
        with pytest.raises(ValueError, match="is a loop"):
            ss.unroll(model, ss.plan(model, name, **({} if isinstance(solvers.get(name), ss.loops.AdaptiveLoop) else {"steps": 3})))
    with pytest.raises(ValueError, match="made for a process"):
        ss.unroll(model, ss.plan(ss.VPSDE(), "ddim", steps=2))
    with pytest.raises(ValueError, match="steps= or nfe="):
        ss.unroll(model, "ddim")
    with pytest.raises(TypeError, match="ScoreModel"):
        ss.unroll(model.network, ss.plan(model, "ddim", steps=2))


def test_the_given_state_is_not_changed():
    unrolled, event, _ = unrolled_of("mlp", "ancestral")
    given = arguments(unrolled, event, 2)
    before = [part.clone() for part in given]
    unrolled(*given)
    assert all(torch.equal(part, old) for part, old in zip(given, before, strict=True))
    assert isinstance(unrolled, Unrolled)


# --- ONNX -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    """(module, arguments, dynamic shapes) -> a function that runs the exported file."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")

    def of(module, given, shapes, path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, given, path, dynamo=True, dynamic_shapes=shapes, verbose=False, external_data=False)
        loaded = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [part.name for part in loaded.get_inputs()]
        return lambda *parts: torch.from_numpy(loaded.run(None, dict(zip(names, (part.numpy() for part in parts), strict=True)))[0])

    return of


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_run_in_onnx(name, session, tmp_path):
    network, event, classes = network_of(name)

    def inputs(batch):
        z, t = torch.randn(batch, *event, generator=generator(batch)), torch.linspace(0, 0.9, batch)
        return (z, t, labels(classes, batch)) if classes else (z, t)

    run = session(network, inputs(4), ({0: BATCH},) * len(inputs(4)), tmp_path / "network.onnx")
    for batch in BATCHES:
        assert relative(run(*inputs(batch)), network(*inputs(batch))) <= 1e-5


@pytest.mark.parametrize("plan", ["late", "ancestral"])
def test_an_unrolled_plan_runs_in_onnx(plan, session, tmp_path):
    unrolled, event, _ = unrolled_of("mlp", plan)
    run = session(unrolled, arguments(unrolled, event, 4), dynamic(unrolled), tmp_path / "plan.onnx")
    for batch in BATCHES:
        given = arguments(unrolled, event, batch, seed=batch)
        assert relative(run(*given), unrolled(*given)) <= 1e-5
