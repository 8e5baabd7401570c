"""Networks in the formats of other libraries, each built from the exact posterior mean in the foreign convention, by the foreign formulas."""

import dataclasses
import math
import pickle
from types import SimpleNamespace

import pytest
import torch

import scoresde as ss
from scoresde import analytic
from scoresde.interop import formats
from scoresde.models.score_model import as_output
from scoresde.models.times import LevelFromHighest

from ..conftest import generator

MIXTURE = analytic.GaussianMixture(
    torch.tensor([[[[-0.6]]], [[[0.5]]]], dtype=torch.float64), torch.tensor([0.05, 0.1], dtype=torch.float64)
)
WIDE = ss.EDM(1e-6, 1e6)
WIDE_MODEL = MIXTURE.model(WIDE)


def column(values):
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


class Exact(torch.nn.Module):
    """A network in a foreign convention. `scales(u)` are (alpha, sigma) of the state that it sees at its own time u, and
    `returns(x, eps, alpha, sigma, u)` is what it returns."""

    def __init__(self, scales, returns, order=lambda z, u: (z, u), wrap=lambda out: out):
        super().__init__()
        # The dtype of the network, so that it sees its time in float64.
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.scales, self.returns, self.order, self.wrap = scales, returns, order, wrap

    def forward(self, *args, **options):
        z, u = self.order(*args, **options)
        alpha, sigma = (column(scale).expand(len(z), 1, 1, 1) for scale in self.scales(u.double()))
        x = WIDE_MODEL.data(z / alpha, (sigma / alpha).flatten() / 1e6)
        return self.wrap(self.returns(x, (z - alpha * x) / sigma, alpha, sigma, u))


@dataclasses.dataclass
class Output:
    sample: torch.Tensor


# --- the conventions, written with the formulas of their own code -----------------------------------------------------------


def chain(betas):
    bar = torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0)

    def scales(u):
        """At whole indices."""
        at = bar[u.round().long()]
        return at.sqrt(), (1 - at).sqrt()

    return scales


def on_flow(s):
    """Data at 1, noise at 0."""
    return s, 1 - s


def noise(x, eps, alpha, sigma, u):
    return eps


def data(x, eps, alpha, sigma, u):
    return x


def vp_scales(u, low=0.1, high=20.0):
    t = u / 999
    log_mean = -0.25 * t**2 * (high - low) - 0.5 * t * low
    return log_mean.exp(), (1 - (2 * log_mean).exp()).sqrt()


def sub_vp_scales(u, low=0.1, high=20.0):
    t = u / 999
    log_mean = -0.25 * t**2 * (high - low) - 0.5 * t * low
    return log_mean.exp(), 1 - (2 * log_mean).exp()


def with_variance(x, eps, alpha, sigma, u):
    return torch.cat([eps, torch.zeros_like(eps)], 1)


def f_of_edm(x, eps, alpha, sigma, u, s=0.5):
    """alpha, sigma are those of the scaled input: c_in and c_in times the noise scale."""
    r = sigma / alpha
    return (x - s**2 / (r**2 + s**2) * (x + r * eps)) / (r * s / (r**2 + s**2).sqrt())


def edm_scales(u, s=0.5):
    r = (4 * u).exp()
    return (r**2 + s**2).rsqrt(), r * (r**2 + s**2).rsqrt()


def config(kind, continuous=True):
    """As `ConfigDict`s are: attributes."""
    model = SimpleNamespace(beta_min=0.1, beta_max=20.0, sigma_min=0.01, sigma_max=50.0, num_scales=1000)
    return SimpleNamespace(training=SimpleNamespace(sde=kind, continuous=continuous), model=model)


def levels(u):
    return torch.ones_like(u), torch.exp(torch.linspace(math.log(50.0), math.log(0.01), 1000, dtype=torch.float64))[u.long()]


def gaussian_diffusion(network, objective, betas, **options):
    return SimpleNamespace(
        model=network, betas=torch.as_tensor(betas).float(), objective=objective, self_condition=False, **options
    )


def cosine_betas(steps):
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


LINEAR = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SHORT = torch.linspace(4e-4, 0.08, 250, dtype=torch.float64)


def trigonometric(t):
    """torchcfm's variance preserving path at its own time, data at 1."""
    return torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)


VP_FLOW = ss.sde.ScalesSDE(lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t))


def vp_velocity(x, eps, alpha, sigma, u):
    return math.pi / 2 * (sigma * x - alpha * eps)


