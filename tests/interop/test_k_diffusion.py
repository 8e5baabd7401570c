"""Solvers under the samplers' contract of k-diffusion and ComfyUI."""

import importlib
import inspect
import itertools
import subprocess
import sys
import types
import warnings

import pytest
import torch

import scoresde as ss
from benchmarks.peers import k_diffusion
from scoresde import solvers
from scoresde.interop import k_diffusion as ssk

from ..conftest import generator, linear_betas

MEANS = torch.tensor([[-1.0, -1.0], [1.0, 0.5]], dtype=torch.float64)
VARIANCE = 0.05


def denoised(x, sigma, alpha=1.0, **extra):
    """E[x_0 | alpha x_0 + sigma eps = x] for a mixture of two Gaussians."""
    alpha, sigma = torch.as_tensor(alpha, dtype=torch.float64).reshape(-1, 1), sigma.double().reshape(-1, 1)
    total = alpha**2 * VARIANCE + sigma**2
    offset = x.double()[:, None] - alpha[..., None] * MEANS
    weights = (-offset.square().sum(-1) / (2 * total)).softmax(-1)
    posterior = MEANS + (alpha * VARIANCE / total)[..., None] * offset
    return (weights[..., None] * posterior).sum(1).to(x.dtype)


def karras(n, low=0.02, high=20.0, rho=7):
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.cat(
        [(high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho, torch.zeros(1, dtype=torch.float64)]
    )


SIGMAS = karras(8)


def start(sigmas=SIGMAS, dtype=torch.float64):
    return float(sigmas[0]) * torch.randn(16, 2, generator=generator(), dtype=dtype)


def theirs():
    return k_diffusion() or pytest.skip("k-diffusion is not installed")


@pytest.mark.parametrize(
    ("ours", "name"),
    [("ddim", "euler"), ("euler", "euler"), ("heun", "heun"), (solvers.DPMSolverPP(order=2, compat="midpoint"), "dpmpp_2m")],
    ids=str,
)
@pytest.mark.parametrize("part", [slice(None), slice(3, 7)], ids=["whole", "part above 0"])
def test_samplers_are_k_diffusions(ours, name, part):
    sigmas = SIGMAS[part]
    x = start(sigmas)
    if name == "dpmpp_2m" and sigmas[-1] > 0:
        pytest.skip("theirs ends at 0")
    expected = getattr(theirs(), f"sample_{name}")(denoised, x, sigmas, disable=True)
    assert float((ssk.as_k_diffusion_sampler(ours)(denoised, x, sigmas) - expected).abs().max()) < 1e-12


def test_repeated_sigmas_change_nothing_and_cost_no_call():
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma[0]))
        return denoised(x, sigma)

    sample = ssk.as_k_diffusion_sampler("dpm++2m")
    repeated = torch.cat([SIGMAS[:4], SIGMAS[3:]])
    assert torch.equal(sample(counted, start(), repeated), sample(denoised, start(), SIGMAS))
    assert calls == pytest.approx(SIGMAS[:-1].tolist(), rel=1e-15)


def test_one_sigma_returns_the_state():
    x = start()
    assert ssk.as_k_diffusion_sampler("heun")(denoised, x, SIGMAS[:1]) is x


def test_the_callback_sees_every_step():
    seen = []
    ssk.as_k_diffusion_sampler("heun")(denoised, start(), SIGMAS, callback=seen.append)
    assert [each["i"] for each in seen] == list(range(8))
    assert set(seen[0]) == {"x", "i", "sigma", "sigma_hat", "denoised"}
    for each, sigma in zip(seen, SIGMAS, strict=False):
        assert float(each["sigma"]) == pytest.approx(float(sigma), rel=1e-12)
        torch.testing.assert_close(each["denoised"], denoised(each["x"], sigma[None]), rtol=1e-12, atol=1e-12)


def test_the_model_gets_the_extra_arguments():
    def model(x, sigma, *, shift):
        return denoised(x, sigma) + shift

    sample = ssk.as_k_diffusion_sampler("ddim")
    shifted = sample(model, start(), SIGMAS, {"shift": 0.25}) - sample(denoised, start(), SIGMAS)
    assert float(shifted.abs().max()) > 0.01


class CONST:
    """The class by which ComfyUI names flows."""


def const_model():
    """A flow's model with ComfyUI's nesting: x = (1 - s) x_0 + s eps."""

    def call(x, sigma, **extra):
        return denoised(x, sigma, 1 - sigma)

    sampling = type("ModelSampling", (CONST,), {})()
    inner = types.SimpleNamespace(model_sampling=sampling)
    outer = types.SimpleNamespace(inner_model=inner)

    class Model:
        inner_model = outer

        def __call__(self, x, sigma, **extra):
            return call(x, sigma, **extra)

    return Model()


class FlowMixture(ss.Model):
    """The same mixture on the rectified flow."""

    prediction, sde = "data", ss.RectifiedFlow()

    def output(self, z, t, **cond):
        sigma = z.new_full((len(z),), float(t))
        return denoised(z, sigma, 1 - sigma)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "ancestral"])
def test_a_const_model_is_sampled_on_its_flow(name):
    sigmas = torch.linspace(1, 0, 7, dtype=torch.float64)
    x = start(sigmas)
    out = ssk.as_k_diffusion_sampler(name)(const_model(), x, sigmas, {"seed": 3})
    expected = ss.sample(FlowMixture(), x.shape, name, z=x, grid=sigmas, generator=generator(3))
    assert float((out - expected).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ["ancestral", "seeds2", "edm", "sa-solver"])
