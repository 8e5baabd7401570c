"""Schedulers of diffusers, read: path, prediction, time and the times of steps, against what diffusers itself computes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids

from ..conftest import generator

diffusers = pytest.importorskip("diffusers")

from scoresde.interop.diffusers import from_diffusers, latents, read  # noqa: E402
from scoresde.interop.diffusers.reading import BOTH_ENDS, BOTH_ENDS_FRACTIONAL, CHAINS, WITHOUT_LOWEST  # noqa: E402

# Of diffusers under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
MIXTURE = analytic.GaussianMixture(
    torch.tensor([[[[-0.6]]], [[[0.5]]]], dtype=torch.float64), torch.tensor([0.05, 0.1], dtype=torch.float64)
)


def made(name, **options):
    return getattr(diffusers, name)(**options)


# --- the process ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.01, "num_train_timesteps": 400},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(1e-3, 0.03, 300).tolist(), "num_train_timesteps": 300},
    ],
    ids=["default", "linear", "scaled", "cosine", "trained"],
)
def test_alpha_is_that_of_the_scheduler(name, options):
    """At all times of the chain. Theirs is float32, off by 1e-6 for most schedules and 1.3e-5 for the cosine one."""
    scheduler = made(name, clip_sample=False, **options) if name.startswith("DD") else made(name, **options)
    reading = read(scheduler)
    t = torch.arange(1, len(scheduler.alphas_cumprod) + 1, dtype=torch.float64) / len(scheduler.alphas_cumprod)
    ours = reading.sde.alpha(t) ** 2
    torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-12)
    assert torch.equal(reading.network_time(t), t * len(t) - 1)
    torch.testing.assert_close(reading.time_of(reading.network_time(t)), t, rtol=0, atol=1e-15)


def test_other_beta_schedules():
    sigmoid = made("DDPMScheduler", beta_schedule="sigmoid", clip_sample=False)
    for scheduler in (sigmoid, made("DDPMScheduler", beta_schedule="laplace", clip_sample=False)):
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        torch.testing.assert_close(read(scheduler).sde.alpha(t) ** 2, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-12)


def test_the_default_betas_of_another_class_are_not_taken():
    """diffusers fills keys that were left at the default of one class with the default of another."""
    source = made("DDPMScheduler")
    moved = diffusers.HeunDiscreteScheduler.from_config(source.config)
    assert float(moved.betas[-1]) == pytest.approx(0.012)  # theirs: another process than the source's 0.02
    assert float(read(source).sde.betas[-1]) == pytest.approx(0.02)
    assert float(read(moved).sde.betas[-1]) == pytest.approx(0.012)  # as it is in memory


def test_zero_terminal_signal():
    scheduler = made("DDIMScheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False)
    reading = read(scheduler)
    assert float(reading.sde.alpha(1.0)) == 0
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(reading.sde.alpha(t) ** 2, scheduler.alphas_cumprod.double(), rtol=0, atol=5e-7)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=True with prediction_type='epsilon'"):
        read(made("DDIMScheduler", rescale_betas_zero_snr=True))


# --- the times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*BOTH_ENDS[:4], *BOTH_ENDS_FRACTIONAL[:2], "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 999, 1000])
def test_steps_start_where_those_of_the_scheduler_do(name, spacing, steps):
    scheduler = made(name, timestep_spacing=spacing, steps_offset=1)
    reading = read(scheduler)
    ours = reading.indices(steps)
    assert len(ours) == steps == len(ours.unique())
    assert float(ours[0]) <= 999
    assert float(ours[-1]) >= 0
    try:
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.double()
    except (IndexError, AssertionError, ValueError):  # with all steps of the chain
        assert steps >= 999
        return
    if len(theirs.unique()) == steps and float(theirs.max()) <= 999:
        # numpy counts the fractional points of Euler in float32.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    else:
        assert steps >= 999


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_noise_levels_of_a_rule(flag):
    scheduler = made("EulerDiscreteScheduler", **{flag: True})
    scheduler.set_timesteps(12)
    grid = read(scheduler).grid(12)
    ours = (-read(scheduler).sde.half_log_snr(grid[:-1])).exp()
    torch.testing.assert_close(ours, scheduler.sigmas[:-1].double(), rtol=2e-4, atol=0)  # theirs are of float32
    assert float(grid[-1]) == 0


def test_the_end_of_the_last_step():
    assert float(read(made("DDIMScheduler")).grid(10)[-1]) == 0
    stays = read(made("DDIMScheduler", set_alpha_to_one=False, steps_offset=1)).grid(10)
    assert float(stays[-1]) == 1 / 1000 < float(stays[-2])
    # A step from the first time to the first time would be none.
    assert float(read(made("DDIMScheduler", set_alpha_to_one=False)).grid(10)[-1]) == 0
    assert float(read(made("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min")).grid(10)[-1]) == 1 / 1000


def test_flow_times_are_shifted_once():
    """diffusers' own last noise level at shift 3 and 4 steps is 8.9e-3: its smallest sigma is shifted before and after spacing."""
    reading = read(made("FlowMatchEulerDiscreteScheduler", shift=3.0))
    plain = torch.linspace(1, 1e-3, 4, dtype=torch.float64)
    grid = reading.grid(4)
    torch.testing.assert_close(grid[:-1], 3 * plain / (1 + 2 * plain), rtol=0, atol=1e-15)
    assert float(grid[-2]) == pytest.approx(2.994e-3, rel=1e-3)
    shift = reading.sde.half_log_snr(grid[1:-1]) - reading.sde.half_log_snr(plain[1:])
    torch.testing.assert_close(shift, torch.full_like(shift, -math.log(3)), rtol=0, atol=1e-12)