def rows():
    """Makers of models by the row of the table."""
    forward = {"direction": "noise_to_data"}
    back = {"direction": "data_to_noise"}

    def to_data(**options):
        return Exact(on_flow, lambda x, eps, *_: x - eps, **options)

    def to_noise():
        return Exact(lambda t: (1 - t, t), lambda x, eps, *_: eps - x)

    return {
        "score_sde VP": lambda: formats.score_sde(Exact(vp_scales, noise), config("vpsde")),
        "score_sde VP discrete": lambda: formats.score_sde(Exact(chain(LINEAR), noise), config("vpsde", False)),
        "score_sde sub-VP": lambda: formats.score_sde(Exact(sub_vp_scales, noise), config("subvpsde")),
        "score_sde VE": lambda: formats.score_sde(
            Exact(lambda u: (torch.ones_like(u), u), lambda x, eps, a, s, u: -eps / s), config("vesde")
        ),
        "score_sde VE discrete": lambda: formats.score_sde(Exact(levels, lambda x, eps, a, s, u: -eps / s), config("vesde", False)),
        "EDM": lambda: formats.edm(Exact(lambda u: (torch.ones_like(u), u), data)),
        "ddp noise": lambda: formats.lucidrains(gaussian_diffusion(Exact(chain(LINEAR), noise), "pred_noise", LINEAR)),
        "ddp x0": lambda: formats.lucidrains(gaussian_diffusion(Exact(chain(LINEAR), data), "pred_x0", LINEAR)),
        "ddp v": lambda: formats.lucidrains(
            gaussian_diffusion(Exact(chain(LINEAR), lambda x, eps, a, s, u: a * eps - s * x), "pred_v", LINEAR)
        ),
        "ddp elucidated": lambda: formats.lucidrains(
            SimpleNamespace(net=Exact(edm_scales, f_of_edm), sigma_min=0.002, sigma_max=80, sigma_data=0.5)
        ),
        "openai": lambda: formats.openai(Exact(chain(LINEAR), noise)),
        "openai x0, cosine": lambda: formats.openai(
            Exact(chain(cosine_betas(400)), data), diffusion_steps=400, noise_schedule="cosine", predict_xstart=True
        ),
        "openai learned, rescaled": lambda: formats.openai(
            Exact(lambda u: chain(SHORT)(u / 4), with_variance), diffusion_steps=250, learn_sigma=True, rescale_timesteps=True
        ),
        "flow to data": lambda: formats.velocity(to_data(), **forward),
        "flow to data, torchcfm": lambda: formats.velocity(to_data(order=lambda t, z: (z, t)), call=formats.time_first, **forward),
        "flow to data, flow_matching": lambda: formats.velocity(
            to_data(order=lambda *, x, t: (x, t)), call=formats.by_keyword, **forward
        ),
        "flow to noise": lambda: formats.velocity(to_noise(), **back),
        "flow to data, trigonometric": lambda: formats.velocity(Exact(trigonometric, vp_velocity), sde=VP_FLOW, **forward),
        "a tuple": lambda: formats.velocity(to_data(wrap=lambda out: (out, None)), **forward),
        "a dataclass": lambda: formats.velocity(to_data(wrap=Output), **forward),
    }


ROWS = rows()


def compared(model):
    """The model's data prediction and the exact one, of 3 states at 20 times, which are whole indices of a chain."""
    sde = model.sde
    t = sde.time(torch.linspace(3, -2, 20, dtype=torch.float64))
    if isinstance(sde, ss.sde.VPChain):
        t = (t * sde.steps).round().clamp(min=1) / sde.steps
    elif isinstance(getattr(model, "_network_time", None), LevelFromHighest):
        t = torch.exp(torch.linspace(math.log(50.0), math.log(0.01), 1000, dtype=torch.float64))[300:900:30] / 50
    states = [column(sde.alpha(t)) * x + column(sde.sigma(t)) * eps for x, eps in ((0.4, 0.7), (0.4, 1.5), (-0.9, -1.5))]
    return tuple(torch.stack([data(z, t) for z in states]) for data in (model.data, MIXTURE.model(sde).data))


@pytest.mark.parametrize("row", ROWS)
def test_a_foreign_network_gives_the_exact_posterior_mean(row):
    found, exact = compared(ROWS[row]())
    assert float((found - exact).abs().max()) < 1e-5


