"""Rules of guidance against their formulas, and at the places where norms vanish."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import guidance
from scoresde.guidance import Guided

from ..conftest import SDES, generator, sdes
from .conftest import Conditional, labels, states

NULL = {"label": -1}


def pair(shape=(6, 3, 4), seed=0):
    return (torch.randn(shape, dtype=torch.float64, generator=generator(seed + k)) for k in (0, 1))


def inner(a, b):
    return (a * b).flatten(1).sum(1)


def test_rescaling_is_the_formula_of_the_paper():
    c, u = pair()
    guided = u + 5 * (c - u)
    for phi in (0.0, 0.3, 1.0):
        factor = c.flatten(1).std(1, correction=0) / guided.flatten(1).std(1, correction=0)
        expected = phi * guided * factor[:, None, None] + (1 - phi) * guided
        torch.testing.assert_close(guidance.rescaled(phi)(c, u, torch.tensor(5.0)), expected, rtol=0, atol=1e-12)
    assert torch.equal(guidance.rescaled(0.0)(c, u, torch.tensor(5.0)), guided)
    constant = torch.ones_like(c)
    for a, b in ((constant, constant), (constant, u), (0 * c, 0 * u)):
        assert bool(guidance.rescaled(0.7)(a, b, torch.tensor(3.0)).isfinite().all())


@sdes
def test_projected_guidance_with_all_of_both_parts_is_plain_guidance(sde):
    model, z, label = Conditional(sde), states(sde), labels(16)
    plain, projected = Guided(model, 3.0, uncond=NULL), Guided(model, 3.0, uncond=NULL, rule=guidance.apg(1.0))
    torch.testing.assert_close(projected.data(z, 0.4, label=label), plain.data(z, 0.4, label=label), rtol=0, atol=1e-12)
    # Whatever the network predicts, the rule acts on data.
    for prediction in ("noise", "velocity"):
        other = Guided(Conditional(sde, prediction), 3.0, uncond=NULL, rule=guidance.apg(0.2, 0.4))
        same = Guided(model, 3.0, uncond=NULL, rule=guidance.apg(0.2, 0.4))
        assert other.prediction == "data"
        torch.testing.assert_close(other.data(z, 0.4, label=label), same.data(z, 0.4, label=label), rtol=0, atol=1e-9)
        prepared = other.prepare([0.4], z)[0]
        torch.testing.assert_close(other.output(z, prepared, label=label), same.output(z, 0.4, label=label), rtol=0, atol=1e-9)


def test_projected_guidance_pushes_across_the_conditional_prediction():
    c, u = pair()
    w = torch.tensor(4.0, dtype=torch.float64)
    push = guidance.apg(0.0)(c, u, w) - c
    cosine = inner(push, c) / (inner(push, push) * inner(c, c)).sqrt()
    assert float(cosine.abs().max()) <= 1e-12
    long = guidance.apg(1.0, 0.5)(c, u, w) - c
    torch.testing.assert_close(inner(long, long).sqrt(), torch.full((6,), 3 * 0.5, dtype=torch.float64))
    # c - u points into a short ball here: a larger radius changes nothing.
    torch.testing.assert_close(guidance.apg(1.0, 1e3)(c, u, w), u + 4 * (c - u), rtol=0, atol=1e-12)


def test_projected_guidance_tends_to_the_conditional_model():
    """In the form u + w (...) the part along c would be lost at w = 1 (diffusers): a jump of its length."""
    c, u = pair()
    for w in (1.0, 1 + 1e-6):
        out = guidance.apg(0.0)(c, u, torch.tensor(w, dtype=torch.float64))
        assert float((out - c).norm()) <= 2e-6 * float((c - u).norm())
    sde = SDES["ddpm"]
    model, z, label = Conditional(sde), states(sde), labels(16)
    ours = Guided(model, 1.0, uncond=NULL, rule=guidance.apg())
    model.calls = 0
    torch.testing.assert_close(ours.data(z, 0.3, label=label), model.data(z, 0.3, label=label), rtol=0, atol=1e-12)
    assert model.calls == 2


def test_zero_vectors_leave_everything_finite():
    c, u = pair()
    for rule in (guidance.apg(0.0, 0.5), guidance.apg(), guidance.zero_star(), guidance.rescaled(1.0)):
        for a, b in ((c, c), (0 * c, u), (c, 0 * u), (0 * c, 0 * u)):
            assert bool(rule(a, b, torch.tensor(3.0)).isfinite().all())


def test_zero_star_is_exact_where_the_weak_velocity_is_a_multiple():
    c, u = pair()
    share = (inner(c, u) / inner(u, u))[:, None, None]
    for w in (-1.0, 0.0, 0.5, 1.0, 3.0, 8.0):
        weight = torch.tensor(w, dtype=torch.float64)
        torch.testing.assert_close(guidance.zero_star()(2.5 * u, u, weight), 2.5 * u, rtol=0, atol=1e-12)
        torch.testing.assert_close(guidance.zero_star()(c, u, weight), share * u + w * (c - share * u), rtol=0, atol=1e-12)


def test_zero_initialisation_leaves_the_state_of_a_flow_where_it_is():
    sde = SDES["flow"]
    model, z, label = Conditional(sde, "velocity"), states(sde), labels(16)
    guided = Guided(model, 3.0, uncond=NULL, rule=guidance.zero_star(zero_above=0.8))
    run = ss.sample(guided, z.shape, "euler", grid=torch.linspace(1, 0, 11, dtype=torch.float64), z=z, label=label, trajectory=True)
    assert torch.equal(run.path[1], z)
    assert torch.equal(run.path[2], z)
    assert not torch.equal(run.path[4], z)
    # Calls at t = 1.0, 0.9 and, as 0.8 is not above 0.8, no more are saved; all others cost two.
    assert run.network_calls == 2 * 8
    times = torch.tensor([0.95, 0.5] * 8, dtype=torch.float64)
    mixed = guided.output(z, times, label=label)
    assert torch.equal(mixed[::2], torch.zeros_like(mixed[::2]))
    torch.testing.assert_close(mixed[1::2], guided.output(z[1::2], 0.5, label=label[1::2]))


def test_a_prediction_of_zero_that_moves_the_state_is_refused():
    with pytest.raises(ValueError, match="a noise of 0 lets a state move"):
        guidance.zero_star(0.9, "noise")
    for name in ("edm", "ve", "sub-vp"):
        with pytest.raises(ValueError, match="zero_above= needs a path whose velocity is the rate"):
            Guided(Conditional(SDES[name]), 2.0, uncond=NULL, rule=guidance.zero_star(0.9))
    Guided(Conditional(SDES["linear"]), 2.0, uncond=NULL, rule=guidance.zero_star(0.9))


def test_any_function_with_a_space_is_a_rule():
    class Damped:
        """MaMBo's weight, 1 + (w - 1) exp(-|c - u|/|u|), for each sample."""

        space = "noise"

        def __call__(self, strong, weak, weight):
            ratio = ((strong - weak).flatten(1).norm(dim=1) / weak.flatten(1).norm(dim=1))[:, None]
            return weak + (1 + (weight - 1) * (-ratio).exp()) * (strong - weak)

    sde = SDES["ddpm"]
    model, z, label = Conditional(sde, "data"), states(sde), labels(16)
    guided = Guided(model, 3.0, uncond=NULL, rule=Damped())
    c, u = model.noise(z, 0.4, label=label), model.noise(z, 0.4)
    torch.testing.assert_close(guided.noise(z, 0.4, label=label), Damped()(c, u, 3.0), rtol=0, atol=1e-12)


def test_thresholding_goes_around_the_guided_model():
    sde = SDES["ddpm"]
    model, z, label = Conditional(sde), states(sde), labels(16)
    guided = Guided(model, 5.0, uncond=NULL)
    ours = guidance.thresholded(guided, -0.5, 0.5)
    torch.testing.assert_close(
        ours.data(z, 0.3, label=label), guided.data(z, 0.3, label=label).clamp(-0.5, 0.5), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: guidance.rescaled(1.5), ValueError, r"phi must lie in \[0, 1\]"),
        (lambda: guidance.rescaled(0.5, "energy"), ValueError, "space must be one of"),
        (lambda: guidance.apg("a"), TypeError, "eta must be a number"),
        (lambda: guidance.apg(0.0, 0.0), ValueError, "radius must be positive"),
        (lambda: guidance.apg(0.0, math.nan), ValueError, "radius must be finite"),
        (lambda: guidance.zero_star(2.0), ValueError, "zero_above must lie in"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
