"""What paths and schedules are made of is checked by name, and constants, arrays and lists keep all their digits."""

import math

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde.sde import Preconditioned, as_time

from ..conftest import generator
from ..nonsense import FOURS, HALVES, NO_COUNTS, NO_NUMBERS, NO_STATES, refuses, states

VP = ss.VPSDE()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("beta_min", lambda v: ss.VPSDE(v, 20.0)),
        ("beta_max", lambda v: ss.SubVPSDE(0.1, v)),
        ("sigma_min", lambda v: ss.VESDE(v, 50.0)),
        ("sigma_max", lambda v: ss.EDM(0.002, v)),
        ("max_beta", lambda v: ss.VPSDE.cosine(10, max_beta=v)),
        ("t_min", lambda v: ss.ScalesSDE(lambda t: 1 - t / 2, lambda t: t, t_min=v)),
        ("t_min", lambda v: ss.CoefficientsSDE(lambda t: -t, lambda t: 1, t_min=v)),
        ("prior_std", lambda v: ss.ScalesSDE(lambda t: 1 - t / 2, lambda t: t, prior_std=v)),
    ],
)
def test_numbers_of_a_path(name, make):
    optional = name == "prior_std"
    refuses(name, make, [value for value in (*NO_NUMBERS, -1.0) if value is not None or not optional])
    one = make(0.5)
    for value in HALVES:
        assert make(value).sigma(0.3) == one.sigma(0.3)


def test_numbers_of_a_path_that_are_out_of_their_range():
    refuses("t_min", lambda v: ss.ScalesSDE(lambda t: 1 - t / 2, lambda t: t, t_min=v), [0.0, 1.0, 2.0])
    refuses("max_beta", lambda v: ss.VPSDE.cosine(10, max_beta=v), [0.0, 1.5])
    refuses("s must be at least 0", lambda v: ss.VPSDE.cosine(10, s=v), [-0.1])
    # The square of the ratio must be a float64.
    refuses("sigma_max/sigma_min", lambda v: ss.VESDE(0.1, v), [1e300])
    refuses("sigma_max/sigma_min", lambda v: ss.EDM(1e-300, v), [1e300])
    refuses("sigma_data", lambda v: ss.ScoreModel(torch.nn.Identity(), VP, Preconditioned(v)), [*NO_NUMBERS, 0.0, -1.0])


def test_the_number_of_steps_of_a_cosine_chain():
    refuses("steps", ss.VPSDE.cosine, NO_COUNTS)
    assert all(ss.VPSDE.cosine(value).steps == 4 for value in FOURS)


MAKERS = {"betas": ss.VPSDE.from_betas, "alphas_bar": ss.VPSDE.from_alphas_bar}
BETAS = [
    [],
    0.1,
    "0.1",
    None,
    ["a"],
    [0.1, None],
    [0.1, math.nan],
    [0.1, math.inf],
    [0.1, -0.1],
    [0.1, 1.5],
    [[0.1, 0.2]],
    [True],
    [0.1 + 0j],
    np.array([0.1 + 0j]),
    np.array(["0.1"]),
    iter([0.1]),
    {0.1},
]


@pytest.mark.parametrize("betas", BETAS, ids=lambda betas: "an iterator" if hasattr(betas, "__next__") else repr(betas))
def test_betas_that_are_none(betas):
    for name, make in MAKERS.items():
        with pytest.raises((TypeError, ValueError), match=name):
            make(betas)
    with pytest.raises((TypeError, ValueError), match="betas"):
        ss.zero_terminal_snr(betas)


def test_alphas_bar_must_fall():
    for bar in ([0.5, 0.5], [0.5, 0.9], [1.0, 0.5], [0.5, 0.0, 0.0], [1.2]):
        with pytest.raises(ValueError, match="alphas_bar must fall strictly"):
            ss.VPSDE.from_alphas_bar(bar)


