"""Losses take data, times, noise and functions in any form of real numbers, and refuse the rest by name."""

import math
import pickle

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import losses, networks
from scoresde.losses.times import TIME_SAMPLERS, UniformHalfLogSNR

from ..conftest import generator, mixture
from ..nonsense import FOURS, HALVES, NO_COUNTS, NO_NUMBERS, NO_STATES, refuses, states

VP, CHAIN = ss.VPSDE(), ss.VPSDE.cosine(20)
MODEL, ON_CHAIN = mixture().model(VP), mixture().model(CHAIN)
X = states()["tensor"]


def loss(x=X, **options):
    return losses.denoising(MODEL, x, **{"generator": generator()} | options)


FORMS = {
    "denoising": loss,
    "at": lambda x: losses.denoising_at(MODEL, x, 0.5, generator()),
    "explicit": lambda x: losses.explicit(MODEL, x, torch.zeros_like),
    "implicit": lambda x: losses.implicit(MODEL, x, 0.5),
    "sliced": lambda x: losses.sliced(MODEL, x, 0.5, generator=generator()),
    "finite difference": lambda x: losses.finite_difference(MODEL, x, 0.5, generator=generator()),
    "elbo": lambda x: losses.elbo(ON_CHAIN, x, terms=2, generator=generator()).nats,
    "continuous": lambda x: losses.elbo_continuous(ON_CHAIN, x, samples=2, generator=generator()).nats,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_data_in_any_form(form):
    refuses("^[xz] ", form, NO_STATES.values())
    right = form(X)
    for name, x in states().items():
        out = form(x)
        assert out.shape == (3,)
        if name not in ("double", "bfloat16", "float16"):  # other noise
            torch.testing.assert_close(out.detach(), right, rtol=1e-4, atol=1e-4)


def test_integers_are_not_cut():
    """|noise error|^2 of a network that predicts none is |eps|^2, and a loss of integers was another one."""
    zero, counts = ss.analytic.ZeroModel(VP), torch.full((4, 2), 3)
    eps = torch.randn(4, 2, generator=generator())
    right = losses.denoising(zero, counts.float(), t=torch.full((4,), 0.5), noise=eps)
    torch.testing.assert_close(right, eps.square().mean(1))
    for x in (counts, counts.byte(), counts.bool(), np.full((4, 2), 3)):
        with pytest.raises(TypeError, match=r"x holds torch\.\w+: give real numbers, such as x\.float\(\)"):
            losses.denoising(zero, x, t=torch.full((4,), 0.5), noise=eps)


def test_a_loss_of_complex_data_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"two channels, torch.view_as_real"):
        loss(torch.zeros(4, 2, dtype=torch.complex128))