@pytest.mark.parametrize("row", ROWS)
def test_another_sign_or_time_is_far_off(row):
    """What the rows rest on: the same network with the other sign, and told its time from the other end."""

    def negative(module, args, out):
        return -as_output(out)

    model = ROWS[row]()
    hook = next(m for m in model.modules() if isinstance(m, Exact)).register_forward_hook(negative)
    found, exact = compared(model)
    assert float((found - exact).abs().max()) > 0.1
    hook.remove()
    told = model._network_time

    def mirrored(sde, t):
        # Over the 20 times, which fall.
        return told(sde, t).flip(0)

    model._network_time = mirrored
    found, exact = compared(model)
    assert float((found - exact).abs().max()) > 0.1


def test_a_model_can_be_pickled():
    """With networks of torch: nothing of ours is a lambda."""
    network = torch.nn.Linear(2, 2)
    for model in (
        formats.score_sde(network, config("vpsde")),
        formats.score_sde(network, config("vesde", False)),
        formats.edm(network),
        formats.openai(network, rescale_timesteps=True),
        formats.velocity(network, direction="noise_to_data", call=formats.time_first),
        formats.velocity(network, direction="data_to_noise", sde=ss.VPSDE()),
    ):
        assert type(pickle.loads(pickle.dumps(model)).network) is type(model.network)


class VDenoiser(torch.nn.Module):
    """k-diffusion's wrapper of a v-prediction, by its formulas (its module needs scikit-image)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, sigma):
        s = sigma[:, None]
        return x / (s**2 + 1) - s / (s**2 + 1).sqrt() * self.inner(x / (s**2 + 1).sqrt(), sigma.atan() / math.pi * 2)


class OfTime(torch.nn.Bilinear):
    def forward(self, z, t):
        return super().forward(z, t[:, None])


@torch.no_grad()
def test_k_diffusion_wrappers_return_the_same_data_prediction():
    """A wrapper of theirs has the form D(x, sigma) of EDM. The network inside is -F at unit scale of the data, with the time of an angle."""
    torch.manual_seed(0)
    network = OfTime(3, 1, 3, dtype=torch.float64)
    wrapper = VDenoiser(network)
    inside = ss.ScoreModel(network, ss.EDM(0.01, 50.0), ss.Preconditioned(1.0, -1), time=angle)
    z = torch.randn(5, 3, generator=generator(), dtype=torch.float64)
    for sigma in (0.05, 1.0, 20.0):
        theirs = wrapper(z, torch.full((5,), sigma, dtype=torch.float64))
        torch.testing.assert_close(inside.data(z, sigma / 50), theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(formats.edm(wrapper, sigma_max=50.0).data(z, sigma / 50), theirs, rtol=1e-12, atol=1e-12)


def angle(sde, t):
    return torch.atan(sde.sigma(t)) * 2 / math.pi


# --- ranges -----------------------------------------------------------------------------------------------------------------


def test_the_range_of_edm_is_that_of_the_network():
    """EDM1's networks have 0 and infinity."""
    for low, high, expected in ((0.0, math.inf, (0.002, 80.0)), (0.01, 50.0, (0.01, 50.0)), (0.001, 100.0, (0.002, 80.0))):
        network = torch.nn.Identity()
        network.sigma_min, network.sigma_max = low, high
        sde = formats.edm(network).sde
        assert (sde.sigma_min, sde.sigma_max) == expected
    assert formats.edm(torch.nn.Identity(), sigma_max=40.0).sde.sigma_max == 40


# --- azula and other paths --------------------------------------------------------------------------------------------------


class Backbone(torch.nn.Module):
    """A network of azula's denoisers, exact at log(sigma/alpha): sees z/sqrt(alpha^2 + sigma^2)."""

    def __init__(self, karras):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.karras = karras

    def forward(self, z, c):
        r = c.exp()
        y = z * (1 + column(r) ** 2).sqrt()
        x = WIDE_MODEL.data(y, r / 1e6)
        # data = z/(1 + r^2) + r/sqrt(1 + r^2) out, at alpha = 1
        return (x - y / (1 + column(r) ** 2)) * (1 + column(r) ** 2).sqrt() / column(r) if self.karras else x


