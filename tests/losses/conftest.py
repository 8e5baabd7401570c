"""Gaussian data and networks with a known answer."""

import math

import pytest
import torch

from scoresde import analytic

from ..conftest import mixture


def within(values, expected, errors=5):
    """The mean of `values` is `expected` within that many standard errors."""
    return float(values.mean()) == pytest.approx(float(expected), abs=errors * float(values.std()) / math.sqrt(len(values)) + 1e-12)


S = 0.5  # standard deviation of the Gaussian data


def gaussian(features=1):
    return analytic.GaussianMixture(torch.zeros(1, features), torch.tensor([S**2]))


class Stub(torch.nn.Module):
    """The exact data prediction plus an offset, and one fraction for all coordinates."""

    def __init__(self, sde, fraction):
        super().__init__()
        self.sde, self.exact = sde, mixture().model(sde)
        self.offset = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.fraction = torch.nn.Parameter(torch.tensor(fraction, dtype=torch.float64))

    def data_and_fraction(self, z, t, **cond):
        return self.exact.data(z, t) + self.offset, self.fraction.expand(z.shape)
