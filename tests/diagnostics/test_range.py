"""Samples against data: the numbers by hand, the verdicts, and the warning of a reference whose samples leave the range."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic, diagnostics
from scoresde.tuning.trust import flaw

from ..conftest import generator


def test_the_numbers_are_those_of_the_definition():
    data = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])  # std 1/sqrt 2
    found = diagnostics.sample_range(torch.tensor([[1.15, -1.25], [1.0, 1.1]]), data)
    assert found[:4] == pytest.approx((-1.25, 1.15, -1, 1))
    assert found.outside == pytest.approx(1 / 4)  # of the limits -1.2 and 1.2
    assert found.drift == pytest.approx(0.5 * 2**0.5)
    assert found.spread == pytest.approx(float(torch.tensor([1.15, -1.25, 1.0, 1.1]).std(correction=0)) * 2**0.5)
    assert "25 % of the coordinates leave" in found.verdict


def test_the_verdict_names_what_is_wrong():
    data = torch.linspace(-1, 1, 101)[:, None]
    assert "healthy" in diagnostics.sample_range(data, data).verdict
    assert "mean is off by +0.34" in diagnostics.sample_range(0.5 * data + 0.2, data).verdict
    with pytest.raises(ValueError, match="samples and data"):
        diagnostics.sample_range(data, data.reshape(-1))


def test_a_heavy_tail_and_a_drift_are_flaws_and_mixtures_are_not():
    x = torch.randn(32, 64, generator=generator(0))
    assert flaw(x) is None
    assert flaw(torch.randn(32, 2, generator=generator(0))) is None
    tail = x.clone()
    tail[3, 5] = 40.0
    assert "largest |x| is 40" in flaw(tail)
    # Means of samples: a standard deviation of 2 where the coordinates of a sample have 1.
    assert "means of samples" in flaw(x + 2 * torch.randn(32, 1, generator=generator(1)))


def test_select_warns_of_samples_with_a_heavy_tail():
    """A Gaussian whose first coordinate has 30 times the standard deviation of the 199 others: one in 200 is above its 99th percentile."""
    std = torch.full((1, 200), 0.1)
    std[0, 0] = 3.0
    model = analytic.GaussianMixture(torch.zeros(1, 200), std).model(ss.VPSDE())
    with pytest.warns(UserWarning, match="may leave the range of its data.*thresholded"):
        ss.solvers.select(model, 4, (200,), noises=16)
