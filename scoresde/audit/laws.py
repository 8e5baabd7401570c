"""What a linear sampler makes of data whose law is known, from its coefficients alone.

On data N(m, c^2) the denoiser is affine, D_i = m + g_i (x_i - m) with g_i = c^2/(c^2 + sigma_i^2). So every state is m + a_j xi_start +
sum_k C_jk xi_k with coefficients that follow from the rows, and the law of each state is known without sampling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .probe import Coefficients


def loadings(run: Coefficients, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Means `(J + 1,)` and loadings `(J + 1, 1 + K)` of the states at the calls and of the result, for data N(mean, std^2)."""
    gain = std**2 / (std**2 + run.sigmas**2) if std else torch.zeros_like(run.sigmas)
    start = torch.zeros(1 + run.noise.shape[1], dtype=torch.float64)
    start[0] = math.hypot(std, run.first)
    means, rows = torch.zeros_like(run.sigmas), torch.zeros(len(run.sigmas), len(start), dtype=torch.float64)
    for j in range(len(run.sigmas)):
        b = run.data[j, :j]
        # Outputs of later calls cannot reach this state.
        means[j] = run.start[j] * mean + b @ (mean + gain[:j] * (means[:j] - mean))
        rows[j] = run.start[j] * start + (b * gain[:j]) @ rows[:j]
        rows[j, 1:] += run.noise[j]
    return means, rows


def law_error(run: Coefficients, mean: float, std: float) -> float:
    """W_2 between the result and data N(mean, std^2) at the last level, in units of the data's standard deviation there."""
    means, rows = loadings(run, mean, std)
    width = math.hypot(std, float(run.sigmas[-1]))
    return math.hypot(float(means[-1]) - mean, float(rows[-1].norm()) - width) / width


def level_error(run: Coefficients) -> float:
    """The largest relative difference between the level that the network is told and that of the state, for data at one point."""
    _, rows = loadings(run, 0.0, 0.0)
    told, real = run.sigmas[:-1], rows[:-1].norm(dim=-1)
    return float(((real - told).abs() / told).max())


def mean_error(run: Coefficients) -> float:
    """The largest error of the mean of a state at data of one point: 1 - a_j - sum_i B_ji for data at 1."""
    return float((1 - run.start - run.data.sum(1)).abs().max())


def start_error(run: Coefficients) -> float:
    """The largest error of a state without noise where D = 0, which is x_start sigma_j/sigma_start exactly."""
    return float((run.start * run.first / run.sigmas - 1).abs().max())