def test_noise_is_the_hosts(name):
    """A sampler, a seed, or torch's global state, which nothing else touches."""
    sample, x = ssk.as_k_diffusion_sampler(name), start()
    seeded = [sample(denoised, x, SIGMAS, {"seed": seed}) for seed in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    noise = torch.Generator().manual_seed(1)
    given = sample(denoised, x, SIGMAS, noise_sampler=lambda a, b: torch.randn(x.shape, generator=noise, dtype=x.dtype))
    assert torch.equal(given, seeded[0])
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        assert torch.equal(sample(denoised, x, SIGMAS), seeded[0])


@pytest.mark.parametrize("name", ["ancestral", "seeds2", "seeds3", "restart"])
def test_no_two_draws_share_an_interval(name):
    """A Brownian tree gives independent noises on disjoint intervals only."""
    intervals = []

    def sampler(above, below):
        intervals.append((float(above), float(below)))
        return torch.zeros(16, 2, dtype=torch.float64)

    ssk.as_k_diffusion_sampler(solvers.get(name))(denoised, start(), SIGMAS, noise_sampler=sampler)
    assert len(intervals) == len(set(intervals)) > 0
    if name != "restart":
        assert all(above > below for above, below in intervals)
        assert all(low >= next_high - 1e-12 for (_, low), (next_high, _) in itertools.pairwise(intervals))


def test_the_web_ui_finds_the_parameters_that_it_passes_by_name():
    names = inspect.signature(ssk.as_k_diffusion_sampler("unipc3")).parameters
    assert {"sigmas", "noise_sampler", "extra_args", "callback", "disable"} <= set(names)


# Fitted solvers.

CHAIN = ss.VPSDE.from_betas(linear_betas(1000))


class ChainMixture(ss.Model):
    """The mixture on the chain."""

    prediction, sde = "data", CHAIN

    def output(self, z, t, **cond):
        return denoised(z, CHAIN.sigma(t).expand(len(z)), CHAIN.alpha(t).expand(len(z)))


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the few trajectories have few samples to be judged by
        return solvers.fit(ChainMixture(), 5, shape=(2,), trajectories=32, progress=False, refine=0)


def discrete_model():
    """A model with k-diffusion's table of sigmas."""

    class Model:
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        sigmas = (CHAIN.sigma(t) / CHAIN.alpha(t)).float()

        def __call__(self, x, sigma, **extra):
            return denoised(x, sigma)

    return Model()


def test_a_fitted_solver_runs_on_the_hosts_chain(fitted, tmp_path):
    fitted.save(tmp_path / "fit.safetensors")
    model = discrete_model()
    sigmas = karras(5, 0.03, float(model.sigmas[-1]))
    x = start(sigmas)
    first = float(fitted.form.all_times[0])
    z = float(CHAIN.alpha(first)) * x
    expected = ss.sample(ChainMixture(), x.shape, fitted, z=z, t_start=first)
    for sde in (None, CHAIN):
        out = ssk.as_k_diffusion_sampler(str(tmp_path / "fit.safetensors"), sde=sde)(model, x, sigmas)
        assert float((out - expected).abs().max()) < 1e-6


def test_a_fitted_solver_refuses_other_numbers_of_steps_and_other_starts(fitted):
    sample, model = ssk.as_k_diffusion_sampler(fitted), discrete_model()
    top = float(model.sigmas[-1])
    with pytest.raises(ValueError, match="fitted for 5 calls, but the host has 6"):
        sample(model, start(), karras(6, 0.03, top))
    with pytest.raises(ValueError, match="starts at sigma"):
        sample(model, start(), karras(5, 0.03, top / 2))
    with pytest.raises(ValueError, match="give sde="):
        sample(denoised, start(), karras(5, 0.03, top))
    with pytest.raises(ValueError, match="was made for a process"):
        ssk.as_k_diffusion_sampler(fitted, sde=ss.VPSDE())(model, start(), karras(5, 0.03, top))


def test_loops_are_refused():
    with pytest.raises(TypeError, match="no table"):
        ssk.as_k_diffusion_sampler("adaptive")


# ComfyUI.


def test_the_node_runs_under_a_stub_of_comfy(monkeypatch, fitted, tmp_path):
    class KSAMPLER:
        def __init__(self, sampler_function):
            self.sampler_function = sampler_function

    comfy, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
    samplers.KSAMPLER, comfy.samplers = KSAMPLER, samplers
    monkeypatch.setitem(sys.modules, "comfy", comfy)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    (node,) = ssk.comfy_node_classes().values()
    (choices,) = node.INPUT_TYPES()["required"]["solver"]
    assert {"default", "unipc3", "ancestral"} <= set(choices)
    assert not {"adaptive", "pc"} & set(choices)
    assert node.RETURN_TYPES == ("SAMPLER",)
    run = getattr(node(), node.FUNCTION)
    (sampler,) = run(solver="unipc3")
    expected = ssk.as_k_diffusion_sampler("unipc3")(denoised, start(), SIGMAS)
    assert torch.equal(sampler.sampler_function(denoised, start(), SIGMAS), expected)
    fitted.save(tmp_path / "fit.safetensors")
    (sampler,) = run(solver="default", file=str(tmp_path / "fit.safetensors"))
    model = discrete_model()
    sampler.sampler_function(model, start(), karras(5, 0.03, float(model.sigmas[-1])))


def test_the_module_imports_no_host():
    code = "import sys; from scoresde.interop import k_diffusion; print(sorted({'k_diffusion', 'comfy', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert importlib.import_module("scoresde.interop.k_diffusion") is ssk
