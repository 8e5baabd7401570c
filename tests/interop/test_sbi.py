"""Posterior networks of sbi as score models: a stub with sbi's interface and an exact posterior, and sbi's own estimators if installed."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Uniform

import scoresde as ss
from scoresde.interop.sbi import posterior_model, sample_posterior, within_prior
from scoresde.sde import conversion

from ..conftest import generator

# theta ~ N(0, P), x = theta + N(0, R): the posterior is N(C R^-1 x, C) with C = (P^-1 + R^-1)^-1, diagonal here.
PRIOR, NOISE = torch.tensor([4.0, 0.5]), torch.tensor([1.0, 0.25])
VARIANCE = 1 / (1 / PRIOR + 1 / NOISE)
X_O = torch.tensor([1.5, -0.8])


def exact(x):
    return VARIANCE / NOISE * x


class Stub(nn.Module):
    """sbi's estimator of this posterior, without a network: its attributes, its shapes and its times, as in sbi 0.27."""

    input_shape, condition_shape = torch.Size([2]), torch.Size([2])

    def __init__(self, kind, t_min=1e-3, t_max=1.0):
        super().__init__()
        self.kind, self.t_min, self.t_max = kind, t_min, t_max
        self.beta_min, self.beta_max = 0.01, 10.0
        if kind == "ve":
            self.sigma_min, self.sigma_max = 1e-3, 20.0
        if kind == "flow":
            self.noise_scale, self.t_min = 1e-3, 0.0
        base = torch.zeros(1, 2), torch.ones(1, 2)
        if kind != "flow":
            # sbi takes the moments of the prior here, and with them an error of its own. These are those of the posterior at X_O.
            a, s = self.mean_t_fn(torch.tensor([t_max])), self.std_fn(torch.tensor([t_max]))
            base = a * exact(X_O), (a**2 * VARIANCE + s**2).sqrt()
        self.register_buffer("mean_base", base[0])
        self.register_buffer("std_base", base[1])

    def mean_t_fn(self, times):
        b = 0.5 * times**2 * (self.beta_max - self.beta_min) + times * self.beta_min
        return {"ve": torch.ones_like(times), "flow": 1 - times}.get(self.kind, torch.exp(-b / 2))[..., None]

    def std_fn(self, times):
        b = 0.5 * times**2 * (self.beta_max - self.beta_min) + times * self.beta_min
        if self.kind == "ve":
            return (self.sigma_min * (self.sigma_max / self.sigma_min) ** times)[..., None]
        if self.kind == "flow":
            return (times + self.noise_scale)[..., None]
        fraction = 1 - torch.exp(-b)
        return (fraction.sqrt() if self.kind == "vp" else fraction)[..., None]

    def forward(self, input, condition, time):
        assert time.shape == input.shape[:1]
        assert condition.shape in ((1, 2), input.shape)
        assert float(time.min()) >= self.t_min
        assert float(time.max()) <= self.t_max
        m, a, s = exact(condition), self.mean_t_fn(time), self.std_fn(time)
        variance = a**2 * VARIANCE + s**2
        if self.kind == "flow":  # E[eps - theta | theta_t]
            data = m + a * VARIANCE / variance * (input - a * m)
            return (input - a * data) / s - data
        return -(input - a * m) / variance


KINDS = ("vp", "subvp", "ve", "flow")