def test_zero_terminal_signal_needs_two_betas_that_can_be_told_apart():
    refuses("betas", ss.zero_terminal_snr, [[0.1], torch.tensor([0.5]), [0.1, 1e-20]])
    # sqrt(alpha_bar) keeps its first value and ends at 0: with two betas there is nothing between.
    assert torch.allclose(ss.zero_terminal_snr([0.1, 0.2]), torch.tensor([0.1, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lists_keep_their_digits_whatever_the_default_dtype(dtype):
    try:
        torch.set_default_dtype(dtype)
        for make in (list, tuple, np.array, lambda v: np.array(v[::-1])[::-1], lambda v: torch.tensor(v, dtype=torch.float64)):
            assert ss.VPSDE.from_betas(make([0.1, 0.3])).betas.tolist() == [0.1, 0.3]
            assert abs(float(ss.VPSDE.from_alphas_bar(make([0.9, 0.3])).betas[0]) - 0.1) < 1e-15
            assert abs(float(ss.zero_terminal_snr(make([0.1, 0.3]))[0]) - 0.1) < 1e-15
        assert float(ss.VPSDE().alpha(0.3)) == math.exp(-0.5 * 0.3 * (0.1 + 0.5 * 0.3 * 19.9))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda t: 0.0, lambda t: 1.0),
        (lambda t: torch.tensor(0), lambda t: np.ones_like(t)),
        (lambda t: np.float32(0), lambda t: torch.ones_like(t).float()),
        (lambda t: 0 * t, lambda t: t.mul_(0).add_(1)),
    ],
)
def test_brownian_motion_from_constants(f, g):
    """dz = dw: alpha = 1 and sigma = sqrt(t)."""
    path, t = ss.CoefficientsSDE(f, g), torch.tensor([0.25, 0.64])
    assert torch.allclose(path.sigma(t), torch.tensor([0.5, 0.8], dtype=torch.float64))
    assert torch.equal(path.alpha(t), torch.ones(2, dtype=torch.float64))
    assert torch.equal(path.diffusion(t), torch.ones(2, dtype=torch.float64))
    assert path.drift_rate(0.3).shape == ()
    assert t.tolist() == pytest.approx([0.25, 0.64])  # the function works in place