def test_dynamic_shift_and_terminal():
    scheduler = made("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, shift_terminal=0.1)
    sigmas = np.linspace(1, 1 / 6, 6)
    scheduler.set_timesteps(sigmas=sigmas.tolist(), mu=0.8)
    grid = read(scheduler).from_sigmas(torch.from_numpy(sigmas), mu=0.8)
    torch.testing.assert_close(grid, scheduler.sigmas.double(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="use_dynamic_shifting=True: give mu="):
        read(scheduler).grid(6)


def test_the_shifted_grid_shifts_lambda():
    sde = ss.RectifiedFlow()
    for mu in (0.3, math.log(3), 1.15):
        moved = grids.shifted(sde, 8, shift=math.exp(mu))[1:-1]
        plain = grids.uniform(sde, 8)[1:-1]
        difference = sde.half_log_snr(moved) - sde.half_log_snr(plain)
        torch.testing.assert_close(difference, torch.full_like(difference, -mu), rtol=0, atol=1e-12)
        assert grids.shifted(sde, 8, shift=math.exp(mu))[0] == 1
    with pytest.raises(ValueError, match="moves times"):
        grids.shifted(ss.VPSDE(), 50, shift=50.0)


# --- solvers on their times ------------------------------------------------------------------------------------------------


def stepped(scheduler, model, reading, z, steps, noise=None):
    """Their own loop, with the exact score in the network's place and a generator of noise for those that take one."""
    scheduler.set_timesteps(steps)
    drawn = {} if noise is None else {"generator": noise}
    for t in scheduler.timesteps:
        z = scheduler.step(model.output(z, float(reading.time_of(t.double()))), t, z, **drawn).prev_sample
    return z


# With "linspace" their DDIM steps to the index T // N below, which is not where its next step starts.
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim_on_their_times_is_theirs(spacing, prediction):
    scheduler = made("DDIMScheduler", timestep_spacing=spacing, prediction_type=prediction, clip_sample=False)
    reading = read(scheduler)
    model = Foreign(reading)
    z = torch.randn(64, 1, 1, 1, generator=generator(), dtype=torch.float64)
    theirs = stepped(scheduler, model, reading, z, 10)
    ours = ss.sample(model, z.shape, "ddim", grid=reading.grid(10), z=z, t_start=float(reading.grid(10)[0]))
    # Their alphas are of float32.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    # With ours in float64 nothing is left of the difference.
    scheduler.alphas_cumprod = reading.sde.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000) ** 2
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(ours, stepped(scheduler, model, reading, z, 10), rtol=0, atol=1e-12)


def test_euler_on_a_flow_is_theirs():
    scheduler = made("FlowMatchEulerDiscreteScheduler", shift=1.0)
    reading = read(scheduler)
    model = Foreign(reading)
    z = torch.randn(64, 1, 1, 1, generator=generator(), dtype=torch.float64)
    theirs = stepped(scheduler, model, reading, z, 10)
    ours = ss.sample(model, z.shape, "euler", grid=reading.grid(10), z=z)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


class Foreign(ss.models.Model):
    """The exact mixture in the prediction that was read."""

    def __init__(self, reading):
        self.sde, self.prediction = reading.sde, reading.prediction
        self.inner = MIXTURE.model(reading.sde)

    def output(self, z, t, **cond):
        a, b = ss.sde.direction(self.sde, t, self.prediction)
        x = self.inner.data(z, t)
        eps = (z - self.sde.alpha(t).to(z.dtype).reshape(-1, *[1] * (z.ndim - 1)) * x) / self.sde.sigma(t).to(z.dtype).reshape(
            -1, *[1] * (z.ndim - 1)
        )
        return a.to(z.dtype).reshape(-1, 1, 1, 1) * x + b.to(z.dtype).reshape(-1, 1, 1, 1) * eps


def test_given_noise_levels_are_used_as_they_are():
    """diffusers' EDMEuler takes `sigmas` for the ramp between the ends of its own rule: its largest one is of the order of 1e14 here."""
    sigmas = torch.tensor([80.0, 10.0, 1.0, 0.01], dtype=torch.float64)
    scheduler = made("EDMEulerScheduler")
    scheduler.set_timesteps(sigmas=sigmas)
    assert float(scheduler.sigmas.abs().max()) > 1e6
    reading = read(scheduler)
    grid = reading.from_sigmas(torch.cat([sigmas, torch.zeros(1)]))
    torch.testing.assert_close(reading.sde.sigma(grid), torch.cat([sigmas, torch.zeros(1)]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_noise_levels_of_edm(name, schedule):
    scheduler = made(name, sigma_schedule=schedule)
    scheduler.set_timesteps(9)
    reading = read(scheduler)
    grid = reading.grid(9)
    torch.testing.assert_close(reading.sde.sigma(grid), scheduler.sigmas.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(reading.network_time(grid[:-1]), scheduler.timesteps.double(), rtol=0, atol=1e-6)


def test_the_shift_of_an_image_is_that_of_the_pipelines():
    """The line through (256, base_shift) and (4096, max_shift), by hand: the module of Flux's pipeline needs transformers."""
    reading = read(made("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True))
    other = read(made("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, base_shift=0.2, max_shift=2.05))
    for tokens, share in ((256, 0.0), (1216, 0.25), (2176, 0.5), (4096, 1.0)):
        assert reading.mu(tokens) == pytest.approx(0.5 + 0.65 * share, rel=1e-12)
        assert other.mu(tokens) == pytest.approx(0.2 + 1.85 * share, rel=1e-12)
    # The shift of mu is e^mu.
    sde, mu = reading.sde, reading.mu(1024)
    plain = torch.linspace(1, 0.1, 5, dtype=torch.float64)
    moved = reading.from_sigmas(plain, mu=mu)[1:-1]
    difference = sde.half_log_snr(moved) - sde.half_log_snr(plain[1:])
    torch.testing.assert_close(difference, torch.full_like(difference, -mu), rtol=0, atol=1e-12)


@pytest.mark.parametrize("flag", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_rules_for_noise_levels_of_a_flow_are_refused(flag):
    with pytest.raises(ValueError, match=f"{flag}=True on a flow.*give grid="):
        read(made("FlowMatchEulerDiscreteScheduler", **{flag: True})).grid(5)


# Theirs adds noise in the last step too where that starts above index 0, with "fixed_large" and "trailing": the samples stay noisy.
@pytest.mark.parametrize(
    ("variance", "spacing"), [("fixed_small", "leading"), ("fixed_small", "trailing"), ("fixed_large", "leading")]
)
def test_ancestral_sampling_with_their_variance_is_theirs(variance, spacing):
    """From the same noise, in the order in which both draw it."""
    scheduler = made("DDPMScheduler", variance_type=variance, clip_sample=False, timestep_spacing=spacing)
    reading = read(scheduler)
    model = Foreign(reading)
    z = torch.randn(64, 1, 1, 1, generator=generator(), dtype=torch.float64)
    theirs = stepped(scheduler, model, reading, z, 10, noise=generator(1))
    grid = reading.grid(10)
    ours = ss.sample(model, z.shape, reading.ancestral, grid=grid, z=z, t_start=float(grid[0]), generator=generator(1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    learned = read(made("DDPMScheduler", variance_type="learned_range", clip_sample=False)).ancestral
    assert isinstance(learned, ss.loops.LearnedAncestral)
    with pytest.raises(ValueError, match="variance_type=None"):
        _ = read(made("DDIMScheduler", clip_sample=False)).ancestral


# --- networks ------------------------------------------------------------------------------------------------------------


class ExactNetwork(torch.nn.Module):
    """A network in the foreign convention, from the exact posterior mean: written with the formulas of diffusers and not with ours.

    `scales(u)` are (alpha, sigma) of the state that it sees, and `returns(x, eps, z, u)` what it returns.
    """

    def __init__(self, scales, returns):
        super().__init__()
        self.scales, self.returns = scales, returns

    def forward(self, z, u):
        alpha, sigma = (torch.as_tensor(s, dtype=torch.float64).reshape(-1, 1, 1, 1) for s in self.scales(u.double()))
        # The mixture's posterior mean for z = alpha x + sigma eps depends on z/alpha and sigma/alpha alone.
        ratio = (sigma / alpha).flatten()
        sde = ss.EDM(1e-4, 1e4)
        x = MIXTURE.model(sde).data((z / alpha).double(), ratio / 1e4)
        return self.returns(x, (z - alpha * x) / sigma, alpha, sigma)


def chain_scales(scheduler):
    def scales(u):
        bar = torch.as_tensor(read(scheduler).sde.alpha((u + 1) / 1000)) ** 2
        return bar.sqrt(), (1 - bar).sqrt()

    return scales


def edm_network(sign, sigma_data):
    """F from D = c_skip x + c_out F(c_in x), with the time log(sigma)/4 and the input c_in x."""

    def scales(u):
        sigma = (4 * u).exp()
        c_in = (sigma**2 + sigma_data**2).rsqrt()
        return c_in, sigma * c_in

    def returns(x, eps, alpha, sigma):
        noise = sigma / alpha
        c_skip = sigma_data**2 / (noise**2 + sigma_data**2)
        c_out = noise * sigma_data * (noise**2 + sigma_data**2).rsqrt()
        return sign * (x - c_skip * (x + noise * eps)) / c_out

    return ExactNetwork(scales, returns)


CHAIN = {"clip_sample": False}
ROWS = {
    "epsilon": (lambda: made("DDPMScheduler", **CHAIN), lambda s: ExactNetwork(chain_scales(s), lambda x, e, a, b: e)),
    "sample": (
        lambda: made("DDPMScheduler", prediction_type="sample", **CHAIN),
        lambda s: ExactNetwork(chain_scales(s), lambda x, e, a, b: x),
    ),
    "v_prediction": (
        lambda: made("DDPMScheduler", prediction_type="v_prediction", **CHAIN),
        lambda s: ExactNetwork(chain_scales(s), lambda x, e, a, b: a * e - b * x),
    ),
    "flow": (
        lambda: made("FlowMatchEulerDiscreteScheduler"),
        lambda s: ExactNetwork(lambda u: (1 - u / 1000, u / 1000), lambda x, e, a, b: e - x),
    ),
    "inverted flow": (
        lambda: made("FlowMatchEulerDiscreteScheduler", invert_sigmas=True),
        lambda s: ExactNetwork(lambda u: (u / 1000, 1 - u / 1000), lambda x, e, a, b: x - e),
    ),
    "flow in UniPC": (
        lambda: made("UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction"),
        lambda s: ExactNetwork(lambda u: (1 - u / 1000, u / 1000), lambda x, e, a, b: e - x),
    ),
    "EDM, F": (lambda: made("EDMEulerScheduler", sigma_data=0.6), lambda s: edm_network(1, 0.6)),
    "EDM, -F": (
        lambda: made("EDMDPMSolverMultistepScheduler", prediction_type="v_prediction", sigma_data=1.0),
        lambda s: edm_network(-1, 1.0),
    ),
    "continuous v": (
        lambda: made(
            "EulerDiscreteScheduler", timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0
        ),
        lambda s: edm_network(-1, 1.0),
    ),
    "score of a VE process": (
        lambda: made("ScoreSdeVeScheduler"),
        lambda s: ExactNetwork(lambda u: (torch.ones_like(u), u), lambda x, e, a, b: -e / b),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_foreign_network_gives_the_exact_posterior_mean(row, capsys):
    """At 20 times; with the other sign it is off by far more."""
    scheduler, network = ROWS[row][0](), None
    network = ROWS[row][1](scheduler)
    model, flipped = (from_diffusers(network, scheduler, negate=negate) for negate in (None, True))
    assert capsys.readouterr().err.count(type(scheduler).__name__) == 2
    sde = model.sde
    t = sde.time(torch.linspace(3, -2, 20, dtype=torch.float64))
    z = (sde.alpha(t) * 0.4 + sde.sigma(t) * 0.7).reshape(-1, 1, 1, 1)
    exact = MIXTURE.model(sde).data(z, t)
    # The network is told its time in float32.
    torch.testing.assert_close(model.data(z, t), exact, rtol=0, atol=2e-5)
    assert float((flipped.data(z, t) - exact).abs().max()) > 0.1


def test_preconditioning_is_theirs():
    """D of the EDM schedulers from F and from -F."""
    for name, prediction in (("EDMEulerScheduler", "epsilon"), ("EDMDPMSolverMultistepScheduler", "v_prediction")):
        scheduler = made(name, prediction_type=prediction, sigma_data=0.7)
        reading = read(scheduler)
        z, out = torch.randn(2, 5, 1, 1, 1, generator=generator(), dtype=torch.float64)
        for sigma in (0.01, 0.5, 30.0):
            t = sigma / reading.sde.sigma_max
            c_z, c_out = ss.sde.conversion(reading.sde, t, reading.prediction, "data")
            theirs = scheduler.precondition_outputs(z, out, torch.tensor(sigma, dtype=torch.float64))
            torch.testing.assert_close(c_z * z + c_out * out, theirs, rtol=1e-6, atol=1e-6)
            seen = scheduler.precondition_inputs(z, torch.tensor(sigma, dtype=torch.float64))
            torch.testing.assert_close(reading.scale_model_input(z, float(reading.network_time(torch.tensor(t)))), seen)


BLOCKS = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def test_networks_of_diffusers():
    """U-Nets and DiT are called as they want to be, and half of the channels may be a variance."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4, **BLOCKS).eval()
    scheduler = made("DDPMScheduler", clip_sample=False)
    model = from_diffusers(unet, scheduler)
    z = torch.randn(2, 3, 8, 8, generator=generator())
    with torch.no_grad():
        assert torch.equal(model.output(z, 0.5), unet(z, torch.tensor([499.0, 499.0])).sample)
    double = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=6, block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4, **BLOCKS
    ).eval()
    learned = from_diffusers(double, made("DDPMScheduler", variance_type="learned_range", clip_sample=False))
    assert isinstance(learned, ss.models.LearnedVariance)
    with torch.no_grad():
        assert torch.equal(learned.output(z, 0.5), double(z, torch.tensor([499.0, 499.0])).sample[:, :3])
    z4 = torch.randn(2, 4, 8, 8, generator=generator())
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        num_embeds_ada_norm=10,
    ).eval()
    model = from_diffusers(dit, scheduler)
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        expected = dit(z4, timestep=torch.tensor([499.0, 499.0]), class_labels=labels).sample[:, :4]
        assert torch.equal(model.output(z4, 0.5, class_labels=labels), expected)


def test_what_is_not_known_is_refused():
    unet = torch.nn.Identity()
    for scheduler, message in (
        (made("DDPMScheduler"), "clip_sample=True.*clip=False"),
        (made("DDPMScheduler", thresholding=True, clip_sample=False), "thresholding=True.*thresholded"),
        (made("SCMScheduler"), "SCMScheduler is not known"),
        (made("DDIMScheduler", prediction_type="velocity", clip_sample=False), "prediction_type='velocity'"),
        (made("DPMSolverMultistepScheduler", use_flow_sigmas=True), "use_flow_sigmas=True with prediction_type='epsilon'"),
        (made("EDMEulerScheduler", prediction_type="sample"), "prediction_type='sample'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_diffusers(unet, scheduler)
    with pytest.raises(TypeError, match="needs a scheduler of diffusers"):
        read("DDPMScheduler")
    lumina = type("Lumina2Transformer2DModel", (torch.nn.Identity,), {"__module__": "diffusers.models.lumina"})()
    with pytest.raises(ValueError, match=r"Lumina2Transformer2DModel is not known.*negate="):
        from_diffusers(lumina, made("FlowMatchEulerDiscreteScheduler"))
    fourier = torch.nn.Identity()
    fourier.config = SimpleNamespace(time_embedding_type="fourier")
    with pytest.raises(ValueError, match=r"time_embedding_type='fourier'.*ScoreSdeVeScheduler"):
        from_diffusers(fourier, made("DDPMScheduler", clip_sample=False))
    assert from_diffusers(fourier, made("ScoreSdeVeScheduler")).prediction == "score"
    held = from_diffusers(ROWS["epsilon"][1](made("DDPMScheduler")), made("DDPMScheduler"), clip=True)
    assert float(held.data(torch.full((1, 1, 1, 1), 9.0, dtype=torch.float64), 0.5).abs().max()) <= 1


def test_latents_are_those_of_the_autoencoder():
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, sample_size=16, scaling_factor=0.3, shift_factor=0.1,
    ).eval()  # fmt: skip
    space = latents(vae)
    x = torch.randn(2, 3, 16, 16, generator=generator())
    with torch.no_grad():
        raw = vae.encode(x).latent_dist.mode()
        torch.testing.assert_close(space.encode(x), (raw - 0.1) * 0.3)
        torch.testing.assert_close(space.decode(space.encode(x)), vae.decode(raw).sample, rtol=1e-4, atol=1e-5)
        vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0], scaling_factor=None)
        mean, std = (torch.tensor(v).reshape(1, 4, 1, 1) for v in ([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]))
        torch.testing.assert_close(latents(vae).encode(x), (raw - mean) / std)


def test_lists_of_classes_are_those_of_diffusers():
    for name in (*CHAINS, *WITHOUT_LOWEST):
        assert hasattr(diffusers, name)


@pytest.mark.parametrize("axes", [2, 3], ids=["images", "video"])
@pytest.mark.parametrize("factor", [None, 0.13])
def test_latents_with_moments_of_every_channel(axes, factor):
    """As the pipelines of SDXL (with a factor) and Wan (without) have them: latents std/factor + mean is what the decoder sees."""
    mean, std = [0.5, -1.0], [2.0, 0.25]
    raw = torch.randn(3, 2, *[4] * axes, generator=generator())
    vae = SimpleNamespace(
        config={"latents_mean": mean, "latents_std": std, "scaling_factor": factor},
        encode=lambda x: SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: raw, sample=lambda noise: raw + 1)),
        decode=lambda seen: SimpleNamespace(sample=seen),
    )
    space = latents(vae)
    m, s = (torch.tensor(value).reshape(1, 2, *[1] * axes) for value in (mean, std))
    torch.testing.assert_close(space.encode(raw), (raw - m) * (factor or 1.0) / s)
    torch.testing.assert_close(space.encode(raw, generator()), (raw + 1 - m) * (factor or 1.0) / s)
    torch.testing.assert_close(space.decode(space.encode(raw)), raw)
    with pytest.raises(ValueError, match="neither scaling_factor nor latents_mean"):
        latents(SimpleNamespace(config={}))
