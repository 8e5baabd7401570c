"""Diagnostics against closed forms: Gaussians, mixtures, and scores that are wrong in a known way."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, diagnostics, losses, networks

from ..conftest import SDES, finite_sdes, generator, mixture

LINEAR = SDES["linear"]


class Distorted(ss.Model):
    """The score of another model plus `extra(z)`."""

    prediction = "score"

    def __init__(self, model, extra):
        self.model, self.sde, self.extra = model, model.sde, extra

    def output(self, z, t, **cond):
        return self.model.score(z, t, **cond) + self.extra(z)


def rotation(rate):
    return lambda z: rate * torch.stack([-z[:, 1], z[:, 0]], 1)


def ones(sde, t):
    return torch.ones_like(t)


class Slope(torch.nn.Module):
    """s = -w z with one parameter."""

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, z, t):
        return -self.w * z


def test_the_score_error_of_a_constant_shift_is_its_square():
    sde, times = LINEAR, [0.01, 0.3, 1.0]
    exact = mixture().model(sde)
    shifted = Distorted(exact, lambda z: torch.tensor([0.5, -1.0], dtype=z.dtype))
    x = mixture().sample(50, generator())
    plain = diagnostics.score_error(shifted, exact, x, times, ones, generator())
    torch.testing.assert_close(plain.mean, torch.full((3,), 0.625, dtype=torch.float64))
    torch.testing.assert_close(plain.stderr, torch.zeros(3, dtype=torch.float64), atol=1e-8, rtol=0)
    noise = diagnostics.score_error(shifted, exact, x, times, generator=generator())
    torch.testing.assert_close(noise.mean, 0.625 * sde.sigma(torch.tensor(times)) ** 2)
    silent = diagnostics.score_error(analytic.ZeroModel(sde), exact, x, [0.3], ones, generator())
    z, _ = sde.perturb(x, 0.3, generator())
    torch.testing.assert_close(silent.mean, exact.score(z, 0.3).square().mean()[None])


def test_a_curve_prints_as_a_table_of_its_numbers():
    curve = diagnostics.Curve(*torch.tensor([[0.01, 1.0], [0.25, 12.5], [0.003, 0.04]], dtype=torch.float64))
    assert [row.split() for row in str(curve).splitlines()] == [
        ["t", "mean", "stderr"],
        ["0.01", "0.25", "0.003"],
        ["1", "12.5", "0.04"],
    ]
    assert "\n" not in repr(curve)


def test_a_mixture_in_place_of_its_model_is_named():
    with pytest.raises(TypeError, match=r"exact must be the exact model .*: of a mixture it is mixture\.model\(sde\)"):
        diagnostics.score_error(mixture().model(LINEAR), mixture(), mixture().sample(5, generator()), [0.5])


def test_the_loss_is_the_optimal_loss_plus_the_score_error():
    """Vincent 2011, eq. 11, at each time and within the Monte-Carlo error of 20,000 samples."""
    sde, times = LINEAR, torch.tensor([0.02, 0.2, 0.7])
    exact, x = mixture().model(sde), mixture().sample(20_000, generator())
    wrong = analytic.GaussianMixture(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.5, 1.0])).model(sde)
    found = diagnostics.loss_by_time(wrong, x, times, exact=exact, generator=generator(1))
    error = diagnostics.score_error(wrong, exact, x, times, generator=generator(2))
    gap = found.loss.mean - found.optimal.mean - error.mean
    # The standard error of the difference on shared noise is below that of the sum of independent ones.
    bound = 5 * (found.loss.stderr**2 + found.optimal.stderr**2 + error.stderr**2).sqrt()
    assert bool((gap.abs() < bound).all())
    assert bool((error.mean > 5 * bound).any())


@pytest.mark.parametrize(("prediction", "weighting"), [("noise", "noise"), ("velocity", "velocity"), ("data", "likelihood")])
def test_losses_of_gaussian_data_have_their_closed_forms(prediction, weighting):
    """x ~ N(0, s^2): the optimal noise error is alpha^2 s^2/(alpha^2 s^2 + sigma^2); that of a zero prediction a x + b eps is a^2 s^2 + b^2."""
    from scoresde.sde.prediction import direction

    sde, s, t = LINEAR, 0.5, torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    target = analytic.GaussianMixture(torch.zeros(1, 3), torch.tensor([s**2]))
    x = target.sample(20_000, generator())
    found = diagnostics.loss_by_time(
        analytic.ZeroModel(sde, prediction), x, t, weighting, exact=target.model(sde), generator=generator(1)
    )
    signal, power = (sde.alpha(t) * s) ** 2, sde.sigma(t) ** 2
    optimal = losses.output_weight(sde, t, "noise", weighting) * signal / (signal + power)
    a, b = direction(sde, t, prediction)
    zero = losses.output_weight(sde, t, prediction, weighting) * (a**2 * s**2 + b**2)
    for curve, expected in ((found.optimal, optimal), (found.zero, zero)):
        assert bool(((curve.mean - expected).abs() < 5 * curve.stderr).all())
        assert bool((curve.stderr < 0.02 * curve.mean).all())  # chi^2 of 3 degrees: sqrt(2/3)/sqrt(20,000) = 0.6 %
    assert torch.equal(found.loss.mean, found.zero.mean)


def test_standard_errors_by_time_are_those_of_repetitions():
    exact = mixture().model(LINEAR)
    runs = [
        diagnostics.loss_by_time(exact, mixture().sample(100, generator(i)), [0.3], generator=generator(1000 + i)).loss
        for i in range(200)
    ]
    spread = torch.stack([run.mean for run in runs]).std()
    # Standard deviations from 200 draws: 5 %.
    assert float(torch.stack([run.stderr for run in runs]).mean()) == pytest.approx(float(spread), rel=0.25)


@finite_sdes
def test_an_exact_score_follows_the_fokker_planck_equation_and_is_a_gradient(sde):
    """To the error of the central difference, (h^2/6) d^3 s/dt^3, and to rounding."""
    chain = getattr(sde, "steps", None)
    t = torch.tensor([0.125, 0.475, 0.925] if chain else [0.1, 0.45, 0.9], dtype=torch.float64)  # between the steps of a chain
    if chain == 1000 or chain == 100:
        t = t + 0.5 / chain
    exact = mixture().model(sde)
    z, _ = sde.perturb(mixture().sample(3, generator()), t, generator(1))
    out = diagnostics.fokker_planck_residual(exact, z, t, step=1e-5)
    assert float(out.residual.abs().max()) < 1e-5 * float(out.time_derivative.abs().max())
    part = diagnostics.divergence_free_part(exact, z, t)
    assert float(part.share) < 1e-7


@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_the_field_tests_take_any_event(event):
    target = analytic.GaussianMixture(torch.randn(2, *event, generator=generator()), torch.tensor([0.3, 0.6]))
    z = torch.randn(4, *event, dtype=torch.float64, generator=generator(1))
    before = z.clone()
    out = diagnostics.fokker_planck_residual(target.model(LINEAR), z, 0.4)
    assert out.residual.shape == out.time_derivative.shape == z.shape
    assert float(out.residual.abs().max()) < 1e-5
    assert diagnostics.divergence_free_part(target.model(LINEAR), z, 0.4, probes=2, generator=generator()).total.shape == (4,)
    assert torch.equal(z, before)
    assert not z.requires_grad


def test_the_time_derivative_has_order_two():
    z, t = mixture().sample(4, generator()), 0.3
    residuals = [
        float(diagnostics.fokker_planck_residual(mixture().model(LINEAR), z, t, step=h).residual.abs().max()) for h in (0.04, 0.02)
    ]
    assert math.log2(residuals[0] / residuals[1]) == pytest.approx(2, abs=0.1)


def test_the_residual_of_a_constant_shift_is_known():
    """For s = S + c: dS/dt is the same and grad[g^2/2 (2 S . c) - f z . c] = g^2 J c - f c is in excess."""
    sde, t, c = LINEAR, 0.35, torch.tensor([0.5, -1.0], dtype=torch.float64)
    exact = mixture().model(sde)
    z, _ = sde.perturb(mixture().sample(5, generator()), t, generator(1))
    out = diagnostics.fokker_planck_residual(Distorted(exact, lambda z: c), z, t)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda a: exact.score(a[None], t)[0], one) for one in z])
    excess = sde.diffusion(t) ** 2 * jacobian @ c - sde.drift_rate(t) * c
    torch.testing.assert_close(out.residual, -excess, rtol=1e-6, atol=1e-6)


def test_by_hutchinson_the_residual_is_right_on_average():
    sde, t, n = LINEAR, 0.35, 4000
    model = Distorted(mixture().model(sde), lambda z: torch.sin(3 * z) + z.flip(1) ** 2)
    z = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    expected = diagnostics.fokker_planck_residual(model, z, t).residual
    found = diagnostics.fokker_planck_residual(model, z.expand(n, 2), t, "hutchinson", generator=generator()).residual
    assert bool(((found.mean(0) - expected[0]).abs() < 5 * found.std(0) / math.sqrt(n)).all())
    assert float(found.std(0).min()) > 0.01


def test_a_rotation_that_is_added_is_found():
    """J = S' + w R with S' symmetric and R the quarter turn: |A|^2 = 2 w^2 and |J|^2 = |S'|^2 + 2 w^2."""
    exact, z, t, w = mixture().model(LINEAR), mixture().sample(6, generator()), 0.3, 0.7
    part = diagnostics.divergence_free_part(Distorted(exact, rotation(w)), z, t)
    plain = diagnostics.divergence_free_part(exact, z, t)
    torch.testing.assert_close(part.antisymmetric, torch.full((6,), 2 * w**2, dtype=torch.float64))
    torch.testing.assert_close(part.total, plain.total + 2 * w**2)
    alone = Distorted(analytic.ZeroModel(LINEAR), rotation(w))
    assert float(diagnostics.divergence_free_part(alone, z, t).share) == pytest.approx(1)


