"""Posteriors of linear observations against the exact ones."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, inverse, models, networks
from scoresde.inverse import Gaussian, Poisson, Posterior, covariances, operators
from scoresde.numerics.cost import counted

from ..conftest import SDES, OwnPrediction, generator, mixture
from .conftest import covariance, distance, gaussian_prior, moments, observation_matrix, posterior, starts

PATHS = {name: SDES[name] for name in ("linear", "ddpm", "edm", "flow")}
paths = pytest.mark.parametrize("sde", PATHS.values(), ids=PATHS.keys())
STD = 0.3


def problem(std=STD, seed=0):
    """A Gaussian prior, a matrix, an observation and the exact posterior."""
    prior, a = gaussian_prior(seed=seed), observation_matrix()
    y = torch.tensor([0.7, -0.4], dtype=torch.float64)
    return prior, a, y, posterior(prior, a, std, y)


def states(sde, count=6, d=4, seed=0):
    return sde.prior_std * torch.randn(count, d, dtype=torch.float64, generator=generator(seed))


def full(mix):
    return mix.basis[0] @ torch.diag(mix.variances[0]) @ mix.basis[0].T


@paths
@pytest.mark.parametrize("prediction", ["data", "noise", "velocity"])
@pytest.mark.parametrize("solve", ["cg", "gmres"])
def test_tweedie_and_the_priors_covariance_are_exact_for_a_gaussian(sde, prediction, solve):
    prior, a, y, exact = problem()
    truth, base = exact.model(sde), OwnPrediction(sde, prediction, prior)
    lik = Gaussian(operators.matrix(a), STD)
    z = states(sde)
    options = {"solve": solve, "tolerance": 1e-13}
    for post in (inverse.mmps(base, lik, **options), inverse.jfps(base, lik, full(prior), **options)):
        for t in (0.05, 0.4, 0.95, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
            out = post.data(z, t, y=y[None])
            lost = 1e-10 * (1 if prediction == "data" else float((sde.sigma(t) / sde.alpha(t)).max().clamp(min=1)))
            torch.testing.assert_close(out, truth.data(z, t), rtol=0, atol=lost)
        prepared = post.prepare([0.8, 0.4], z)[1]
        torch.testing.assert_close(post.output(z, prepared, y=y[None]), post.output(z, 0.4, y=y[None]), rtol=0, atol=1e-11)


@paths
@pytest.mark.parametrize("std", [STD, 1e-3])
def test_samples_of_the_posterior_of_a_gaussian(sde, std):
    """Exact moments of the sampler: the model is affine in z, so that d + 1 starts give them."""
    prior, a, y, exact = problem(std)
    mean, cov = exact.means[0], full(exact)
    post = inverse.mmps(prior.model(sde), Gaussian(operators.matrix(a), std))

    def run(steps):
        def draw(model, z):
            return ss.sample(model, z.shape, "dpm++2m", steps=steps, z=z, y=y[None])

        # From the posterior's own law at t = 1, so that the error is that of the steps alone.
        alpha, sigma = float(sde.alpha(1.0)), float(sde.sigma(1.0))
        spread = torch.linalg.cholesky(alpha**2 * cov + sigma**2 * torch.eye(4, dtype=torch.float64))
        z = alpha * mean + torch.cat([torch.zeros(1, 4, dtype=torch.float64), spread.T])
        return distance(*moments(post, z, draw), mean, cov)

    assert run(20) <= 0.05
    assert run(200) <= 6e-3


def test_a_flow_starts_where_there_is_no_signal():
    prior, a, y, exact = problem()
    sde = ss.RectifiedFlow()
    post = inverse.mmps(OwnPrediction(sde, "velocity", prior), Gaussian(operators.matrix(a), STD))
    out = post.data(states(sde), 1.0, y=y[None])
    # Without a signal the posterior mean of the data is that of the observation alone, to alpha/sigma = 1e-3.
    torch.testing.assert_close(out, exact.means.expand_as(out), rtol=0, atol=5e-3)
    single = inverse.mmps(OwnPrediction(sde, "velocity", prior), Gaussian(operators.matrix(a.float()), STD))
    assert bool(single.data(states(sde).float(), 1.0, y=y[None].float()).isfinite().all())


@paths
def test_pigdm_is_exact_for_an_isotropic_prior_and_tmpd_where_the_covariance_is_diagonal(sde):
    mean = torch.randn(1, 4, dtype=torch.float64, generator=generator(3))
    a, y = observation_matrix(), torch.tensor([0.7, -0.4], dtype=torch.float64)
    isotropic = analytic.GaussianMixture(mean, 0.6 * torch.eye(4, dtype=torch.float64)[None])
    z = states(sde)
    ours = inverse.pigdm(isotropic.model(sde), Gaussian(operators.matrix(a), STD), 0.6, tolerance=1e-13)
    diagonal = torch.tensor([0.2, 0.5, 1.0, 1.5], dtype=torch.float64)
    prior = analytic.GaussianMixture(mean, torch.diag(diagonal)[None])
    rows = torch.eye(4, dtype=torch.float64)[[1, 3]] * torch.tensor([[2.0], [0.5]], dtype=torch.float64)
    theirs = inverse.tmpd(prior.model(sde), Gaussian(operators.matrix(rows), STD))
    for t in (0.05, 0.4, 0.95):
        exact = posterior(isotropic, a, STD, y).model(sde).data(z, t)
        torch.testing.assert_close(ours.data(z, t, y=y[None]), exact, rtol=0, atol=1e-10)
        exact = posterior(prior, rows, STD, y).model(sde).data(z, t)
        torch.testing.assert_close(theirs.data(z, t, y=y[None]), exact, rtol=0, atol=1e-10)


def test_every_other_pairing_is_biased_by_as_much_as_this():
    """W2 of the samples on the Gaussian problem; the prior alone is at about 1. A method that is exact by accident would fail here too."""
    prior, _, y, exact = problem()
    sde, base, lik = ss.VPSDE(), prior.model(ss.VPSDE()), Gaussian(operators.matrix(observation_matrix()), STD)

    def draw(model, z):
        return ss.sample(model, z.shape, "dpm++2m", steps=400, z=z, y=y[None])

    def error(post):
        return distance(*moments(post, starts(sde), draw), exact.means[0], full(exact))

    found = {
        "mmps": error(inverse.mmps(base, lik)),
        "jfps": error(inverse.jfps(base, lik, full(prior))),
        "tmpd": error(inverse.tmpd(base, lik)),
        "pigdm": error(inverse.pigdm(base, lik)),
        "sda": error(inverse.sda(base, lik, 0.1)),
        "diffpir": error(inverse.diffpir(base, lik)),
        "ddnm": error(inverse.ddnm(base, lik)),
        "dps": error(Posterior(base, lik, covariances.Given(lambda v, t: 1e-12 * v))),
    }
    assert found["mmps"] < 0.01
    assert found["jfps"] < 0.01
    for name in ("tmpd", "pigdm", "sda", "diffpir", "ddnm", "dps"):
        assert found[name] > 0.03, found


def test_methods_cost_what_they_say():
    prior, a, y, _ = problem()
    base, lik = prior.model(ss.VPSDE()), Gaussian(operators.matrix(a), STD)
    second = Gaussian(operators.matrix(a[:1]), 1.0, name="y2")
    z = states(base.sde)
    given = {"y": y[None], "y2": y[None, :1]}
    cases = [
        (inverse.diffpir(base, lik), 0),
        (inverse.ddnm(base, lik), 0),
        (inverse.jfps(base, lik, full(prior)), 0),
        (inverse.pigdm(base, lik), 1),
        (inverse.dps(base, lik), 1),
        (inverse.sda(base, lik), 1),
        (inverse.tmpd(base, lik), 2),
        (inverse.mmps(base, lik, 1), 2),
        (inverse.mmps(base, lik, 2), 3),
        (Posterior(base, lik, covariances.LowRank(3)), 4),
        (inverse.pigdm(base, [lik, second]), 1),
        (inverse.mmps(base, [lik, second], 2), 3),
    ]
    for post, vjps in cases:
        with counted() as cost:
            post.data(z, 0.4, **{name: value for name, value in given.items() if len(post.likelihoods) > 1 or name == "y"})
        assert (cost.network, cost.vjps) == (0, vjps * len(z)), post
    run = ss.sample(inverse.mmps(base, lik, 2), (6, 4), "ddim", steps=5, y=y[None], trajectory=True)
    assert (run.nfe, run.network_calls, run.vjps) == (5, 5, 15)


def test_two_observations_are_one_stacked_observation():
    prior, a, y, exact = problem()
    sde, z = ss.VPSDE(), states(ss.VPSDE())
    both = [Gaussian(operators.matrix(a[:1]), STD), Gaussian(operators.matrix(a[1:]), STD, name="second")]
    post = Posterior(prior.model(sde), both, tolerance=1e-13)
    out = post.data(z, 0.4, y=y[None, :1], second=y[None, 1:])
    torch.testing.assert_close(out, exact.model(sde).data(z, 0.4), rtol=0, atol=1e-10)


def test_a_low_rank_covariance_of_full_rank_is_tweedies():
    prior, a, y, exact = problem()
    sde, z = ss.VPSDE(), states(ss.VPSDE())
    post = Posterior(prior.model(sde), Gaussian(operators.matrix(a), STD), covariances.LowRank(4), tolerance=1e-13)
    torch.testing.assert_close(post.data(z, 0.4, y=y[None]), exact.model(sde).data(z, 0.4), rtol=0, atol=1e-9)
    free = Posterior(prior.model(sde), Gaussian(operators.matrix(a), STD), covariances.LowRank(4), jacobian=False, tolerance=1e-13)
    torch.testing.assert_close(free.data(z, 0.4, y=y[None]), exact.model(sde).data(z, 0.4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["tensor", "function", "correlated"])
def test_noise_of_every_coordinate_and_with_correlations(kind):
    prior, a, y, _ = problem()
    sde, z = ss.VPSDE(), states(ss.VPSDE())
    variances = torch.tensor([0.2, 0.05], dtype=torch.float64)
    sigma = torch.tensor([[0.2, 0.05], [0.05, 0.1]], dtype=torch.float64) if kind == "correlated" else torch.diag(variances)
    std = variances.sqrt() if kind == "tensor" else lambda u: u @ sigma
    lik = Gaussian(operators.matrix(a), std)
    s = full(prior)
    gain = s @ a.T @ torch.linalg.inv(a @ s @ a.T + sigma)
    mean = prior.means[0] + gain @ (y - a @ prior.means[0])
    cov = s - gain @ a @ s
    exact = analytic.GaussianMixture(mean[None], 0.5 * (cov + cov.T)[None]).model(sde)
    torch.testing.assert_close(
        Posterior(prior.model(sde), lik, tolerance=1e-13).data(z, 0.4, y=y[None]), exact.data(z, 0.4), rtol=0, atol=1e-9
    )
    # The gradient of the likelihood is A^T Sigma_y^-1 (y - A x).
    expected = (y - z @ a.T) @ torch.linalg.inv(sigma) @ a
    torch.testing.assert_close(lik.gradient(z, y[None].expand(6, 2)), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("obs", ["vector", "image", "complex"])
def test_systems_are_solved_over_all_axes_of_an_observation(obs):
    """azula's inner products run over the last axis only, so that systems of other shapes are solved row by row."""
    sde = ss.VPSDE()
    prior = gaussian_prior(16)
    a = torch.randn(12, 16, dtype=torch.float64, generator=generator(9)) / 4

    def operator(x):
        flat = x.reshape(len(x), 16) @ a.T
        if obs == "image":
            return flat.reshape(len(x), 3, 2, 2)
        if obs == "complex":
            return torch.view_as_real(torch.complex(flat[:, :6], flat[:, 6:]))
        return flat

    y = torch.randn(3, 12, dtype=torch.float64, generator=generator(10))
    shaped = {"vector": y, "image": y.reshape(3, 3, 2, 2), "complex": torch.view_as_real(torch.complex(y[:, :6], y[:, 6:]))}[obs]
    z = states(sde, 3, 16)
    post = Posterior(prior.model(sde), Gaussian(operator, STD), tolerance=1e-12)
    exact = torch.cat([posterior(prior, a, STD, row).model(sde).data(z[i : i + 1], 0.4) for i, row in enumerate(y)])
    torch.testing.assert_close(post.data(z, 0.4, y=shaped), exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("solve", ["cg", "gmres"])
@pytest.mark.parametrize("make", [inverse.mmps, inverse.pigdm, inverse.diffpir, inverse.tmpd, inverse.ddnm])
def test_a_sample_does_not_depend_on_its_batch(make, solve):
    sde = SDES["ddpm"]
    options = {"solve": solve} if make in (inverse.mmps, inverse.pigdm, inverse.diffpir) else {}
    post = make(OwnPrediction(sde, "noise"), Gaussian(operators.matrix(observation_matrix(1, 2)), 0.2), **options)
    z, y = states(sde, 7, 2), torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    whole = post.data(z, 0.4, y=y)
    alone = torch.cat([post.data(z[i : i + 1], 0.4, y=y[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-10)
    broken = y.clone()
    broken[2] = torch.nan
    rest = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(post.data(z, 0.4, y=broken)[rest], whole[rest], rtol=0, atol=1e-10)
    options = {"steps": 5, "seeds": range(7), "dtype": torch.float64, "y": y}
    whole, parts = (ss.sample(post, (7, 2), "dpm++2m", batch_size=size, **options) for size in (None, 3))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-10)


def test_the_likelihood_of_dps_is_refused_where_steps_cannot_follow_it():
    prior, a, y, _ = problem(1e-3)
    post = inverse.dps(prior.model(ss.VPSDE()), Gaussian(operators.matrix(a), 1e-3))
    with pytest.raises(ValueError, match=r"the gain r\^2 \|A\|\^2/sigma_y\^2 = .* at t="):
        ss.sample(post, (2, 4), "dpm++2m", steps=20, y=y[None])
    with pytest.raises(ValueError, match="= inf at t="):
        ss.sample(inverse.dps(prior.model(ss.VPSDE()), post.likelihoods[0].noiseless()), (2, 4), "dpm++2m", steps=20, y=y[None])
    calm = inverse.dps(prior.model(ss.VPSDE()), Gaussian(operators.matrix(a), 3.0))
    assert bool(ss.sample(calm, (2, 4), "dpm++2m", steps=20, y=y[None]).isfinite().all())


def test_a_negative_covariance_counts_as_none_and_is_reported():
    class Wild(ss.Model):
        """A prediction whose derivative is negative, as an untrained network's may be."""

        sde, prediction = ss.VPSDE(), "data"

        def output(self, z, t):
            return -5 * z

    post = Posterior(Wild(), Gaussian(operators.matrix(observation_matrix(1, 2)), 0.2))
    z, y = states(Wild.sde, 4, 2), torch.ones(1, 1, dtype=torch.float64)
    with pytest.warns(UserWarning, match="covariance is negative along some direction"):
        out = post.data(z, 0.5, y=y)
    assert bool(out.isfinite().all())
    assert bool(inverse.tmpd(Wild(), Gaussian(operators.matrix(observation_matrix(1, 2)), 0.2)).data(z, 0.5, y=y).isfinite().all())


def test_densities_gradients_and_modes():
    prior, a, y, exact = problem()
    sde = ss.VPSDE()
    post = Posterior(prior.model(sde), Gaussian(operators.matrix(a), STD), tolerance=1e-13)
    x = exact.sample(3, generator())
    ours = ss.log_likelihood(post, x, y=y[None].expand(3, 2)).nats
    torch.testing.assert_close(ours, ss.log_likelihood(exact.model(sde), x).nats, rtol=0, atol=1e-6)
    z = states(sde, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ss.sample(post, z.shape, "ddim", steps=3, z=z, y=y[None], grad=True), z, atol=1e-4)
    assert not ss.sample(post, z.shape, "ddim", steps=3, z=z.detach(), y=y[None]).requires_grad
    with torch.inference_mode(), pytest.raises(RuntimeError, match="in place of torch"):
        post.data(z.detach().clone(), 0.4, y=y[None])
    with torch.inference_mode():
        assert bool(inverse.diffpir(prior.model(sde), post.likelihoods[0]).data(states(sde), 0.4, y=y[None]).isfinite().all())


def test_conditions_reach_the_network_and_observations_do_not():
    network = networks.MLP(4, width=16, classes=3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=generator())
    model = ss.ScoreModel(network.double(), SDES["cosine"]).eval().requires_grad_(False)
    post = inverse.pigdm(model, Gaussian(operators.matrix(observation_matrix()), STD))
    z, y = states(model.sde), torch.ones(1, 2, dtype=torch.float64)
    one, other = (post.data(z, 0.4, y=y, label=torch.full((6,), k)) for k in (0, 1))
    assert not torch.allclose(one, other)
    with pytest.raises(TypeError, match="needs its observation, y="):
        post.data(z, 0.4)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (operators.mask(torch.tensor([1.0, 0.0, 1.0, 1.0])), (2, 4)),
        (operators.matrix(observation_matrix()), (2, 4)),
        (operators.blur(0.8), (2, 3, 8, 6)),
        (operators.downsample(2), (2, 3, 8, 6)),
        (operators.colour(), (2, 3, 8, 6)),
        (operators.colour([0.2, 0.7, 0.1]), (2, 3, 8, 6)),
    ],
)
def test_operators_are_linear_and_know_their_transposes(operator, shape):
    v, w = (torch.randn(shape, dtype=torch.float64, generator=generator(k)) for k in (1, 2))
    torch.testing.assert_close(operator(2 * v - 3 * w), 2 * operator(v) - 3 * operator(w))
    local = Gaussian(operator, 0.1).at(v)
    u = torch.randn(local.value.shape, dtype=torch.float64, generator=generator(3))
    torch.testing.assert_close((local.forward(v) * u).sum(), (v * local.adjoint(u)).sum())
    # By differentiation, whatever the operator says of itself.
    by_autograd = Gaussian(lambda x: operator(x), 0.1).at(v)
    torch.testing.assert_close(by_autograd.adjoint(u), local.adjoint(u))
    if operator.pinv is not None:
        torch.testing.assert_close(operator(operator.pinv(operator(v))), operator(v))
        projected = operator.pinv(operator(v))
        torch.testing.assert_close(operator.pinv(operator(projected)), projected)
        torch.testing.assert_close((projected * w).sum(), (v * operator.pinv(operator(w))).sum())


def test_an_operator_that_is_not_linear_is_linearised_at_the_data_prediction():
    sde = SDES["linear"]
    operator = operators.phase()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator())
    local = Gaussian(operator, 0.1).at(x)
    v = torch.randn(x.shape, dtype=torch.float64, generator=generator(1))
    step = 1e-6
    torch.testing.assert_close(
        local.forward(v), (operator(x + step * v) - operator(x - step * v)) / (2 * step), rtol=1e-6, atol=1e-7
    )
    u = torch.randn(local.value.shape, dtype=torch.float64, generator=generator(2))
    torch.testing.assert_close((local.forward(v) * u).sum(), (v * local.adjoint(u)).sum())
    # y = |x_1| + noise near x_1 = 2 is y = x_1 + noise.
    prior = analytic.GaussianMixture(
        torch.tensor([[2.0, 0.0]], dtype=torch.float64), 0.01 * torch.eye(2, dtype=torch.float64)[None]
    )
    z = float(sde.alpha(0.3)) * prior.sample(4, generator())
    y = torch.tensor([[2.1]], dtype=torch.float64)
    curved = Posterior(prior.model(sde), Gaussian(lambda x: x[:, :1].abs(), 0.1, linear=False))
    straight = Posterior(prior.model(sde), Gaussian(lambda x: x[:, :1], 0.1))
    torch.testing.assert_close(curved.data(z, 0.3, y=y), straight.data(z, 0.3, y=y), rtol=0, atol=1e-10)


