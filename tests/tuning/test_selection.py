"""Solvers chosen for a model by a pilot."""

import math

import torch

import scoresde as ss
from scoresde import solvers
from scoresde.tuning import selection
from scoresde.tuning.reference import distance

from ..conftest import SDES
from .conftest import errors, fresh, narrow


def test_the_winner_of_a_pilot_is_what_it_says():
    model = narrow().model(SDES["ddpm"])
    picked = solvers.select(model, 6, (2,))
    assert picked.tableau(model.sde, picked.grid).nfe == 6
    assert picked.error == picked.ranking[0].rms
    scores = [entry.score for entry in picked.ranking]
    assert scores == sorted(scores)
    assert len(scores) > 25
    z, x = fresh(model, (2,))
    plain = ss.sample(model, z.shape, picked.solver, grid=picked.grid, z=z)
    assert torch.equal(ss.sample(model, z.shape, picked, z=z), plain)
    # The ranking holds for starts that it has not seen: the winner beats the middle of the field.
    middle = picked.ranking[len(scores) // 2]
    rms, median = errors(model, picked, z, x)
    other = selection.summary(distance(ss.sample(model, z.shape, middle.solver, grid=middle.grid, z=z), x))
    assert math.sqrt(rms * median) < 0.7 * math.sqrt(other[0] * other[1])
    assert solvers.select(model, 6, (2,)).name == picked.name
    assert solvers.select(model, 6, (2,), seed=1).error != picked.error


def test_a_grid_without_room_is_left_out():
    names = [name for name, _, _ in selection.candidates(SDES["chain20"], 19)]
    assert "ipndm2 half_log_snr" in names
    assert all(solver.tableau(SDES["edm"], grid).nfe == 5 for _, solver, grid in selection.candidates(SDES["edm"], 5))