SCHEDULES = ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["SimpleDenoiser", "KarrasDenoiser"])
def test_a_denoiser_of_azula_gives_the_exact_posterior_mean(schedule, kind):
    denoise, schedules = pytest.importorskip("azula.denoise"), pytest.importorskip("azula.noise")
    made = getattr(schedules, schedule)()
    model = formats.azula(getattr(denoise, kind)(Backbone(kind == "KarrasDenoiser"), made).eval())
    for end, t in ((0.0, "sigma_min"), (1.0, "sigma_max")):
        alpha, sigma = made(torch.tensor(end, dtype=torch.float64))
        assert getattr(model.sde, t) == pytest.approx(float(sigma / alpha), rel=1e-12)
    found, exact = compared(model)
    assert float((found - exact).abs().max()) < 1e-5
    # Told another time, it is far off.
    model.model.sde.schedule = lambda t: made(1 - (1 - t) ** 3)
    found, exact = compared(model)
    assert float((found - exact).abs().max()) > 0.1


@torch.no_grad()
def test_samples_on_the_path_of_azula_are_those_of_azula():
    """Their DDIM and ours, on the same times and from the same noise."""
    denoise, schedules, sampling = (pytest.importorskip(f"azula.{name}") for name in ("denoise", "noise", "sample"))
    made = schedules.VPSchedule()
    denoiser = denoise.SimpleDenoiser(Backbone(False), made).eval()
    model = formats.azula(denoiser)
    z = torch.randn(16, 1, 1, 1, generator=generator(), dtype=torch.float64)
    theirs = sampling.DDIMSampler(denoiser, start=1.0, stop=0.1, steps=12, silent=True, dtype=torch.float64)
    u = torch.linspace(1.0, 0.1, 13, dtype=torch.float64)
    alpha, sigma = made(u)
    grid = sigma / alpha / model.sde.sigma_max
    out = ss.sample(model, z.shape, "ddim", grid=grid, z=z / alpha[0])
    torch.testing.assert_close(out, theirs(z) / alpha[-1], rtol=0, atol=1e-9)


def test_an_object_without_a_schedule_is_refused():
    with pytest.raises(TypeError, match="a denoiser of azula with a schedule"):
        formats.azula(torch.nn.Identity())


# --- weights ----------------------------------------------------------------------------------------------------------------