@pytest.mark.parametrize("one", [1.0, 1, np.float64(1), torch.tensor(1.0)])
def test_a_constant_scale(one):
    """alpha = 1 and sigma = t, so that f = 0 and g^2 = 2 t."""
    path = ss.ScalesSDE(lambda t: one, lambda t: t)
    t = torch.tensor([0.125, 0.5], dtype=torch.float64)
    assert torch.equal(path.alpha(t), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(path.diffusion(t), (2 * t).sqrt())
    assert path.alpha(0.5).dtype == torch.float64


NO_FUNCTIONS = {
    "nothing": None,
    "a number": 5,
    "no argument": lambda: 1.0,
    "text": lambda t: "x",
    "no result": lambda t: None,
    "truth values": lambda t: t > 0.5,
    "complex numbers": lambda t: t * 1j,
    "another shape": lambda t: torch.ones(7),
    "a column": lambda t: t[:, None],
    "an error": lambda t: 1 / 0,
    "math": lambda t: math.exp(-t),
    "not a number": lambda t: math.nan,
}


@pytest.mark.parametrize("function", NO_FUNCTIONS.values(), ids=NO_FUNCTIONS.keys())
def test_functions_that_are_none(function):
    with pytest.raises((TypeError, ValueError), match="alpha"):
        ss.ScalesSDE(function, lambda t: t)
    with pytest.raises((TypeError, ValueError), match=r"diffusion|f and g"):
        ss.CoefficientsSDE(lambda t: 0.0, function)


@pytest.mark.parametrize(
    "alpha", [lambda t: np.exp(-t.numpy()), lambda t: torch.exp(-t).detach(), lambda t: torch.tensor(np.exp(-t.detach().numpy()))]
)
def test_a_scale_that_cannot_be_differentiated(alpha):
    """Its drift would silently be 0."""
    with pytest.raises(ValueError, match=r"alpha must be .* torch"):
        ss.ScalesSDE(alpha, lambda t: t)


CALLS = {
    "perturb": lambda x: VP.perturb(x, 0.5, generator())[0],
    "transition": lambda x: VP.transition(x, 0.2, 0.5)[0],
    "posterior": lambda x: VP.posterior(x, x, 0.2, 0.5)[0],
    "drift": lambda x: VP.drift(x, 0.5),
    "prior_log_prob": VP.prior_log_prob,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_states(call):
    refuses("^[xz] ", call, NO_STATES.values())
    right = call(states()["tensor"])
    for name, x in states().items():
        out = call(x)
        # float64 draws other noise.
        if call is not CALLS["perturb"] or name not in ("double", "bfloat16", "float16"):
            torch.testing.assert_close(out.detach().float(), right, rtol=0.02, atol=0.02)


def test_counts_take_the_dtype_of_the_noise():
    """Bytes and indices are exact in it; without noise, nothing says what dtype is meant."""
    noise = torch.randn(3, 2, generator=generator())
    for x in (torch.full((3, 2), 3), torch.full((3, 2), 3, dtype=torch.uint8), np.full((3, 2), 3)):
        z, _ = VP.perturb(x, 0.5, noise=noise)
        assert torch.equal(z, VP.perturb(torch.full((3, 2), 3.0), 0.5, noise=noise)[0])
    refuses("x holds", lambda x: VP.perturb(x, 0.5, noise=noise), [NO_STATES["truth values"], NO_STATES["complex"]])


def test_noise_and_data_have_the_shape_of_the_state():
    x = torch.zeros(3, 2)
    for wrong in (torch.zeros(3, 1), torch.zeros(2), [[0.0, 1.0]], NO_STATES["integers"], NO_STATES["complex"], 5, "x"):
        with pytest.raises((TypeError, ValueError), match="noise"):
            VP.perturb(x, 0.5, noise=wrong)
    refuses("x has shape", lambda v: VP.posterior(x, v, 0.2, 0.5), [torch.zeros(3, 1), torch.zeros(2, 2)])
    for right in (np.ones((3, 2)), torch.ones(3, 2).double().tolist()):
        assert torch.equal(VP.perturb(x, 0.5, noise=right)[0].float(), VP.perturb(x, 0.5, noise=torch.ones(3, 2))[0])


TIMES = (
    "0.5",
    None,
    True,
    1j,
    {},
    [0.1, "a"],
    torch.tensor([True]),
    torch.tensor(0.5 + 0j),
    -0.1,
    2,
    math.nan,
    torch.tensor([0, 5]),
)


@pytest.mark.parametrize("t", TIMES, ids=repr)
def test_times_that_are_none(t):
    with pytest.raises((TypeError, ValueError), match=r"\bt\b"):
        VP.sigma(t)
    with pytest.raises((TypeError, ValueError), match=r"\bs\b"):
        VP.transition(torch.zeros(1, 2), t, 0.5)


@pytest.mark.parametrize(
    "t", [[0.1, 0.2], (0.1, 0.2), np.array([0.2, 0.1])[::-1], torch.tensor([0.1, 0.2], dtype=torch.float64)], ids=repr
)
def test_times_in_any_form(t):
    assert as_time(t).tolist() == [0.1, 0.2]
    assert torch.equal(VP.perturb(torch.ones(2, 2), t, noise=torch.zeros(2, 2))[0][:, 0], VP.alpha([0.1, 0.2]).float())


def test_draws_of_the_prior():
    refuses("shape", VP.prior, [5, "22", None, (), (-1, 2), (2.0,), {"a": 1}])
    refuses("dtype", lambda v: VP.prior((2, 2), dtype=v), [torch.int32, torch.complex64, "float32"])
    refuses("device", lambda v: VP.prior((2, 2), device=v), ["banana", 5, "meta"])
    refuses("generator", lambda v: VP.prior((2, 2), v), [5, "cpu", [generator()]])
    assert VP.prior([0, 3]).shape == (0, 3)
    assert VP.prior(np.array([4])).shape == (4,)