def test_probes_are_unbiased_for_both_norms():
    d, n = 5, 4000
    matrix = torch.randn(d, d, dtype=torch.float64, generator=generator())
    model = Distorted(analytic.ZeroModel(LINEAR), lambda z: z @ matrix.T)
    z = torch.zeros(n, d, dtype=torch.float64)
    part = diagnostics.divergence_free_part(model, z, 0.3, probes=2, generator=generator(1))
    for found, expected in ((part.antisymmetric, (0.5 * (matrix - matrix.T)).square().sum()), (part.total, matrix.square().sum())):
        assert abs(float(found.mean() - expected)) < 5 * float(found.std()) / math.sqrt(n)
    exact = diagnostics.divergence_free_part(model, z[:1], 0.3)
    assert float(exact.total[0]) == pytest.approx(float(matrix.square().sum()))


def test_a_unet_with_attention_can_be_asked():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ss.ScoreModel(networks.UNet(1, width=8), SDES["ddpm"], "velocity").double()
        for p in model.parameters():
            p.data.add_(0.02 * torch.randn_like(p))
    z = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator())
    out = diagnostics.fokker_planck_residual(model, z, 0.3005, "hutchinson", step=2e-4, generator=generator())
    part = diagnostics.divergence_free_part(model, z, 0.3005)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda a: model.score(a[None], 0.3005)[0], one) for one in z])
    jacobian = jacobian.reshape(2, 16, 16)
    torch.testing.assert_close(part.total, jacobian.square().sum((1, 2)))
    torch.testing.assert_close(part.antisymmetric, 0.25 * (jacobian - jacobian.mT).square().sum((1, 2)))
    assert bool(out.residual.isfinite().all())
    assert all(p.grad is None for p in model.parameters())