MODELS = {
    "none": None,
    "network": networks.MLP(2, 8),
    "class": ss.ScoreModel,
    "wrapped": torch.nn.DataParallel(MODEL and ss.ScoreModel(networks.MLP(2, 8), VP)),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_what_is_no_model(model):
    for call in (
        lambda: losses.denoising(model, X),
        lambda: losses.implicit(model, X, 0.5),
        lambda: losses.explicit(model, X, X),
        lambda: losses.finite_difference(model, X, 0.5),
        lambda: losses.elbo(model, X),
        lambda: losses.elbo_continuous(model, X),
        lambda: losses.hybrid(model, X),
    ):
        with pytest.raises(TypeError, match="model must be a"):
            call()


TIMES = (
    "0.5",
    True,
    1j,
    {},
    -1.0,
    2,
    math.nan,
    torch.full((3, 1), 0.5),
    torch.full((2,), 0.5),
    torch.tensor([5] * 3),
    [0.1, "a", 1],
)


@pytest.mark.parametrize("t", TIMES, ids=repr)
def test_times_that_are_none(t):
    for call in (
        lambda: loss(t=t),
        lambda: losses.denoising_at(MODEL, X, t),
        lambda: losses.implicit(MODEL, X, t),
        lambda: losses.explicit(MODEL, X, X, t=t),
        lambda: losses.finite_difference(MODEL, X, t),
    ):
        with pytest.raises((TypeError, ValueError), match=r"\bt\b|a time"):
            call()


@pytest.mark.parametrize(
    "t", [[0.1, 0.2, 0.3], np.array([0.3, 0.2, 0.1])[::-1], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)], ids=repr
)
def test_times_in_any_form(t):
    right = loss(t=torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert torch.equal(loss(t=t), right)


@pytest.mark.parametrize("t", [*HALVES, [0.5] * 3], ids=repr)
def test_one_time_for_all(t):
    assert torch.equal(loss(t=t), loss(t=torch.full((3,), 0.5)))


def test_noise():
    refuses(
        "noise",
        lambda v: loss(noise=v),
        ["foo", 5, torch.zeros(3, 1), torch.zeros(2), [[0.0, 1.0]], NO_STATES["integers"], NO_STATES["complex"]],
    )
    right = loss(t=0.5, noise=torch.ones(3, 2))
    for noise in (np.ones((3, 2), np.float32), [[1.0, 1.0]] * 3):
        assert torch.equal(loss(t=0.5, noise=noise), right)


@pytest.mark.parametrize("form", ["denoising", "sliced", "implicit", "elbo", "continuous"])
def test_a_generator(form):
    call = {
        "denoising": lambda g: losses.denoising(MODEL, X, generator=g),
        "sliced": lambda g: losses.sliced(MODEL, X, 0.5, generator=g),
        "implicit": lambda g: losses.implicit(MODEL, X, 0.5, "hutchinson", generator=g),
        "elbo": lambda g: losses.elbo(ON_CHAIN, X, generator=g),
        "continuous": lambda g: losses.elbo_continuous(ON_CHAIN, X, generator=g),
    }[form]
    refuses("generator", call, [5, "cpu", [generator()]])


WEIGHTINGS = {
    "unknown": "foo",
    "a number": 5,
    "nothing": None,
    "one argument": lambda t: 1.0,
    "another shape": lambda sde, t: torch.ones(7),
    "a column": lambda sde, t: t[:, None],
    "negative": lambda sde, t: -torch.ones_like(t),
    "not a number": lambda sde, t: math.nan,
    "infinite": lambda sde, t: 1 / (0 * t),
    "text": lambda sde, t: "x",
    "no result": lambda sde, t: None,
    "complex": lambda sde, t: t * 1j,
    "of its own": losses.Weighting("noise", lambda sde, t: -t),
}


@pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS.keys())
def test_weightings_that_are_none(weighting):
    with pytest.raises((TypeError, ValueError), match="weighting"):
        loss(weighting=weighting)


@pytest.mark.parametrize(
    "two",
    [
        lambda sde, t: 2.0,
        lambda sde, t: np.full(len(t), 2),
        lambda sde, t: torch.tensor(2),
        lambda sde, t: t.mul_(0).add_(2).float(),
    ],
)
def test_a_weighting_may_return_a_constant_or_an_array(two):
    t = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    right = loss(t=t, weighting=lambda sde, t: 2 * torch.ones_like(t))
    assert torch.equal(loss(t=t, weighting=two), right)
    assert t.tolist() == [0.1, 0.2, 0.3]  # it worked in place on a copy


@pytest.mark.parametrize(
    ("name", "make", "wrong"),
    [
        ("gamma", losses.min_snr, (0.0, -1.0)),
        ("k must", losses.p2, (-2.0,)),
        ("gamma", lambda v: losses.p2(1.0, v), ()),
        ("sigma_data", losses.edm, (0.0, -1.0)),
    ],
)
def test_knobs_of_weightings(name, make, wrong):
    refuses(name, lambda v: loss(weighting=make(v)), (*NO_NUMBERS, *wrong))
    for half in HALVES:
        assert torch.equal(loss(weighting=make(half)), loss(weighting=make(0.5)))


@pytest.mark.parametrize("weighting", [losses.min_snr(3.0), losses.p2(2.0, 0.5), losses.edm(0.7)], ids=["min_snr", "p2", "edm"])
def test_weightings_can_be_pickled(weighting):
    assert torch.equal(loss(weighting=pickle.loads(pickle.dumps(weighting))), loss(weighting=weighting))


