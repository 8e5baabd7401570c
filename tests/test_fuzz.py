"""Random arguments of the public calls: sensible ones give finite numbers, and a senseless one an error that names the argument.

An error counts only if the package raised it on purpose: the last frame is a `raise` of ours, and the message holds the name.
"""

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scoresde as ss
from scoresde import grids, losses, networks, solvers
from scoresde.losses.weightings import WEIGHTINGS
from scoresde.train import Recipe, Trainer

from .nonsense import NO_COUNTS, NO_NUMBERS, NO_STATES

PACKAGE = str(Path(ss.__file__).parent)
PATHS = (
    ss.VPSDE.from_betas(torch.linspace(1e-3, 0.2, 100, dtype=torch.float64)),
    ss.VPSDE.cosine(20),
    ss.VPSDE(),
    ss.SubVPSDE(),
    ss.VESDE(),
    ss.EDM(),
    ss.RectifiedFlow(),
)
MIXTURE = ss.analytic.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor([0.05, 0.1]))


def network(sde: ss.SDE) -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(networks.MLP(2, 8, layers=1), sde, "data").eval()


MODELS = tuple(make(sde) for sde in PATHS for make in (MIXTURE.model, network))
STATES = tuple(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).to(dtype) for dtype in (torch.float32, torch.float64))
ARRAYS = tuple(
    form(STATES[0]) for form in (lambda x: x, lambda x: x.numpy(), lambda x: x.tolist(), lambda x: x.t().contiguous().t())
)
NO_TIMES = ("1", b"1", math.nan, math.inf, -0.5, 1.5, True, 1j, 10**400)
OPTIONAL_COUNTS = tuple(value for value in NO_COUNTS if value is not None)


@dataclass
class Call:
    """A function, the values that each argument may have, and those that it may not; `draws` calls are tried."""

    function: Callable[..., Any]
    sensible: Mapping[str, tuple[Any, ...]]
    senseless: Mapping[str, tuple[Any, ...]]
    draws: int = 200


def sample(model, shape, solver, **options):
    return ss.sample(model, shape, solver, **options)


def density(model, x, **options):
    return ss.log_likelihood(model, x, **options).nats


def loss(model, x, **options):
    return losses.denoising(model, x, **options)


def grid(rule, sde, steps, **options):
    return grids.get(rule)(sde, steps, **options)


def train(x, iterations, **options):
    model = network(PATHS[2])
    trained = Trainer(model, x, Recipe(iterations=iterations, **options)).run(progress=False)
    return torch.cat([p.flatten() for p in trained.parameters()])


def chain(betas):
    return ss.VPSDE.from_betas(betas).alpha(0.5)


def vp(beta_min, beta_max):
    return ss.VPSDE(beta_min, beta_max).alpha(0.5)