def test_the_gradient_of_counts_is_the_analytic_one():
    a = torch.rand(3, 4, dtype=torch.float64, generator=generator()) + 0.1
    x = torch.rand(5, 4, dtype=torch.float64, generator=generator(1)) + 0.5
    lik = Poisson(operators.matrix(a), gain=7.0)
    counts = torch.poisson(7.0 * (x @ a.T), generator=generator(2))
    y = counts / 7.0
    expected = 7.0 * (y / (x @ a.T) - 1) @ a
    torch.testing.assert_close(lik.gradient(x, y), expected, rtol=0, atol=1e-10)
    v = x.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(lik.log_prob(v, y).sum(), v)
    torch.testing.assert_close(by_autograd, expected, rtol=0, atol=1e-9)
    pmf = torch.distributions.Poisson(7.0 * (x @ a.T)).log_prob(counts).sum(1)
    torch.testing.assert_close(lik.log_prob(x, y), pmf)
    dark = torch.full((5, 4), -1.0, dtype=torch.float64)
    assert bool(lik.gradient(dark, y).isfinite().all())
    assert bool(lik.log_prob(dark, y).isfinite().all())
    # In a posterior the noise has the variance A D/g at the current D.
    prior = analytic.GaussianMixture(torch.ones(1, 4, dtype=torch.float64), 0.05 * torch.eye(4, dtype=torch.float64)[None])
    sde, z = SDES["linear"], float(SDES["linear"].alpha(0.2)) * prior.sample(5, generator(3))
    base = prior.model(sde)
    rate = base.data(z, 0.2) @ a.T
    fixed = [
        Posterior(base, Gaussian(operators.matrix(a), (rate[i] / 7.0).sqrt())).data(z[i : i + 1], 0.2, y=y[i : i + 1])
        for i in range(5)
    ]
    torch.testing.assert_close(Posterior(base, lik).data(z, 0.2, y=y), torch.cat(fixed), rtol=0, atol=1e-8)