def posterior(kind, prior=None, **options):
    prior = prior or MultivariateNormal(torch.zeros(2), PRIOR.diag())
    return SimpleNamespace(vector_field_estimator=Stub(kind, **options), prior=prior, default_x=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t_max", [1.0, 0.9])
def test_the_model_has_the_exact_score(kind, t_max):
    if kind == "flow" and t_max != 1:
        return  # a flow of sbi always ends at 1
    model = posterior_model(posterior(kind, t_max=t_max), X_O)
    z = torch.randn(20, 2, generator=generator(), dtype=torch.float64)
    for t in torch.linspace(model.sde.t_min, 0.99, 20).tolist():
        a, s = model.sde.alpha(t), model.sde.sigma(t)
        m = exact(X_O)
        data = m + a * VARIANCE / (a**2 * VARIANCE + s**2) * (z - a * m)
        # A float32 estimator of the score: its error reaches the data prediction with the factor of the conversion.
        found = model.data(z, t)
        factor = abs(float(conversion(model.sde, t, model.prediction, "data")[1]) / float(a * VARIANCE.max() + s**2))
        assert float((found - data).abs().max()) <= 2e-6 * max(1.0, factor) * (1 + float(z.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_posterior(kind):
    model = posterior_model(posterior(kind), X_O)
    theta = sample_posterior(model, 20_000, "unipc3", nfe=20, generator=generator(1))
    n = len(theta)
    assert theta.shape == (20_000, 2)
    assert ((theta.mean(0) - exact(X_O)).abs() <= 5 * (VARIANCE / n).sqrt() + 0.004).all()
    assert ((theta.var(0) / VARIANCE - 1).abs() <= 5 * math.sqrt(2 / n) + 0.01).all()
    assert (theta.T.corrcoef()[0, 1]).abs() <= 5 / math.sqrt(n)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sign_and_the_time_matter(kind):
    """The same check with a wrong sign and with reversed times fails, so that it can fail."""
    model = posterior_model(posterior(kind), X_O)
    z, right = torch.randn(20, 2, generator=generator()), model.data
    estimator, forward = model.estimator, Stub.forward
    for wrong in (
        lambda input, condition, time: -forward(estimator, input, condition, time),
        lambda input, condition, time: forward(estimator, input, condition, (1 - time).clamp(estimator.t_min, 1)),
    ):
        before = right(z, 0.3)
        estimator.forward = wrong
        assert float((model.data(z, 0.3) - before).abs().max()) > 0.1
        del estimator.forward


def test_one_observation_for_each_sample():
    model = posterior_model(posterior("vp"))
    xs = torch.randn(3, 2, generator=generator())
    z = model.start(3, generator(2))
    x = ss.sample(model, z.shape, "ddim", steps=5, z=z, x=xs)
    for k in range(3):
        alone = posterior_model(posterior("vp"), xs[k])
        torch.testing.assert_close(ss.sample(alone, (1, 2), "ddim", steps=5, z=z[k : k + 1]), x[k : k + 1], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no observation"):
        ss.sample(model, z.shape, "ddim", steps=2, z=z)
    with pytest.raises(ValueError, match="x= to sample"):
        sample_posterior(model, 3, nfe=5, x=xs)


def test_the_start_is_the_base_distribution():
    for kind in KINDS:
        model = posterior_model(posterior(kind), X_O)
        z = model.start(50_000, generator(3))
        assert (z.std(0) / model.estimator.std_base - 1).abs().max() <= 0.02
        assert torch.equal(model.start(4, seeds=range(4))[2], model.start(1, seeds=[2])[0])


def test_samples_outside_the_prior_are_drawn_again():
    prior = Independent(Uniform(-torch.ones(2), torch.tensor([1.0, -0.2]), validate_args=False), 1)
    model = posterior_model(posterior("vp", prior), X_O)
    theta = sample_posterior(model, 500, "ddim", nfe=5, generator=generator())
    assert theta.shape == (500, 2)
    assert bool(within_prior(prior, theta).all())
    raw = ss.sample(model, (500, 2), "ddim", nfe=5, z=model.start(500, generator()))
    assert 0.1 < within_prior(prior, raw).float().mean() < 0.9
    far = Independent(Uniform(torch.full((2,), 100.0), torch.full((2,), 101.0)), 1)
    with pytest.raises(RuntimeError, match=r"of 200 samples only 0"):
        sample_posterior(posterior_model(posterior("vp", far), X_O), 2, "ddim", nfe=2)
    # A prior without a support says by its density where it is.
    dense = SimpleNamespace(log_prob=lambda theta: torch.where(theta[:, 0] > 0, 0.0, -torch.inf))
    assert torch.equal(within_prior(dense, theta), theta[:, 0] > 0)


def test_an_estimator_without_a_posterior():
    model = posterior_model(Stub("vp"), X_O)
    assert model.prior is None
    assert sample_posterior(model, 7, "ddim", nfe=3).shape == (7, 2)


def test_standardised_parameters_come_back():
    estimator = Stub("vp")
    estimator.compose_enabled, estimator.from_z = True, lambda z: 10 + 2 * z
    model = posterior_model(estimator, X_O)
    z = model.start(5, generator())
    theta = sample_posterior(model, 5, "ddim", nfe=4, generator=generator())
    assert torch.equal(theta, 10 + 2 * ss.sample(model, z.shape, "ddim", nfe=4, z=z))


def test_what_is_no_posterior_network_is_refused_by_name():
    with pytest.raises(TypeError, match=r"NPSE or FMPE.*SimpleNamespace has no input_shape"):
        posterior_model(SimpleNamespace(), X_O)
    for x_o, said in ((torch.zeros(3), r"shape \(2,\), got \(3,\)"), (torch.zeros(4, 2), "several observations")):
        with pytest.raises(ValueError, match=said):
            posterior_model(posterior("vp"), x_o)
    odd = Stub("vp")
    odd.mean_t_fn = lambda times: (1 - times**3)[..., None]
    with pytest.raises(ValueError, match=r"none of sbi's own.*VPSDE is off by"):
        posterior_model(odd, X_O)


# --- sbi itself --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "kind"), [("NPSE", "ve"), ("NPSE", "vp"), ("NPSE", "subvp"), ("FMPE", None)])
def test_sbi_itself(method, kind, tmp_path, monkeypatch):
    sbi = pytest.importorskip("sbi.inference", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)  # sbi writes a log
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.tensor([3.0, 0.0]), PRIOR.diag())
    theta = prior.sample((200,))
    inference = getattr(sbi, method)(prior=prior, show_progress_bars=False, **({"sde_type": kind} if kind else {}))
    inference.append_simulations(theta, theta + NOISE.sqrt() * torch.randn_like(theta))
    estimator = inference.train(max_num_epochs=1)
    built = inference.build_posterior()
    built.set_default_x(X_O)
    model = posterior_model(built)
    z = torch.randn(6, 2, generator=generator())
    # The score of both at equal states, also where their path is scaled.
    scale = model.network.scale
    for t in (0.1, 0.5, 0.9):
        theirs = scale * estimator.score(scale * z, X_O[None], model.network_time(t).float())
        if method == "FMPE":
            theirs = theirs / scale  # sbi 0.27 takes (1 - t) v + z for eps, which is (1 + noise_scale) eps
        assert float((model.score(z, t) - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())
    # The same ODE, solved finely by both, from the same start: the samples have the same law.
    ours = sample_posterior(model, 400, "heun", steps=64, generator=generator())
    ode = inference.build_posterior(sample_with="ode")
    theirs = ode.sample((400,), x=X_O, show_progress_bars=False)
    assert ours.shape == theirs.shape
    spread = theirs.std(0) / math.sqrt(400)
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 6 * spread + 0.05).all()
    assert ((ours.std(0) / theirs.std(0)).log().abs() <= 0.25).all()
