"""`error=True`: samples with the bound of each, and what is said of solvers without one."""

import re
import warnings

import pytest
import torch

import scoresde as ss
from scoresde import networks, solvers
from scoresde.tuning.reference import distance, starts

from ..conftest import SDES, mixture
from .conftest import fresh

MODEL = mixture().model(SDES["linear"])


@pytest.fixture(scope="module")
def cascade():
    return solvers.calibrate(MODEL, (2,), (4, 8), 0.9, noises=128, reference_steps=64)


def test_every_sample_has_the_bound_of_the_last_level(cascade):
    z, x = fresh(MODEL, (2,))
    out = ss.sample(MODEL, z.shape, cascade, error=True, z=z)
    assert out.nfe == 8
    assert out.bound.shape == (256,)
    assert out.calls.tolist() == [8] * 256
    assert out.path is None
    held = float((distance(out.x, x) <= out.bound).double().mean())
    assert 0.8 < held <= 1.0
    # One number is no bound: easy starts have smaller ones.
    assert float(out.bound.amax() / out.bound.amin()) > 2
    level = cascade.levels[-1].solver
    assert torch.equal(out.x, ss.sample(MODEL, z.shape, level, z=z))


def test_nfe_chooses_the_level(cascade):
    z = starts(MODEL, (2,), 8, 3)
    few = ss.sample(MODEL, z.shape, cascade, error=True, z=z, nfe=4, trajectory=True)
    assert (few.nfe, len(few.path)) == (4, 2)
    assert torch.equal(few.x, ss.sample(MODEL, z.shape, cascade.levels[0].solver, z=z))
    with pytest.raises(ValueError, match="nfe=5, but the levels of this cascade have 4, 8 network calls"):
        ss.sample(MODEL, z.shape, cascade, error=True, nfe=5)


def test_parts_have_the_same_bounds(cascade):
    options = {"error": True, "seeds": range(7)}
    whole, parts = (ss.sample(MODEL, (7, 2), cascade, **options, batch_size=size) for size in (None, 3))
    torch.testing.assert_close(whole.bound, parts.bound)
    torch.testing.assert_close(whole.x, parts.x)


def test_a_tolerance_goes_with_error(cascade):
    out = ss.sample(MODEL, (16, 2), cascade, error=True, tol=10.0, seeds=range(16))
    assert out.calls.tolist() == [4] * 16
    assert bool((out.bound <= 10.0).all())


def test_a_tolerance_that_is_not_met_warns_with_the_number_of_samples(cascade):
    with pytest.warns(
        UserWarning, match=r"^16 of 16 samples have a bound above tol=1e-09 after 8 network calls, the most of this cascade$"
    ):
        ss.sample(MODEL, (16, 2), cascade, tol=1e-9, seeds=range(16), batch_size=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.sample(MODEL, (16, 2), cascade, tol=10.0, seeds=range(16))


def test_a_solver_without_calibration_says_how_to_get_one(cascade):
    level = cascade.levels[0].solver
    with pytest.raises(
        ValueError, match=r"error=True needs a calibrated solver: .*solvers.calibrate\(model, event, levels=\[solver\]\)"
    ):
        ss.sample(MODEL, (2, 2), level, error=True)
    for name in (None, "ddim"):
        with pytest.raises(ValueError, match=r"error=True needs a calibrated solver: solver = solvers.calibrate\(model, event\)"):
            ss.sample(MODEL, (2, 2), name, nfe=5, error=True)
    with pytest.raises(ValueError, match=r"a cascade needs tol=, .* or error=True"):
        ss.sample(MODEL, (2, 2), cascade)
    with pytest.raises(ValueError, match=r"tol= needs a cascade, solvers.calibrate\(model, event\), and ddim is none"):
        ss.sample(MODEL, (2, 2), "ddim", nfe=5, tol=0.1)


def test_a_plan_keeps_the_bounds(cascade):
    planned = ss.plan(MODEL, cascade, error=True)
    out = ss.sample(MODEL, (4, 2), planned, error=True, seeds=range(4))
    assert torch.equal(out.bound, ss.sample(MODEL, (4, 2), cascade, error=True, seeds=range(4)).bound)


def test_a_fitted_solver_takes_its_own_number_of_calls_only(fitted):
    model = mixture().model(SDES["ddpm"])
    ss.sample(model, (2, 2), fitted, nfe=4)
    for nfe in (3, 20):
        with pytest.raises(ValueError, match=f"FittedSolver.4 network calls.* was made for its own number of calls, not nfe={nfe}"):
            ss.sample(model, (2, 2), fitted, nfe=nfe)


def test_a_fitted_solver_samples_its_own_shape_only(fitted, tmp_path):
    model = mixture().model(SDES["ddpm"])
    said = re.escape("this solver was fitted to samples of shape (2,), not (1, 2): fit one to them")
    with pytest.raises(ValueError, match=said):
        ss.sample(model, (3, 1, 2), fitted)
    with pytest.raises(ValueError, match=said):
        ss.sample_to(tmp_path / "x", model, 3, (1, 2), fitted)
    cascade = solvers.calibrate(model, (2,), confidence=0.8, noises=32, levels=[fitted], reference_steps=32)
    with pytest.raises(ValueError, match=said):
        ss.sample(model, (3, 1, 2), cascade, error=True)


def test_another_network_of_the_same_shape_warns_in_one_sentence(fitted):
    other = ss.ScoreModel(networks.MLP(2, width=8), SDES["ddpm"])
    with pytest.warns(
        UserWarning, match=r"^fitted to another network or guidance \(\w{16}, not \w{16}\); its errors may be larger$"
    ) as warned:
        ss.sample(other, (3, 2), fitted)
    assert warned[0].filename == __file__
