"""Posteriors of several observations and of masks against closed forms."""

import math
import warnings

import pytest
import torch

import scoresde as ss
from scoresde import analytic, networks, sbi
from scoresde.numerics.cost import counted

from ..conftest import SDES, OwnPrediction, generator, sdes

D = 3


def matrices(seed=0):
    """A prior N(m, S), a noise covariance E and observations x_i = theta + e_i."""
    g = generator(seed)
    a, b = (torch.randn(D, D, dtype=torch.float64, generator=g) for _ in range(2))
    s, e = 0.3 * a @ a.T + 0.5 * torch.eye(D, dtype=torch.float64), 0.2 * b @ b.T + 0.3 * torch.eye(D, dtype=torch.float64)
    return torch.randn(D, dtype=torch.float64, generator=g) + 1.0, s, e


class Single(ss.Model):
    """p(theta | x) = N(C (S^-1 m + E^-1 x), C) for a row x of each sample."""

    prediction = "data"

    def __init__(self, sde, m, s, e):
        self.sde, self.m, self.s, self.e = sde, m, s, e
        self.c = torch.linalg.inv(torch.linalg.inv(s) + torch.linalg.inv(e))
        self.rows = 0

    def output(self, z, t, x, **cond):
        self.rows += len(z)
        mean = (self.m @ torch.linalg.inv(self.s) + x @ torch.linalg.inv(self.e)) @ self.c
        alpha, sigma = (torch.as_tensor(f(t), dtype=torch.float64).reshape(-1, 1, 1) for f in (self.sde.alpha, self.sde.sigma))
        k = alpha**2 * self.c + sigma**2 * torch.eye(D, dtype=torch.float64)
        gain = (alpha * self.c) @ torch.linalg.inv(k)
        return mean + torch.einsum("bij,bj->bi", gain.expand(len(z), D, D), z - alpha[:, 0] * mean)


def tall(m, s, e, x):
    """p(theta | x_1..x_n)."""
    c = torch.linalg.inv(torch.linalg.inv(s) + len(x) * torch.linalg.inv(e))
    mean = c @ (torch.linalg.inv(s) @ m + torch.linalg.inv(e) @ x.sum(0))
    return analytic.GaussianMixture(mean[None], 0.5 * (c + c.T)[None])


def problem(sde, seed=0):
    m, s, e = matrices(seed)
    single = Single(sde, m, s, e)
    prior = analytic.GaussianMixture(m[None], s[None]).model(sde)
    return single, prior, (m, s, e)


@sdes
@pytest.mark.parametrize("method", ["gauss", "jac"])
def test_the_score_of_many_observations_is_that_of_the_tall_posterior(sde, method):
    single, prior, parts = problem(sde)
    x = torch.randn(8, D, dtype=torch.float64, generator=generator(3)) + 2
    exact = tall(*parts, x).model(sde)
    model = sbi.composed(single, prior, method, precision=torch.linalg.inv(single.c) if method == "gauss" else None)
    z = sde.prior_std * torch.randn(5, D, dtype=torch.float64, generator=generator(4))
    for t in torch.linspace(0.03, 0.99, 5).tolist():
        alpha = float(sde.alpha(t))
        if not alpha / float(sde.sigma(t)) > 0.02:
            continue
        torch.testing.assert_close(model.data(z, t, x=x), exact.data(z, t), rtol=0, atol=1e-9)
        scale = float(exact.score(z, t).abs().max())
        torch.testing.assert_close(model.score(z, t, x=x), exact.score(z, t), rtol=0, atol=1e-10 * max(1.0, scale) * 10)
    times = torch.linspace(0.1, 0.8, 5, dtype=torch.float64)
    torch.testing.assert_close(model.data(z, times, x=x), exact.data(z, times), rtol=0, atol=1e-9)
    prepared = model.prepare([0.9, 0.5], z)[1]
    torch.testing.assert_close(model.output(z, prepared, x=x), exact.data(z, 0.5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 5, 20, 100])
