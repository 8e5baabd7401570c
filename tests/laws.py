"""Gaussian data, and a test of the law of samples."""

import math

import pytest
import torch

from scoresde import analytic


def gaussian(mean=0.7, std=0.3, d=1):
    return analytic.GaussianMixture(torch.full((1, d), mean, dtype=torch.float64), torch.tensor([std**2], dtype=torch.float64))


def assert_law(x, mean, std, bias=0.0):
    """Mean and standard deviation within 5 standard errors, std/sqrt(n) and std/sqrt(2n), and a known relative bias."""
    n = x.numel()
    assert float(x.mean()) == pytest.approx(mean, abs=std * (5 / math.sqrt(n) + bias))
    assert float(x.std()) == pytest.approx(std, abs=std * (5 / math.sqrt(2 * n) + bias))