class Frozen(torch.nn.Module):
    """A frozen parameter between two that are trained, as NCSN++ has its Fourier features, and a buffer."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.fourier = torch.nn.Parameter(torch.randn(3), requires_grad=False)
        self.last = torch.nn.Linear(3, 2)
        self.register_buffer("sigmas", torch.randn(4))

    def forward(self, z, labels):
        return self.last(self.first(z) * self.fourier)


def checkpoint_of(network, prefix="module."):
    """As score_sde_pytorch writes one, with averages that differ from the weights."""
    averages = [parameter.detach() + 1 for parameter in network.parameters() if parameter.requires_grad]
    model = {prefix + name: value for name, value in network.state_dict().items()}
    return {
        "optimizer": {"state": {}},
        "model": model,
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": averages},
        "step": 7,
    }


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "DataParallel"])
def test_the_average_of_score_sde_goes_to_the_right_tensors(wrapped, tmp_path):
    torch.manual_seed(0)
    source, network = Frozen(), Frozen()
    torch.save(checkpoint_of(source), tmp_path / "checkpoint_7.pth")
    model = formats.score_sde(
        torch.nn.DataParallel(network) if wrapped else network, config("vpsde"), tmp_path / "checkpoint_7.pth"
    )
    assert isinstance(model.network, torch.nn.DataParallel) == wrapped
    for name, value in network.state_dict().items():
        trained = name.startswith(("first", "last"))
        assert torch.equal(value, source.state_dict()[name] + (1 if trained else 0)), name


def test_weights_that_do_not_fit_change_nothing():
    network = Frozen()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    good = checkpoint_of(Frozen())
    averages = good["ema"]["shadow_params"]
    cases = (
        ({**good, "ema": {"shadow_params": averages[:-1]}}, "3 averages for 4 trained parameters .1 are frozen"),
        ({**good, "ema": {"shadow_params": [*averages, averages[0]]}}, "5 averages for 4 trained parameters"),
        ({**good, "ema": {"shadow_params": averages[::-1]}}, "first.weight has shape"),
        ({**good, "model": dict(list(good["model"].items())[1:])}, "missing fourier; left over none"),
        ({**good, "model": {**good["model"], "module.more": torch.zeros(1)}}, "left over more"),
        ({"model": good["model"]}, "the checkpoint has no entry ema.shadow_params"),
    )
    for checkpoint, message in cases:
        with pytest.raises(ValueError, match=message):
            formats.score_sde(network, config("vpsde"), checkpoint)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.requires_grad_(False)
    with pytest.raises(ValueError, match=r"4 averages for 0 trained parameters .5 are frozen"):
        formats.score_sde(network, config("vpsde"), good)


def diffusion_module(seed):
    """A `GaussianDiffusion`: a module with a network and the betas as a buffer."""
    torch.manual_seed(seed)
    module = torch.nn.Module()
    module.model, module.objective = Frozen(), "pred_v"
    module.register_buffer("betas", LINEAR.float())
    return module


@pytest.mark.parametrize("prefix", ["ema_model.", "ema_model.module.", "module."])
def test_weights_of_lucidrains_by_their_prefixes(prefix):
    source, target = diffusion_module(0), diffusion_module(1)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    if prefix.startswith("ema"):  # the average stands beside the plain weights
        state |= {f"online_model.{name}": value + 5 for name, value in source.state_dict().items()} | {"step": torch.tensor(3)}
        checkpoint = {"step": 3, "model": {name: value + 5 for name, value in source.state_dict().items()}, "ema": state}
    else:
        checkpoint = {"step": 3, "model": state}
    model = formats.lucidrains(target, checkpoint)
    assert model.network is target.model
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_a_file_that_is_more_than_tensors_is_not_read(tmp_path):
    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"model": Runs()}, tmp_path / "crafted.pth")
    with pytest.raises(ValueError, match=r"crafted\.pth cannot be read as tensors alone"):
        formats.score_sde(Frozen(), config("vpsde"), tmp_path / "crafted.pth")
    assert not marker.exists()
    with pytest.raises(FileNotFoundError):
        formats.score_sde(Frozen(), config("vpsde"), tmp_path / "none.pth")


def test_nothing_in_the_package_reads_pickles():
    from pathlib import Path

    for path in Path(ss.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "pickle.load" not in text, path
        assert "weights_only=False" not in text, path


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_what_is_not_known_is_refused():
    network = torch.nn.Identity()
    plain = {"model": network, "betas": LINEAR}
    for make, message in (
        (lambda: formats.score_sde(network, config("cld")), "training.sde='cld' is not known"),
        (lambda: formats.score_sde(network, {"training": {"sde": "vpsde"}}), "no entry model.beta_min"),
        (lambda: formats.score_sde(network, {"training": {}}), "no entry training.sde"),
        (lambda: formats.lucidrains(SimpleNamespace()), "has no network"),
        (
            lambda: formats.lucidrains(SimpleNamespace(**plain, objective="pred_score")),
            "objective='pred_score' and betas is not known",
        ),
        (lambda: formats.lucidrains(SimpleNamespace(model=network, objective="pred_v")), "no betas is not known"),
        (lambda: formats.lucidrains(SimpleNamespace(**plain, objective="pred_v", self_condition=True)), "self_condition=True"),
        (lambda: formats.openai(network, noise_schedule="sqrt"), "noise_schedule must be one of linear, cosine"),
        (lambda: formats.velocity(network, direction="backwards"), "direction must be one of noise_to_data, data_to_noise"),
        (lambda: formats.respaced(ss.VPSDE.cosine(100), "ddim60"), "no stride of whole indices gives 60 of 100"),
        (lambda: formats.respaced(ss.VPSDE.cosine(100), "60,10"), "asks for 60 steps of a part of 50"),
        (lambda: formats.respaced(ss.VPSDE.cosine(100), "fast"), "respacing must be like"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# --- respacing --------------------------------------------------------------------------------------------------------------


def test_respacing_keeps_indices_of_the_whole_chain():
    """By hand from the description in their code: a stride of 40, fractional strides that are rounded, and 300 steps in three parts."""
    sde = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000))
    for respacing, indices in (
        ("ddim25", [40 * k for k in range(25)]),
        ("25", [round(k * 999 / 24) for k in range(25)]),
        ("1000", list(range(1000))),
        ("1", [0]),
    ):
        grid = formats.respaced(sde, respacing)
        assert float(grid[-1]) == 0
        assert ((grid[:-1] * 1000).round().long() - 1).flip(0).tolist() == indices
    short = ss.VPSDE.cosine(300)
    parts = ((formats.respaced(short, "2,3,4")[:-1] * 300).round().long() - 1).flip(0).tolist()
    assert parts == [0, 99, 100, 150, 199, 200, 233, 266, 299]  # 49.5 is rounded to the even 50
    assert ss.plan(sde, "ddim", grid=formats.respaced(sde, "ddim25")).nfe == 25