@pytest.mark.parametrize("method", ["gauss", "jac"])
def test_samples_have_the_variance_of_the_tall_posterior(n, method):
    """Two prior standard deviations away; exact moments of the sampler, which is affine in its start."""
    sde = ss.VPSDE()
    single, prior, (m, s, e) = problem(sde)
    x = m + 2 * s.diagonal().sqrt() + torch.randn(n, D, dtype=torch.float64, generator=generator(5)) @ torch.linalg.cholesky(e).T
    model = sbi.composed(single, prior, method, precision=torch.linalg.inv(single.c) if method == "gauss" else None)
    z = torch.cat([torch.zeros(1, D, dtype=torch.float64), torch.eye(D, dtype=torch.float64)])
    ends = ss.sample(model, z.shape, "dpm++2m", steps=100, z=z, x=x)
    jacobian = (ends[1:] - ends[0]).T
    exact = tall(m, s, e, x)
    covariance = exact.basis[0] @ torch.diag(exact.variances[0]) @ exact.basis[0].T
    torch.testing.assert_close(jacobian @ jacobian.T, covariance, rtol=0, atol=0.01 * float(covariance.diagonal().max()))
    torch.testing.assert_close(ends[0], exact.means[0], rtol=0, atol=0.02)


def test_the_sum_of_scores_is_far_too_narrow():
    """The variance of n = 20 by the sum of scores in the reverse SDE is about half; `sum` says so of itself."""
    sde = ss.VPSDE()
    single, prior, (m, s, e) = problem(sde)
    x = m + torch.randn(20, D, dtype=torch.float64, generator=generator(5)) @ torch.linalg.cholesky(e).T
    exact = tall(m, s, e, x)
    draws = ss.sample(
        sbi.composed(single, prior, "sum"), (4000, D), "sde-dpm++2m", steps=400, dtype=torch.float64, generator=generator(), x=x
    )
    ratio = torch.cov(draws.T).diagonal().sum() / exact.variances.sum()
    assert 0.35 < float(ratio) < 0.7


