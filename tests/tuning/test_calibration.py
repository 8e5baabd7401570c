"""Cascades: bounds that hold, and as few calls as a tolerance needs."""

import dataclasses

import pytest
import torch

import scoresde as ss
from scoresde import solvers
from scoresde.tuning import calibration
from scoresde.tuning.reference import distance, starts

from ..conftest import SDES, generator, mixture
from .conftest import FRESH


def test_the_conformal_quantile_covers_as_often_as_it_says():
    """For n uniform ratios the k-th smallest is Beta(k, n + 1 - k): a new one lies below it with probability k/(n + 1) on average."""
    n, reps = 39, 3000
    ratios = torch.rand(reps, n, dtype=torch.float64, generator=generator())
    coverage = torch.tensor([calibration.conformal(r, 0.9) for r in ratios], dtype=torch.float64)
    # k = 36: the mean of 3000 draws of standard deviation sqrt(.9 .1/41) is within 4 of 8.6e-4.
    assert float(coverage.mean()) == pytest.approx(36 / 40, abs=3.5e-3)
    assert calibration.conformal(torch.arange(1.0, 20.0), 0.95) == 19
    with pytest.raises(ValueError, match=r"confidence of 0.95 needs at least 38 noises"):
        calibration.conformal(torch.arange(18.0), 0.95)


def test_the_power_law_is_found():
    g = generator()
    f = torch.randn(200, 3, dtype=torch.float64, generator=g)
    error = (0.7 + f @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)).exp()
    mean, theta = calibration.fit_power_law(f, error)
    # The ridge of 1e-2 of the features' variance shrinks theta by 1 %, and |theta f| is below 4.
    torch.testing.assert_close(calibration.power_law(f, mean, theta), error, rtol=5e-2, atol=0)


def test_bounds_hold_for_fresh_starts(cascade):
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 1000, FRESH)
    x = ss.tuning.solve_reference(model, z, steps=128).x
    assert [level.nfe for level in cascade.levels] == [4, 8, 16]
    for level in cascade.levels:
        data = []
        out = ss.sample(model, z.shape, level.solver, z=z, callback=lambda n, t, s, d, data=data: data.append(d))
        error, bound = distance(out, x), level.bound(data)
        # The coverage of a calibration with 128 starts has standard deviation sqrt(.95 .05/130) = .019; 1000 starts add .007: 3.5 of both.
        assert abs(float((error <= bound).double().mean()) - 0.95) < 0.07
        # One number for all samples would be the error's quantile. Where errors differ most, the law tells the samples apart; by how much
        # depends on the solver that the pilot chose: 0.80 for the late first call of 4 steps.
        assert float(bound.median()) < (0.9 if level.nfe == 4 else 1.15) * float(error.quantile(0.95))


@pytest.mark.filterwarnings("ignore:.* samples have a bound above tol")  # a few of 200
def test_a_tolerance_is_met_with_as_few_calls_as_it_needs(cascade):
    model = mixture().model(SDES["ddpm"])
    z = starts(model, (2,), 200, FRESH)
    tol = float(cascade.levels[1].bounds.quantile(0.7))
    out = ss.sample(model, z.shape, cascade, tol=tol, z=z, trajectory=True)
    assert out.bound.shape == out.calls.shape == (200,)
    assert set(out.calls.tolist()) == {8, 24}
    assert bool((out.bound[out.calls == 8] <= tol).all())
    assert torch.equal(out.path[0], z)
    assert torch.equal(out.path[-1], out.x)
    # Every sample is that of the level where it stopped.
    for level, calls in zip(cascade.levels[1:], (8, 24), strict=True):
        mine = out.calls == calls
        torch.testing.assert_close(out.x[mine], ss.sample(model, z.shape, level.solver, z=z)[mine], rtol=1e-5, atol=1e-5)
    parted = ss.sample(model, z.shape, cascade, tol=tol, z=z, batch_size=64)
    torch.testing.assert_close(parted, out.x, rtol=1e-5, atol=1e-5)
    assert torch.equal(ss.sample(model, z.shape, cascade, tol=1e9, z=z), ss.sample(model, z.shape, cascade.levels[0].solver, z=z))
    # What cannot be met is told by the bound.
    with pytest.warns(UserWarning, match=f"{len(z)} of {len(z)} samples have a bound above tol=1e-09"):
        late = ss.sample(model, z.shape, cascade, tol=1e-9, z=z, trajectory=True)
    assert bool((late.bound > 1e-9).all())
    assert set(late.calls.tolist()) == {16}


