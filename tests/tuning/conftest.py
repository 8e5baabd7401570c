"""Models, fresh starts, a fitted solver and a cascade, made once."""

import math
from dataclasses import replace

import pytest
import torch

import scoresde as ss
from scoresde import analytic, solvers
from scoresde.tuning import regression, search, selection
from scoresde.tuning.reference import distance, solve_reference, starts

from ..conftest import SDES, mixture

FRESH = 4000  # a seed that no fit uses


def narrow() -> analytic.GaussianMixture:
    """Eight modes on a circle."""
    angle = torch.arange(8) * math.pi / 4
    return analytic.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((8,), 0.05**2))


def fresh(model: ss.Model, shape: tuple[int, ...], count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """States at t = 1 and where the flow takes them, by 200 steps of another method than the reference's."""
    z = starts(model, shape, count, FRESH)
    return z, ss.sample(model, z.shape, "ipndm4", steps=400, grid="cubic", z=z)


def errors(model: ss.Model, solver: solvers.Solver, z: torch.Tensor, x: torch.Tensor) -> tuple[float, float]:
    return selection.summary(distance(ss.sample(model, z.shape, solver, z=z), x))


@pytest.fixture(scope="session")
def fitted() -> ss.tuning.FittedSolver:
    model = mixture().model(SDES["ddpm"])
    return solvers.fit(model, 4, shape=(2,), trajectories=16, reference_steps=32, progress=False)


@pytest.fixture(scope="session")
def late_fitted() -> ss.tuning.FittedSolver:
    """A fit that began at a solver with a late first call."""
    model = mixture().model(SDES["ddpm"])
    problem = regression.Problem(model, solve_reference(model, starts(model, (2,), 16, 0).double(), steps=32), {}, 8, 16, None)
    solver = solvers.LateFirstCall(solvers.get("ipndm3"))
    form = search.initial_form(problem, solver, selection.late(model.sde, 4, power=2.0))
    found = regression.regress(problem, form, torch.ones(8, dtype=torch.float64), 1e-5)
    return replace(solvers.fit(model, 4, shape=(2,), trajectories=16, reference_steps=32, progress=False), form=found.form)


@pytest.fixture(scope="session")
def cascade() -> ss.tuning.Cascade:
    return solvers.calibrate(mixture().model(SDES["ddpm"]), (2,), (4, 8, 16), noises=256, reference_steps=128)