def test_one_observation_is_the_model_itself_and_batches_split():
    sde = SDES["ddpm"]
    single, prior, parts = problem(sde)
    model = sbi.composed(single, prior, precision=torch.linalg.inv(single.c))
    z = torch.randn(6, D, dtype=torch.float64, generator=generator())
    x = torch.randn(6, 4, D, dtype=torch.float64, generator=generator(1))
    assert torch.equal(model.data(z, 0.4, x=x[:, :1]), single.data(z, 0.4, x=x[:, 0]))
    whole = model.data(z, 0.4, x=x)
    alone = torch.cat([model.data(z[i : i + 1], 0.4, x=x[i]) for i in range(6)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-10)
    exact = torch.cat([tall(*parts, x[i]).model(sde).data(z[i : i + 1], 0.4) for i in range(6)])
    torch.testing.assert_close(whole, exact, rtol=0, atol=1e-10)
    samples = ss.sample(model, (6, D), "ddim", steps=5, seeds=range(6), x=x, dtype=torch.float64)
    split = ss.sample(model, (6, D), "ddim", steps=5, seeds=range(6), x=x, batch_size=4, dtype=torch.float64)
    torch.testing.assert_close(split, samples, rtol=0, atol=1e-10)
    single.rows = 0
    with counted() as cost:
        model.data(z, 0.4, x=x)
    assert single.rows == 24
    assert cost.network == 6 * 3
    x[2] = torch.nan
    rest = [0, 1, 3, 4, 5]
    for method in ("gauss", "jac"):
        other = sbi.composed(single, prior, method, precision=torch.linalg.inv(single.c))
        torch.testing.assert_close(other.data(z, 0.4, x=x)[rest], exact[rest], rtol=0, atol=1e-9)
    with counted() as cost:
        other.data(z, 0.4, x=x)
    assert cost.vjps == 6 * 4 * D


def test_precisions_are_estimated_with_the_mean_taken_off():
    """sbi's `auto_gauss` takes the uncentred second moment, which at x two prior deviations away halves the posterior's variance."""
    sde = ss.VPSDE()
    single, _, (m, s, _) = problem(sde)
    x = (m + 2 * s.diagonal().sqrt())[None].expand(2, D)
    found = sbi.posterior_precision(single, (D,), x, 4000, steps=30, solver="sde-dpm++2m", generator=generator())
    for each in found:
        # 4000 draws: entries of a covariance to 2 %.
        torch.testing.assert_close(torch.linalg.inv(each), single.c, rtol=0, atol=0.1 * float(single.c.diagonal().max()))


def test_directions_without_precision_take_the_mean_prediction():
    sde = ss.VPSDE()
    single, prior, _ = problem(sde)
    # The precision of a posterior below that of the prior: (1 - n) P_0 + n P is negative.
    model = sbi.composed(single, prior, precision=0.01 * torch.eye(D, dtype=torch.float64))
    z, x = torch.randn(3, D, dtype=torch.float64, generator=generator()), torch.zeros(10, D, dtype=torch.float64)
    # They take the mean of the predictions, here ten times the same.
    torch.testing.assert_close(model.data(z, 0.7, x=x), single.data(z, 0.7, x=x[:1].expand(3, D)), rtol=0, atol=1e-10)


@sdes
def test_a_box_has_the_mean_of_a_truncated_normal(sde):
    from scipy.stats import truncnorm

    low, high = torch.tensor([-1.0, 0.5, -3.0], dtype=torch.float64), torch.tensor([2.0, 0.75, 4.0], dtype=torch.float64)
    model = sbi.uniform_prior(low, high, sde)
    x = low + (high - low) * torch.rand(40, 3, dtype=torch.float64, generator=generator())
    for t in (0.05, 0.3, 0.7, 0.95):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        z, _ = sde.perturb(x, t, generator(1))
        m, r = z / alpha, sigma / alpha
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = torch.from_numpy(truncnorm.mean(((low - m) / r).numpy(), ((high - m) / r).numpy(), loc=m.numpy(), scale=r))
        ours, width = model.data(z, t), high - low
        # scipy itself is wrong where both tails underflow.
        good = expected.isfinite() & (expected > low) & (expected < high) & ((m - (low + high) / 2).abs() < 20 * r + width)
        assert float(good.double().mean()) > 0.5
        torch.testing.assert_close(ours[good], expected[good], rtol=1e-6, atol=1e-7)
        assert bool(((ours >= low) & (ours <= high)).all())
    far = torch.tensor([[1e3, -1e3, 1e3], [-1e3, 1e3, -1e3]], dtype=torch.float64) * sde.prior_std
    assert bool(model.data(far, 0.05).isfinite().all())
    torch.testing.assert_close(model.precision, torch.diag(12 / width**2))
    v = torch.cat([z, far, 1e-9 * far]).requires_grad_()
    (gradient,) = torch.autograd.grad(model.data(v, 0.05).sum(), v)
    assert bool(gradient.isfinite().all())


def test_a_bounded_prior_leaves_no_nan():
    """sbi#1656: GAUSS with a uniform prior returns NaN there."""
    sde = ss.VPSDE()
    prior = sbi.uniform_prior(-3 * torch.ones(D), 3 * torch.ones(D), sde)
    single, _, _ = problem(sde)
    for method in ("gauss", "jac"):
        model = sbi.composed(single, prior, method, precision=torch.linalg.inv(single.c))
        x = torch.randn(6, D, dtype=torch.float64, generator=generator())
        out = ss.sample(model, (50, D), "dpm++2m", steps=15, dtype=torch.float64, generator=generator(), x=x)
        assert bool(out.isfinite().all())
        assert float(out.abs().max()) < 4


def test_an_observation_may_be_called_x_everywhere():
    """The data of a loss is called x too, and so is what inference conditions on."""
    single, _, _ = problem(SDES["linear"])
    theta, x = (torch.randn(4, D, dtype=torch.float64, generator=generator(k)) for k in (0, 1))
    exact = torch.cat([ss.log_likelihood(single, theta[i : i + 1], x=x[i : i + 1]).nats for i in range(4)])
    torch.testing.assert_close(ss.log_likelihood(single, theta, x=x).nats, exact, rtol=0, atol=1e-5)
    z = ss.encode(single, theta, x=x)
    torch.testing.assert_close(ss.decode(single, z, x=x), theta, rtol=0, atol=1e-4)
    for loss in (ss.losses.denoising, ss.losses.elbo_continuous):
        ours = loss(single, theta, generator=generator(2), x=x)
        values = ours if isinstance(ours, torch.Tensor) else ours.nats
        assert values.shape == (4,)
        assert bool(values.isfinite().all())
    assert bool(ss.diagnostics.loss_by_time(single, theta, times=[0.3, 0.6], x=x).loss.mean.isfinite().all())
    assert ss.sample(single, (4, D), "ddim", steps=3, x=x, dtype=torch.float64).shape == (4, D)


MASK = torch.tensor([False, True, False, True])


class Joint(ss.Model):
    """The exact joint network of a Gaussian under any mask: predicts free entries from clean observed ones."""

    prediction = "data"

    def __init__(self, sde, cov):
        self.sde, self.cov = sde, cov

    def output(self, z, t, mask):
        out = torch.full_like(z, 1e9)  # what it says of observed entries must not matter
        o = mask[0].bool()
        gain = self.cov[~o][:, o] @ torch.linalg.inv(self.cov[o][:, o])
        c = self.cov[~o][:, ~o] - gain @ self.cov[o][:, ~o]
        mean = z[:, o] @ gain.T
        alpha, sigma = (torch.as_tensor(f(t), dtype=torch.float64).reshape(-1, 1, 1) for f in (self.sde.alpha, self.sde.sigma))
        k = alpha * c @ torch.linalg.inv(alpha**2 * c + sigma**2 * torch.eye(len(c), dtype=torch.float64))
        out[:, ~o] = mean + torch.einsum("bij,bj->bi", k.expand(len(z), -1, -1), z[:, ~o] - alpha[:, 0] * mean)
        return out


def test_a_masked_network_samples_its_free_entries():
    sde = SDES["linear"]
    a = torch.randn(4, 4, dtype=torch.float64, generator=generator())
    cov = a @ a.T + 0.3 * torch.eye(4, dtype=torch.float64)
    value = torch.tensor([0.8, -0.3], dtype=torch.float64)
    model = sbi.masked(Joint(sde, cov), MASK, value)
    gain = cov[~MASK][:, MASK] @ torch.linalg.inv(cov[MASK][:, MASK])
    exact = analytic.GaussianMixture((gain @ value)[None], (cov[~MASK][:, ~MASK] - gain @ cov[MASK][:, ~MASK])[None].clone()).model(
        sde
    )
    z = torch.randn(5, 2, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(model.data(z, 0.4), exact.data(z, 0.4), rtol=0, atol=1e-10)
    prepared = model.prepare([0.4], z)[0]
    torch.testing.assert_close(model.output(z, prepared), exact.data(z, 0.4), rtol=0, atol=1e-10)
    x = 0.5 * z
    # Densities count the free entries alone.
    torch.testing.assert_close(ss.log_likelihood(model, x).nats, ss.log_likelihood(exact, x).nats, rtol=0, atol=1e-6)
    rows = value + torch.randn(5, 2, dtype=torch.float64, generator=generator(2))
    given = sbi.masked(Joint(sde, cov), MASK)
    alone = torch.cat([sbi.masked(Joint(sde, cov), MASK, row).data(z[i : i + 1], 0.4) for i, row in enumerate(rows)])
    torch.testing.assert_close(given.data(z, 0.4, value=rows), alone, rtol=0, atol=1e-10)
    assert ss.sample(model, (3, model.free), "ddim", steps=3, dtype=torch.float64).shape == (3, 2)


class MaskedMLP(torch.nn.Module):
    """A joint network with flags."""

    def __init__(self):
        super().__init__()
        self.inner = networks.MLP(8, width=64)

    def forward(self, z, t, mask):
        return self.inner(torch.cat([z, mask], 1), t)[:, :4]


def test_a_joint_network_is_trained_under_masks_and_used_under_one():
    """A correlated pair of pairs: after a short training the conditional mean has the sign and size of the exact one."""
    sde = SDES["cosine"]
    torch.manual_seed(0)
    joint = ss.ScoreModel(MaskedMLP(), sde, "velocity")
    optimizer = torch.optim.Adam(joint.parameters(), 3e-3)
    half = torch.randn(4096, 2, generator=generator())
    x = torch.cat([half, 0.9 * half + math.sqrt(0.19) * torch.randn(4096, 2, generator=generator(1))], 1)
    masks = [torch.tensor([False, False, True, True]), torch.tensor([True, True, False, False])]
    for step in range(400):
        mask, rows = masks[step % 2], x[torch.randint(4096, (256,), generator=generator(step))]
        model = sbi.masked(joint, mask)
        loss = ss.losses.denoising(model, rows[:, ~mask], "velocity", generator=generator(step), value=rows[:, mask]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    post = sbi.masked(joint.eval(), masks[0], torch.tensor([1.0, -1.0]))
    draws = ss.sample(post, (2000, 2), "dpm++2m", steps=20, generator=generator())
    torch.testing.assert_close(draws.mean(0), torch.tensor([0.9, -0.9]), rtol=0, atol=0.15)
    torch.testing.assert_close(draws.std(0), torch.full((2,), math.sqrt(0.19)), rtol=0, atol=0.12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s, p: sbi.composed(s, p), ValueError, "posterior_precision estimates them"),
        (lambda s, p: sbi.composed(s, p, "mean"), ValueError, "method must be one of gauss, jac, sum"),
        (lambda s, p: sbi.composed(s, 3), TypeError, "model must be a ScoreModel"),
        (lambda s, p: sbi.composed(s, OwnPrediction(SDES["edm"], "data"), "jac"), ValueError, "the prior was made for a process"),
        (lambda s, p: sbi.composed(s, OwnPrediction(s.sde, "noise"), precision=torch.eye(D)), ValueError, "prior_precision="),
        (lambda s, p: sbi.composed(s, p, "jac").data(torch.zeros(2, D), 0.5), TypeError, "needs its observations, x="),
        (lambda s, p: sbi.composed(s, p, "jac").data(torch.zeros(2, D), 0.5, x=torch.zeros(D)), ValueError, "x must have shape"),
        (lambda s, p: sbi.masked(s, torch.ones(4)), ValueError, "leave an entry free"),
        (lambda s, p: sbi.masked(s, MASK, torch.ones(3)), ValueError, "value must hold the 2 observed entries"),
        (lambda s, p: sbi.masked(s, MASK).data(torch.zeros(2, 2), 0.5), TypeError, "needs its observed entries"),
        (lambda s, p: sbi.masked(s, MASK).data(torch.zeros(2, 4), 0.5), ValueError, "hold its 2 free entries"),
        (lambda s, p: sbi.uniform_prior(torch.ones(2), torch.zeros(2), s.sde), ValueError, "low must be below high"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, error, message):
    single, prior, _ = problem(SDES["ddpm"])
    with pytest.raises(error, match=message):
        make(single, prior)