def test_the_cascade_starts_where_it_costs_least():
    def level(nfe, bounds):
        return ss.tuning.Level(None, nfe, None, None, 1.0, 0.0, 0.0, torch.tensor(bounds))

    def start(*bounds):
        levels = tuple(level(nfe, b) for nfe, b in zip((5, 10, 20), bounds, strict=True))
        return ss.tuning.Cascade(levels, 0.95, 64, 0.0).cheapest(1.0)

    assert start([0.5] * 4, [0.1] * 4, [0.1] * 4) == 0
    assert start([2.0] * 4, [0.5] * 4, [0.1] * 4) == 1
    # 4 x 5 + 3 x 10 = 50 calls from the first, 40 from the second.
    assert start([0.5, 2, 2, 2], [0.5] * 4, [0.1] * 4) == 1
    # 4 x 5 + 10 = 30 from the first.
    assert start([0.5, 0.5, 0.5, 2], [0.5] * 4, [0.1] * 4) == 0
    # From the last a sample that only the second brings below the tolerance would not come there.
    assert start([2.0] * 4, [0.5, 2, 2, 2], [2.0, 0.5, 0.5, 0.5]) == 1


def test_a_cascade_takes_fitted_solvers(fitted):
    model = mixture().model(SDES["ddpm"])
    cascade = solvers.calibrate(model, (2,), levels=[fitted], confidence=0.8, noises=32, reference_steps=32)
    assert [level.nfe for level in cascade.levels] == [4]
    assert cascade.levels[0].solver is fitted


def test_a_cascade_needs_a_tolerance_and_nothing_else_takes_one(cascade):
    model = mixture().model(SDES["ddpm"])
    with pytest.raises(ValueError, match="a cascade needs tol="):
        ss.sample(model, (2, 2), cascade)
    with pytest.raises(ValueError, match="tol= needs a cascade"):
        ss.sample(model, (2, 2), "ddim", steps=3, tol=0.1)
    for bad, message in (({"steps": 5}, "own steps"), ({"nfe": 5}, "nfe= means nothing"), ({"t_start": 0.9}, "starts at t=1")):
        with pytest.raises(ValueError, match=message):
            ss.sample(model, (2, 2), cascade, tol=0.1, **bad)
    with pytest.raises(ValueError, match="tol must be positive, got 0"):
        ss.sample(model, (2, 2), cascade, tol=0.0)


def test_bounds_are_refused_on_another_model(cascade, tmp_path):
    """Guidance, a range or other weights: the bounds were measured without them. Files of scoresde 0.1 do not say the model."""
    model = mixture().model(SDES["ddpm"])
    other = ss.models.thresholded(model, -1.0, 1.0)
    cascade.save(tmp_path / "cascade.safetensors")
    for made in (cascade, solvers.load(tmp_path / "cascade.safetensors")):
        ss.sample(model, (4, 2), made, error=True)
        with pytest.raises(ValueError, match="calibrated on another network, guidance or range, so that its bounds do not hold"):
            ss.sample(other, (4, 2), made, error=True)
        with pytest.raises(ValueError, match="bounds do not hold"):
            ss.sample(other, (4, 2), made, tol=10.0)
    ss.sample(other, (4, 2), dataclasses.replace(cascade, model=""), error=True)