SAMPLERS = {
    "unknown": "foo",
    "a number": 5,
    "times": [0.5],
    "one argument": lambda n: torch.rand(n),
    "one time": lambda sde, n, g: 0.5,
    "one too many": lambda sde, n, g: torch.rand(n + 1),
    "a column": lambda sde, n, g: torch.rand(n, 1),
    "beyond 1": lambda sde, n, g: torch.full((n,), 2.0),
    "not a number": lambda sde, n, g: torch.full((n,), math.nan),
    "indices": lambda sde, n, g: torch.arange(n) + 2,
    "truth values": lambda sde, n, g: torch.ones(n, dtype=torch.bool),
    "no result": lambda sde, n, g: None,
    "too few weights": lambda sde, n, g: losses.Times(torch.rand(n), torch.ones(n - 1)),
    "negative weights": lambda sde, n, g: losses.Times(torch.rand(n), -torch.ones(n)),
    "infinite weights": lambda sde, n, g: losses.Times(torch.rand(n), torch.full((n,), math.inf)),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_samplers_of_times_that_are_none(sampler):
    with pytest.raises((TypeError, ValueError), match="time_sampler"):
        loss(time_sampler=sampler)


def test_times_and_weights_in_a_plain_tuple_are_refused():
    with pytest.raises(TypeError, match=r"for weights return losses\.Times\(times, weights\)"):
        losses.draw_times(VP, 4, lambda sde, n, g: (torch.rand(n), torch.ones(n)))


@pytest.mark.parametrize(
    "sampler", [lambda sde, n, g: [0.5] * n, lambda sde, n, g: np.full(n, 0.5), lambda sde, n, g: torch.full((n,), 0.5).half()]
)
def test_times_of_a_sampler_in_any_form(sampler):
    t, weight = losses.draw_times(VP, 4, sampler)
    assert t.dtype == weight.dtype == torch.float64
    assert t.tolist() == [0.5] * 4
    assert weight.tolist() == [1.0] * 4


def test_numbers_of_samplers():
    refuses("bins", losses.Adaptive, NO_COUNTS)
    refuses("history", lambda v: losses.Adaptive(3, v), NO_COUNTS)
    refuses("floor", lambda v: losses.Adaptive(3, 3, v), [*NO_NUMBERS, 0.0, 1.5])
    refuses("mean", losses.LogNormal, NO_NUMBERS)
    refuses("std", lambda v: losses.LogNormal(0.0, v), [*NO_NUMBERS, 0.0, -1.0])
    refuses(
        "n must",
        lambda v: losses.draw_times(VP, v, "uniform"),
        [value for value in NO_COUNTS if type(value) is not int or value != 0],
    )
    assert all(losses.Adaptive(four).bins == 4 for four in FOURS)


def test_an_adaptive_sampler_takes_lists_and_refuses_other_states():
    sampler = losses.Adaptive(2, history=1)
    sampler.update(VP, [0.9, 0.1], [1.0, 3.0])
    assert sampler.probabilities.tolist() == pytest.approx([0.99 / 4 + 0.005, 0.99 * 3 / 4 + 0.005])
    for t, values in ((["a"], [1.0]), ([0.5], "x"), ([2.0], [1.0]), (0.5, 1.0), ([0.5], [math.inf])):
        with pytest.raises((TypeError, ValueError), match=r"\bt\b|loss|times"):
            sampler.update(VP, t, values)
    good = sampler.state_dict()
    for state in (
        None,
        {},
        {"losses": 1, "counts": 2},
        {"losses": good["losses"]},
        good | {"counts": torch.zeros(2)},
        good | {"counts": torch.zeros(3).long()},
    ):
        with pytest.raises((TypeError, ValueError), match="state"):
            losses.Adaptive(2, history=1).load_state_dict(state)


def test_numbers_of_sliced_losses():
    for call in (
        lambda v: losses.sliced(MODEL, X, 0.5, v),
        lambda v: losses.finite_difference(MODEL, X, 0.5, v),
        lambda v: losses.implicit(MODEL, X, 0.5, "hutchinson", projections=v),
    ):
        refuses("projections", call, NO_COUNTS)
        assert call(np.int64(2)).shape == (3,)
    refuses("chunk", lambda v: losses.implicit(MODEL, X, 0.5, chunk=v), NO_COUNTS)
    refuses("step", lambda v: losses.finite_difference(MODEL, X, 0.5, step=v), [*NO_NUMBERS, 0.0, -0.1])
    refuses("divergence", lambda v: losses.implicit(MODEL, X, 0.5, v), [None, 5, "foo"])
    refuses(
        "directions",
        lambda v: losses.sliced(MODEL, X, 0.5, directions=v),
        [5, "x", torch.zeros(3, 2), torch.zeros(0, 3, 2), torch.ones(1, 3, 2).long()],
    )
    refuses(
        "target_score", lambda v: losses.explicit(MODEL, X, v), [5, "x", None, X[:, :1], X.long(), lambda x: None, lambda x: x[:1]]
    )
    v = torch.ones(2, 3, 2)
    assert torch.equal(losses.sliced(MODEL, X, 0.5, directions=v.numpy()), losses.sliced(MODEL, X, 0.5, directions=v))
    assert torch.equal(losses.explicit(MODEL, X, X.tolist()), losses.explicit(MODEL, X, lambda x: x))


def test_numbers_and_functions_of_bounds():
    def bound(**options):
        return losses.elbo(ON_CHAIN, X, **{"generator": generator()} | options).nats

    refuses("terms", lambda v: bound(terms=v), [*(value for value in NO_COUNTS if value is not None), 20])
    refuses("samples", lambda v: losses.elbo_continuous(ON_CHAIN, X, samples=v), [*NO_COUNTS, 3])
    refuses(
        "grid",
        lambda v: bound(grid=v),
        ["x", 5, [1.0], [0.5, 1.0], [1.0, 0.0, 0.0], [math.nan, 0.0], [[1.0, 0.0]], torch.tensor([1.0, 0.5])],
    )
    variances = [
        "x",
        None,
        -1,
        2,
        math.nan,
        [1],
        lambda s: s,
        lambda s, t: -t,
        lambda s, t: 0 * t,
        lambda s, t: "x",
        lambda s, t: torch.ones(7),
    ]
    refuses("variance|time", lambda v: bound(variance=v), variances)
    refuses(
        "decoder", lambda v: bound(decoder=v), [None, 5, "x", lambda x: x, lambda x, mean, std: None, lambda x, mean, std: x.sum(1)]
    )
    grid = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    assert torch.equal(bound(grid=[1.0, 0.5, 0.25, 0.0]), bound(grid=grid))
    assert torch.equal(bound(variance=lambda s, t: 0.5), bound(variance=lambda s, t: torch.full_like(t, 0.5)))
    for arguments in ((0, 1, 1), (1, 0, 2), ("x", 1, 2), (math.nan, 1, 2), (0, math.inf, 2), (0, 1, 2.5)):
        with pytest.raises((TypeError, ValueError), match=r"low|high|bins"):
            losses.DiscretisedDecoder(*arguments)


def test_numbers_of_the_hybrid_loss():
    class Network(torch.nn.Module):
        def forward(self, z, t):
            return torch.cat([z, 0 * z], 1)

    model = ss.models.LearnedVariance(Network(), CHAIN)
    refuses("vlb_weight", lambda v: losses.hybrid(model, X, v), [*NO_NUMBERS, -1.0])
    refuses("^x ", lambda v: losses.hybrid(model, v), NO_STATES.values())
    refuses("decoder", lambda v: losses.hybrid(model, X, decoder=v), [None, 5, lambda x, mean, std: x.sum(1)])
    assert losses.hybrid(model, X.numpy(), np.float32(0.5), t=0.5).isfinite().all()


@pytest.mark.parametrize(
    "sampler",
    [None, *TIME_SAMPLERS, losses.LogNormal(0.0, 1.0), losses.Corrected(UniformHalfLogSNR()), losses.Adaptive()],
    ids=lambda s: s if isinstance(s, str) else type(s).__name__,
)
def test_a_chain_of_one_step_has_one_time(sampler):
    """t_min = t_max = 1: every sampler draws 1 and weights it by 1."""
    chain = ss.VPSDE.from_betas([0.5])
    t, weight = losses.draw_times(chain, 5, sampler, generator())
    assert t.tolist() == [1.0] * 5
    torch.testing.assert_close(weight, torch.ones_like(t))
    assert losses.denoising(mixture().model(chain), X, time_sampler=sampler).isfinite().all()


def test_bounds_of_a_chain_of_one_step():
    """Only prior and reconstruction are left; the steps that there are not cost nothing."""
    model = mixture().model(ss.VPSDE.from_betas([0.5]))
    bound, limit = losses.elbo(model, X, generator=generator()), losses.elbo_continuous(model, X, samples=2, generator=generator())
    assert bound.diffusion.shape == (3, 0)
    assert limit.diffusion.abs().max() == 0
    assert torch.equal(bound.prior, limit.prior)
    assert bound.nats.isfinite().all()