def test_a_physics_of_deepinv_is_read_by_its_methods():
    a = observation_matrix()

    class GaussianNoise:
        sigma = torch.tensor(0.2)

    class PoissonNoise:
        gain = torch.tensor(0.25)

    class Mixed:
        sigma, gain = 0.1, 1.0

    class Physics:
        def __init__(self, noise_model=None):
            self.noise_model = noise_model

        def A(self, x, **_):
            return x @ a.T

        def A_adjoint(self, y, **_):
            return y @ a

        def A_dagger(self, y, **_):
            return y @ torch.linalg.pinv(a).T

    read = inverse.from_deepinv(Physics(GaussianNoise()))
    assert isinstance(read, Gaussian)
    assert read.std == pytest.approx(0.2)
    assert read.linear
    prior, _, y, _ = problem()
    base, z = prior.model(ss.VPSDE()), states(ss.VPSDE())
    ours = Posterior(base, Gaussian(operators.matrix(a), read.std))
    torch.testing.assert_close(Posterior(base, read).data(z, 0.4, y=y[None]), ours.data(z, 0.4, y=y[None]), rtol=0, atol=1e-8)
    # D + A^+ (y - A D) meets the observation exactly, by the pseudo-inverse of the physics as by the solve.
    for lik in (read, Gaussian(operators.matrix(a), 0.2)):
        met = inverse.ddnm(base, lik).data(z, 0.4, y=y[None])
        torch.testing.assert_close(met @ a.T, y.expand(6, 2), rtol=0, atol=1e-8)
    counts = inverse.from_deepinv(Physics(PoissonNoise()))
    assert isinstance(counts, Poisson)
    assert counts.gain == 4.0
    assert inverse.from_deepinv(Physics()).std == 0
    with pytest.raises(ValueError, match="Mixed is neither Gaussian nor Poisson"):
        inverse.from_deepinv(Physics(Mixed()))
    with pytest.raises(TypeError, match="physics must have a method A"):
        inverse.from_deepinv(3)

    class Wrong(Physics):
        def A_adjoint(self, y, **_):
            return 2 * y @ a

    with pytest.raises(ValueError, match="adjoint is not the transpose of A"):
        Posterior(base, inverse.from_deepinv(Wrong(GaussianNoise()))).data(z, 0.4, y=y[None])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, g: Posterior(m, 3), TypeError, "likelihood must be a sequence"),
        (lambda m, g: Posterior(m, [3]), TypeError, "likelihood must be a Likelihood"),
        (lambda m, g: Posterior(m, [g, g]), ValueError, "every likelihood needs a name of its own"),
        (lambda m, g: Posterior(m, g, "exact"), ValueError, "covariance must be one of tweedie"),
        (lambda m, g: Posterior(m, g, "prior"), ValueError, r"give covariances.Prior\(S\)"),
        (lambda m, g: Posterior(m, g, 3), TypeError, "covariance must be a function"),
        (lambda m, g: Posterior(m, g, solve="lu"), ValueError, "solve must be one of cg, gmres"),
        (lambda m, g: Posterior(m, g, iterations=0), ValueError, "iterations must be at least 1"),
        (lambda m, g: Posterior(m, g, jacobian=1), TypeError, "jacobian must be True or False"),
        (lambda m, g: Gaussian(lambda x: x, -1.0), ValueError, "std must be at least 0"),
        (lambda m, g: Gaussian(3, 1.0), TypeError, "A must be a function"),
        (lambda m, g: Poisson(lambda x: x, 0.0), ValueError, "gain must be positive"),
        (
            lambda m, g: _call(Posterior(m, g, covariances.Prior(-1.0))),
            ValueError,
            "must not be negative",
        ),
        (lambda m, g: Posterior(models.graphed(ss.ScoreModel(networks.MLP(2), m.sde)), g), ValueError, "a CUDA graph records no"),
        (lambda m, g: Posterior(networks.MLP(2), g), TypeError, "model must be a ScoreModel"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make(mixture().model(SDES["ddpm"]), Gaussian(lambda x: x[:, :1], 0.1))


def test_an_operator_of_one_event_is_told_of_the_batch():
    """x -> M x: it fails on a row, or takes the batch for an axis of the event."""
    model, z = mixture().model(SDES["ddpm"]), states(SDES["ddpm"], 6, 2)
    for a in (torch.eye(2), torch.ones(1, 2), torch.ones(3, 1)):
        post = Posterior(model, Gaussian(lambda x, a=a: a.to(x) @ x, 0.1))
        with pytest.raises(ValueError, match=r"A is called with a batch \(B, \*event\), here of shape \(1, 2\)"):
            post.data(z, 0.4, y=torch.ones(1, len(a)))
    with pytest.raises(ValueError, match=r"a must have shape \(m, d\), got \(2,\): a\[None\] observes one number"):
        operators.matrix(torch.ones(2))


def _call(post):
    return post.data(torch.zeros(1, 2), 0.5, y=torch.zeros(1, 1))


def test_an_observation_of_another_shape_is_refused():
    post = Posterior(mixture().model(SDES["ddpm"]), Gaussian(lambda x: x[:, :1], 0.1))
    z = states(SDES["ddpm"], 6, 2)
    for y in (torch.ones(6, 2), torch.ones(2)):
        with pytest.raises(ValueError, match=r"but A returns \(6, 1\): give y of shape \(6, 1\), or \(1, 1\) for all samples"):
            post.data(z, 0.4, y=y)
    with pytest.raises(TypeError, match="a tensor with one row a sample, got a tensor without axes"):
        post.data(z, 0.4, y=torch.tensor(1.0))
    open_v = Posterior(mixture().model(SDES["ddpm"]), Gaussian(lambda x: x[:, :1], 0.1), "ratio", jacobian=False)
    with pytest.raises(ValueError, match="leaves open"):
        open_v.data(states(SDES["ddpm"], 6, 2), 0.4, y=torch.ones(1, 1))


def test_covariances_of_data_of_several_forms_agree():
    prior, a, y, _ = problem()
    sde, z = SDES["linear"], states(SDES["linear"])
    base, lik = prior.model(sde), Gaussian(operators.matrix(a), STD)
    same = [
        covariances.Prior(0.5),
        covariances.Prior(torch.full((4,), 0.5)),
        covariances.Prior(0.5 * torch.eye(4)),
        covariances.Isotropic(0.5),
        covariances.Isotropic(lambda t: 0.5 * (-2 * sde.half_log_snr(t)).exp() / (0.5 + (-2 * sde.half_log_snr(t)).exp())),
        lambda v, t: v * 0.5 * math.exp(-2 * float(sde.half_log_snr(t))) / (0.5 + math.exp(-2 * float(sde.half_log_snr(t)))),
    ]
    outs = [Posterior(base, lik, c, jacobian=False, tolerance=1e-13).data(z, 0.4, y=y[None]) for c in same]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-10)
    assert covariance().shape == (4, 4)
