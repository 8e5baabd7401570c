"""Products and tilts of exact mixtures."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic, guidance, models, networks
from scoresde.guidance import product, tilted
from scoresde.numerics.cost import counted

from ..conftest import SDES, OwnPrediction, finite_sdes, generator, sdes
from .conftest import Conditional, labels, log_label, of_label, states


@sdes
def test_a_product_adds_the_scores_of_models_of_any_prediction(sde):
    parts = [OwnPrediction(sde, "data"), OwnPrediction(sde, "noise", of_label(0)), OwnPrediction(sde, "velocity", of_label(1))]
    exact = [part.exact for part in parts]
    z = states(sde)
    for weights in ([1.0, 1.0, 1.0], [0.5, 2.0, -1.0], [0.4, 0.7, -0.1]):
        made = product(parts, weights)
        for t in (0.05, 0.5, 0.9):
            expected = sum(w * m.score(z, t) for w, m in zip(weights, exact, strict=True))
            torch.testing.assert_close(made.score(z, t), expected, rtol=1e-9, atol=1e-9)
            prepared = made.prepare([0.99, t], z)[1]
            torch.testing.assert_close(made.output(z, prepared), made.output(z, t), rtol=1e-9, atol=1e-9)
    with counted() as cost:
        made.output(z, 0.5)
    assert cost.network == 2 * len(z)


def test_weights_that_sum_to_one_keep_the_prediction_and_work_without_a_signal():
    sde = SDES["flow"]
    made = product([OwnPrediction(sde, "velocity"), OwnPrediction(sde, "velocity", of_label(0))], [1.5, -0.5])
    assert made.prediction == "velocity"
    assert made.start_scale == 1
    z = states(sde)
    expected = 1.5 * made.models[0].exact.velocity(z, 1.0) - 0.5 * made.models[1].exact.velocity(z, 1.0)
    torch.testing.assert_close(made.output(z, 1.0), expected)
    assert bool(ss.sample(made, z.shape, "dpm++2m", steps=5, z=z).isfinite().all())
    # A third prediction beside a guided one, as perturbed attention needs: D_u + w (D_c - D_u) + v (D_c - D_p).
    model, label = Conditional(SDES["ddpm"]), labels(16)
    u, p = guidance.conditioned(model, label=-1), guidance.conditioned(model, label=2)

    class Bound(ss.Model):
        sde, prediction = model.sde, "data"

        def output(self, z, t):
            return model.output(z, t, label=label)

    three = product([u, Bound(), p], [1 - 3.0, 3.0 + 2.0, -2.0])
    c_, u_, p_ = model.data(z, 0.3, label=label), u.data(z, 0.3), p.data(z, 0.3)
    torch.testing.assert_close(three.data(z, 0.3), u_ + 3 * (c_ - u_) + 2 * (c_ - p_), rtol=0, atol=1e-11)


def test_a_product_starts_from_its_own_law():
    """q_1 q_2 is N(0, sigma^2/2) at t = 1; a start from the prior would have twice the variance."""
    sde = SDES["linear"]
    gaussian = analytic.GaussianMixture(torch.zeros(1, 1), torch.ones(1)).model(sde)
    made = product([gaussian, gaussian])
    assert made.start_scale == pytest.approx(0.5**0.5)
    with pytest.warns(
        UserWarning, match="weights sum to 2 is not that of its density, and its samples collapse: take .*FeynmanKac"
    ):
        run = ss.sample(made, (20_000, 1), "ddim", steps=2, generator=generator(), trajectory=True)
    # 5 standard errors of a variance: 5 sqrt(2/n) of it.
    assert float(run.path[0].var()) == pytest.approx(0.5, rel=5 * (2 / 20_000) ** 0.5)
    with pytest.raises(ValueError, match="the weights sum to 0"):
        product([gaussian, gaussian], [1.0, -1.0])


@finite_sdes
def test_the_tilt_by_exact_responsibilities_is_the_conditional_mixture(sde):
    """p(z, t) p(label | z, t) is the conditional mixture, so that w = 1 gives its model."""
    z, label = states(sde), labels(16)
    conditional = Conditional(sde)

    def classifier(v, t, label):
        return log_label(v, t, sde, label)

    for prediction in ("data", "noise", "velocity"):
        made = tilted(OwnPrediction(sde, prediction, of_label()), classifier, takes=["label"])
        for t in (0.01, 0.3, 0.9):
            if float(sde.alpha(t) / sde.sigma(t)) < 1e-3:
                continue
            expected = conditional.data(z, t, label=label)
            tolerance = 1e-10 * max(1.0, float(sde.sigma(t) / sde.alpha(t)))
            torch.testing.assert_close(made.data(z, t, label=label), expected, rtol=tolerance, atol=tolerance)
        prepared = made.prepare([0.3], z)[0]
        torch.testing.assert_close(
            made.output(z, prepared, label=label), conditional.data(z, 0.3, label=label), rtol=1e-9, atol=1e-9
        )
        times = torch.linspace(0.05, 0.9, 16, dtype=torch.float64)
        torch.testing.assert_close(made.data(z, times, label=label), conditional.data(z, times, label=label), rtol=1e-8, atol=1e-8)
    with counted() as cost:
        made.data(z, 0.3, label=label)
    assert (cost.network, cost.vjps) == (0, 0)


def test_a_tilt_through_the_data_prediction_keeps_the_jacobian():
    """For p = N(0, S) and r = a x, grad_z r(D) = a S alpha/(alpha^2 S + sigma^2), which is the shift a S of the mean of the data at all t."""
    sde, s, a = SDES["linear"], 0.5, 1.3
    made = tilted(
        analytic.GaussianMixture(torch.zeros(1, 1), torch.tensor([s])).model(sde), lambda x, t: a * x[:, 0], through="data"
    )
    shifted = analytic.GaussianMixture(torch.tensor([[a * s]], dtype=torch.float64), torch.tensor([s])).model(sde)
    z = states(sde)[:, :1]
    for t in (0.01, 0.3, 0.9, 1.0):
        torch.testing.assert_close(made.data(z, t), shifted.data(z, t), rtol=0, atol=1e-10)
    with counted() as cost:
        made.data(z, 0.3)
    assert (cost.network, cost.vjps) == (0, 16)


def test_tilts_work_where_there_is_no_signal_and_where_there_is_no_gradient_mode():
    sde = SDES["flow"]
    base = OwnPrediction(sde, "velocity")
    made = tilted(base, lambda x, t: x.sum(1), through="data")
    z = states(sde)
    out = made.data(z, 1.0)
    # The shift is alpha^-1 sigma^2 J^T 1 = V 1, and V at alpha/sigma = 1e-3 is the covariance of the data to 1e-3.
    x = base.exact.mixture.sample(400_000, generator())
    covariance = torch.cov(x.T)
    expected = base.exact.mixture.weights @ base.exact.mixture.means + covariance.sum(1)
    torch.testing.assert_close(out, expected.expand_as(out), rtol=0, atol=2e-2)
    with torch.no_grad():
        assert not made.data(z, 0.5).requires_grad
    with torch.inference_mode(), pytest.raises(RuntimeError, match="in place of torch"):
        made.data(z, 0.5)
    v = states(sde, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: ss.sample(made, v.shape, "ddim", steps=3, z=v, grad=True), v)
    assert bool(ss.log_likelihood(made, x[:3]).nats.isfinite().all())


def test_one_sample_of_a_tilt_does_not_depend_on_the_others():
    sde = SDES["ddpm"]
    made = tilted(OwnPrediction(sde, "noise"), lambda v, t: -(v**2).sum(1), scale=0.3)
    z = states(sde, 7)
    whole = made.data(z, 0.4)
    torch.testing.assert_close(torch.cat([made.data(row[None], 0.4) for row in z]), whole, rtol=0, atol=1e-10)
    z[2] = torch.nan
    rest = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(made.data(z, 0.4)[rest], whole[rest], rtol=0, atol=1e-10)


def test_wrong_arguments_are_refused_by_name():
    model = OwnPrediction(SDES["ddpm"], "noise")
    z = states(model.sde)
    with pytest.raises(TypeError, match="log_weight must take 2 arguments and label="):
        tilted(model, lambda v, t: v.sum(1), takes=["label"])
    with pytest.raises(ValueError, match="through must be one of state, data"):
        tilted(model, lambda v, t: v.sum(1), through="noise")
    with pytest.raises(ValueError, match="one number for each sample"):
        tilted(model, lambda v, t: v).data(z, 0.4)
    bare = ss.ScoreModel(networks.MLP(2, width=8), model.sde)
    with pytest.raises(ValueError, match="a CUDA graph records no gradients"):
        tilted(models.graphed(bare), lambda v, t: v.sum(1), through="data")
    with pytest.raises(ValueError, match="models is empty"):
        product([])
    with pytest.raises(ValueError, match="weights must be 1 numbers"):
        product([model], [1.0, 2.0])
    with pytest.raises(ValueError, match="a model of the product was made for a process"):
        product([model, OwnPrediction(SDES["edm"], "noise")])