def test_the_variance_of_each_form_has_its_closed_form():
    """One parameter, s = -w z on Gaussian data, where v = Var z: by Gaussian moments the variance of a gradient from one coordinate is

        explicit     2 (w - 1/v)^2 v^2
        implicit     2 w^2 v^2                                      Hutchinson's and the variance-reduced estimator alike: signs are exact here
        denoising    2 w^2 v^2 + (v + sigma^2)/sigma^2 - 4 w v

    over d and the rows, and for the sliced forms, whose d coordinates are one projection, 2 w^2 v^2 over the rows alone.
    """
    sde, t, w, d, s, budget = LINEAR, 0.3, 0.8, 4, 0.6, 60
    target = analytic.GaussianMixture(torch.zeros(1, d), torch.tensor([s**2]))
    model = ss.ScoreModel(Slope(w), sde, "score")
    x = target.sample(20_000, generator())
    v = float(sde.alpha(t)) ** 2 * s**2 + float(sde.sigma(t)) ** 2
    power = float(sde.sigma(t)) ** 2
    of_one = {
        "explicit": 2 * (w - 1 / v) ** 2 * v**2 / d,
        "denoising": (2 * w**2 * v**2 + (v + power) / power - 4 * w * v) / d,
        "implicit": 2 * w**2 * v**2 / d,
        "implicit, Hutchinson": 2 * w**2 * v**2 / d,
        "sliced": 2 * w**2 * v**2,
        "sliced, variance reduced": 2 * w**2 * v**2 / d,
        "finite difference": 2 * w**2 * v**2,
    }
    rows = dict.fromkeys(of_one, budget // 2) | {"explicit": budget, "denoising": budget, "implicit": budget // (1 + d)}
    found = diagnostics.estimator_variance(
        diagnostics.forms(t, d, exact=target.model(sde)), model, x, budget=budget, repetitions=400, generator=generator(1)
    )
    assert set(found) == set(of_one)
    for name, variance in found.items():
        assert variance.rows == rows[name]
        assert abs(variance.gradient - of_one[name] / rows[name]) < 5 * variance.gradient_stderr, name
        assert variance.gradient_stderr < 0.1 * variance.gradient  # sqrt(2/400) = 0.07
        assert variance.value > 0


def test_time_samplers_vary_as_they_should():
    """Under the likelihood weighting its own times vary least among independent ones; strata vary less than independent draws."""
    exact, x = mixture().model(LINEAR), mixture().sample(5000, generator())
    compare = diagnostics.time_samplers("likelihood", ["uniform", "stratified", "likelihood"])
    found = diagnostics.estimator_variance(compare, exact, x, budget=64, generator=generator(1))
    assert (
        found["likelihood"].value < 0.2 * found["uniform"].value
    )  # 15 times in the documentation, and 200 batches know it to 10 %
    assert found["stratified"].value < found["uniform"].value
    assert math.isnan(found["uniform"].gradient)
    assert found["uniform"].rows == 64


def test_wrong_arguments_are_named():
    exact, x = mixture().model(LINEAR), mixture().sample(4, generator())
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        diagnostics.loss_by_time(exact, x[:1], [0.3])
    with pytest.raises(ValueError, match=r"step=0.01 at t=0\.005"):
        diagnostics.fokker_planck_residual(exact, x, 0.005, step=0.01)
    with pytest.raises(ValueError, match="divergence must be"):
        diagnostics.fokker_planck_residual(exact, x, 0.5, "approximate")
    with pytest.raises(ValueError, match="probes must be at least 1, got 0"):
        diagnostics.divergence_free_part(exact, x, 0.5, probes=0)
    with pytest.raises(ValueError, match="budget=2 does not pay for one sample of 'implicit', which costs 3 passes"):
        diagnostics.estimator_variance(diagnostics.forms(0.3, 2), exact, x, budget=2)
    with pytest.raises(ValueError, match="repetitions must be at least 2, got 1"):
        diagnostics.estimator_variance(diagnostics.forms(0.3, 2), exact, x, budget=9, repetitions=1)


def test_global_random_state_is_untouched_and_a_generator_repeats():
    exact, x = mixture().model(LINEAR), mixture().sample(8, generator())
    before = torch.get_rng_state()

    def everything():
        return [
            diagnostics.score_error(exact, analytic.ZeroModel(LINEAR), x, [0.2], generator=generator(3)).mean,
            diagnostics.loss_by_time(exact, x, [0.2], generator=generator(3)).loss.mean,
            diagnostics.divergence_free_part(exact, x, 0.2, probes=1, generator=generator(3)).total,
            diagnostics.fokker_planck_residual(exact, x, 0.2, "hutchinson", generator=generator(3)).residual,
            torch.tensor([v.value for v in diagnostics.estimator_variance(
                diagnostics.forms(0.3, 2), exact, x, budget=9, repetitions=3, generator=generator(3)
            ).values()]),
        ]  # fmt: skip

    for first, second in zip(everything(), everything(), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_bug_31_diagnostics_run_where_the_data_are(device):
    target = analytic.GaussianMixture(
        torch.tensor([[-1.0, 0.5], [1.0, 0.0]], device=device), torch.tensor([0.1, 0.2], device=device)
    )
    exact, x = target.model(LINEAR), target.sample(8, generator())
    assert diagnostics.score_error(exact, exact, x, [0.2, 0.5], generator=generator()).mean.abs().max() == 0
    found = diagnostics.loss_by_time(exact, x, [0.2, 0.5], exact=exact, generator=generator())
    assert torch.equal(found.loss.mean, found.optimal.mean)
    assert (
        diagnostics.fokker_planck_residual(exact, x, 0.4, "hutchinson", generator=generator()).residual.device.type == device.type
    )
    assert float(diagnostics.divergence_free_part(exact, x, 0.4, probes=1, generator=generator()).share) < 1e-7
    forms = diagnostics.forms(0.3, 2, exact=exact)
    found = diagnostics.estimator_variance(forms, exact, x, budget=9, repetitions=2, generator=generator())
    assert all(variance.rows == 9 // forms[name].cost for name, variance in found.items())