CALLS = {
    "sample": Call(
        sample,
        {
            "model": MODELS,
            "shape": ((2, 2), [2, 2], torch.Size([2, 2])),
            "solver": tuple(solvers.names()),
            "steps": (1, 3, np.int64(4), torch.tensor(2)),
            "grid": (None, *grids.names(), lambda sde, steps: torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)),
            "seeds": (None, [1, 2], range(2), np.array([3, 4]), [2**63, -1]),
            "z": (None, *ARRAYS),
            "t_start": (None, 1.0, 0.5, np.float32(0.5)),
            "dtype": (None, torch.float32, torch.float64, torch.bfloat16),
            "batch_size": (None, 1, 100),
            "callback": (None, lambda info: None),
            "device": (None, "cpu"),
        },
        {
            "model": (networks.MLP(2), None, "x", 5),
            "shape": (2, (2, -1), "22", None, (2, 2.5), (2, 0)),
            "solver": ("nosuch", "", 5),
            "steps": OPTIONAL_COUNTS,
            "grid": (
                "nosuch",
                5,
                "",
                [0.0, 1.0],
                [1.0],
                torch.tensor([math.nan, 0.0]),
                lambda sde: sde,
                lambda sde, steps: [0.5, 0.9],
            ),
            "seeds": (5, [1.5, 2], "12", [math.nan, 1], [None, 1], [1]),
            "z": tuple(value for name, value in NO_STATES.items() if name != "nothing"),
            "t_start": (0.0, *NO_TIMES, torch.tensor([0.5, 0.5])),
            "dtype": (torch.int32, torch.complex64, "float31", torch.bool, 5),
            "batch_size": OPTIONAL_COUNTS,
            "callback": (5, "x", lambda: None),
            "device": ("banana", 5.5),
        },
        draws=300,
    ),
    "log_likelihood": Call(
        density,
        {
            "model": MODELS,
            "x": ARRAYS,
            "rtol": (1e-2, np.float32(1e-2)),
            "atol": (1e-2, 1e-3),
            "divergence": ("exact", "hutchinson", "hutch++"),
            "t_end": (None, 0.3),
            "steps": (None, 60),
            "batch_size": (None, 1, 5),
            "seeds": (None, range(2)),
        },
        {
            "model": (networks.MLP(2), None, 5),
            "x": (*NO_STATES.values(), torch.full((2, 2), math.nan)),
            "rtol": (*NO_NUMBERS, 0.0, -1.0),
            "atol": (*NO_NUMBERS, 0.0, -1.0),
            "divergence": ("foo", None, 5),
            "t_end": (1.0, *NO_TIMES),
            "steps": OPTIONAL_COUNTS,
            "batch_size": OPTIONAL_COUNTS,
            "seeds": (5, [1], "ab", [0.5, 1]),
        },
        draws=12,
    ),
    "losses.denoising": Call(
        loss,
        {
            "model": MODELS,
            "x": ARRAYS,
            "weighting": (*WEIGHTINGS, losses.min_snr(3.0), lambda sde, t: torch.ones_like(t)),
            "time_sampler": (
                None,
                "uniform",
                "stratified",
                "low_discrepancy",
                "likelihood",
                "log_normal",
                losses.LogNormal(0.0, 1.0),
            ),
            "noise": (None, "antithetic"),
            "generator": (None, torch.Generator()),
        },
        {
            "model": (networks.MLP(2), None, 5),
            "x": tuple(NO_STATES.values()),
            "weighting": ("foo", 5, lambda sde: sde, lambda sde, t: torch.ones(7)),
            "time_sampler": ("foo", 5, lambda sde: sde),
            "noise": ("foo", 5, torch.zeros(3, 3), torch.zeros(2, 2).long()),
            "generator": (5, "cpu"),
        },
    ),
    "grids": Call(
        grid,
        {"rule": tuple(grids.names()), "sde": PATHS, "steps": (1, 2, 20, np.int64(5)), "t_start": (1.0, 0.7), "t_end": (0.0, 0.05)},
        {"steps": NO_COUNTS, "t_start": (0.0, *NO_TIMES), "t_end": (1.0, *NO_TIMES)},
    ),
    "Trainer": Call(
        train,
        {
            "x": ARRAYS,
            "iterations": (1, 2),
            "batch_size": (1, 4),
            "learning_rate": (1e-3, np.float32(1e-3)),
            "ema": (0.9, 0.0),
            "clip": (1.0, math.inf),
            "warmup": (0, 3),
            "weighting": ("noise", "velocity"),
            "seed": (0, 2**70),
        },
        {
            "x": tuple(NO_STATES.values()),
            "iterations": NO_COUNTS,
            "batch_size": NO_COUNTS,
            "learning_rate": (*NO_NUMBERS, -1.0),
            "ema": (*NO_NUMBERS, -0.1, 1.5),
            "clip": (math.nan, -1.0, 0.0, "1", True),
            "warmup": (-1, 2.5, "3", math.nan),
            "weighting": ("foo", 5),
            "seed": (1.5, "x", None),
        },
        draws=30,
    ),
    "VPSDE": Call(
        vp,
        {"beta_min": (0.1, 0.0, np.float32(1.0)), "beta_max": (5.0, torch.tensor(20.0))},
        {"beta_min": (*NO_NUMBERS, -1.0), "beta_max": NO_NUMBERS},
    ),
    "VPSDE.from_betas": Call(
        chain,
        {"betas": tuple(form([0.1, 0.2, 0.3]) for form in (list, tuple, np.array, torch.tensor))},
        {"betas": ([], [0.1, -0.1], [0.1, math.nan], [0.1, 1.5], "x", None, [[0.1]], 0.1)},
        draws=20,
    ),
}


def outcome(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """The result, or the error; one that the package did not raise on purpose fails the test."""
    try:
        return function(**arguments)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = frame.filename.startswith(PACKAGE) and (frame.line or "").startswith("raise")
        if ours and isinstance(error, TypeError | ValueError | solvers.StepLimitError):
            return error
        raise AssertionError("an accident") from error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_what_makes_sense_runs_and_what_does_not_is_named(name):
    call = CALLS[name]

    @settings(max_examples=call.draws, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        arguments = {key: data.draw(st.sampled_from(values), label=key) for key, values in call.sensible.items()}
        arguments = {key: value for key, value in arguments.items() if value is not None}
        result = outcome(call.function, arguments)
        if isinstance(result, Exception):
            return  # sensible alone, but not together: a solver with steps of its own takes no grid
        assert torch.as_tensor(result).isfinite().all(), "a result that is not finite, without an error"
        wrong = data.draw(st.sampled_from(sorted(call.senseless)), label="wrong")
        value = data.draw(st.sampled_from(call.senseless[wrong]), label="value")
        error = outcome(call.function, arguments | {wrong: value})
        assert isinstance(error, Exception), f"{wrong}={value!r} was accepted"
        assert wrong in str(error), f"{wrong} is not named: {error}"

    check()
