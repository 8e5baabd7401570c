"""Are posteriors calibrated? Numbers over many simulated pairs (theta, x), each with samples of the posterior given x.

sbc_ranks    the rank of each coordinate of theta among its samples: uniform if exact        Talts et al. 2018, arXiv 1804.06788
coverage     how often theta lies in the region of highest density of each level             Hermans et al. 2022, arXiv 2110.06581
tarp         the same for balls about random points, from samples alone                      Lemos et al. 2023, arXiv 2302.03026
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.arrays import flatten_events
from ..numerics.brief import line, shown
from ..numerics.inputs import as_state
from ..numerics.random import cpu_generator, derive_seed


class Ranks(NamedTuple):
    """Ranks of theta among its samples.

    Attributes:
        ranks: `(N, d)` integers 0..L.
        p: the p-value of uniformity of each coordinate, `(d,)`, by a Kolmogorov-Smirnov test.
    """

    ranks: Tensor
    p: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))


class Coverage(NamedTuple):
    """How often theta lies in a region that should hold it with the probability `levels`.

    Attributes:
        levels: `(K,)`.
        covered: the share of pairs, `(K,)`.
        stderr: its standard error over pairs where the posterior is exact, `(K,)`.
        p: the p-value of exactness, by a Kolmogorov-Smirnov test.
    """

    levels: Tensor
    covered: Tensor
    stderr: Tensor
    p: float

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))


def sbc_ranks(theta: Tensor, samples: Tensor) -> Ranks:
    """Simulation-based calibration: ranks of `theta`, `(N, *event)`, among `samples` of each posterior, `(N, L, *event)`.

    Raises:
        ValueError: shapes that do not fit, or samples that are not finite.
    """
    theta, samples = _checked(theta, samples)
    from scipy import stats

    ranks = (samples < theta[:, None]).sum(1)
    # Ties have probability 0. A rank stands for an interval of length 1/(L + 1), in which a fixed sequence spreads it.
    uniform = (ranks.cpu() + _spread(len(theta))[:, None]) / (samples.shape[1] + 1)
    p = [float(stats.kstest(column.numpy(), "uniform").pvalue) for column in uniform.T]
    return Ranks(ranks, torch.tensor(p, dtype=torch.float64))


def coverage(log_prob_theta: Tensor, log_prob_samples: Tensor, levels: int = 20) -> Coverage:
    """Expected coverage of regions of highest posterior density.

    Args:
        log_prob_theta: log q(theta | x) of each pair, `(N,)`, such as `log_likelihood(model, theta, x=x).nats`.
        log_prob_samples: log q of samples of each posterior, `(N, L)`.
        levels: K.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    theta, samples = _checked(log_prob_theta[:, None], log_prob_samples[:, :, None])
    # The region of the level in which theta just lies holds what is denser than it.
    inside = (samples[:, :, 0] > theta).double().mean(1)
    return _coverage(inside, samples.shape[1], levels)


def tarp(theta: Tensor, samples: Tensor, references: Tensor | None = None, levels: int = 20, seed: int = 0) -> Coverage:
    """Tests of accuracy with random points: the ball about a reference through theta should hold a uniform share of the samples.

    Args:
        theta: `(N, *event)`.
        samples: of each posterior, `(N, L, *event)`.
        references: `(N, *event)`, by default uniform on the box of all `theta`. They may depend on x, and a bias of the posterior shows only if
            they do or if theta varies with x.
        levels: K.
        seed: of the references.

    Raises:
        ValueError: shapes that do not fit, or samples that are not finite.
    """
    theta, samples = _checked(theta, samples)
    if references is None:
        low, high = theta.amin(0), theta.amax(0)
        points = low + (high - low) * torch.rand(
            theta.shape, generator=cpu_generator(derive_seed("tarp", seed)), dtype=torch.float64
        ).to(theta.device)
    else:
        points = flatten_events(as_state("references", references)).double().to(theta.device)
    scale = theta.std(0).clamp(min=torch.finfo(torch.float64).tiny)
    radius = ((theta - points) / scale).norm(dim=1)
    inside = (((samples - points[:, None]) / scale).norm(dim=2) < radius[:, None]).double().mean(1)
    return _coverage(inside, samples.shape[1], levels)


def _coverage(inside: Tensor, count: int, levels: int) -> Coverage:
    """The coverage of regions that hold the share `inside` of their samples just when theta is at their edge, `(N,)`."""
    from scipy import stats

    n = len(inside)
    uniform = (inside.cpu() * count + _spread(n)) / (count + 1)
    at = torch.arange(1, levels + 1, dtype=torch.float64) / (levels + 1)
    covered = (uniform[:, None] < at).double().mean(0)
    return Coverage(at, covered, (at * (1 - at) / n).sqrt(), float(stats.kstest(uniform.numpy(), "uniform").pvalue))


def _spread(n: int) -> Tensor:
    """A fixed sequence in (0, 1) without a trend: multiples of the golden ratio."""
    return ((torch.arange(n, dtype=torch.float64) + 1) * (math.sqrt(5) - 1) / 2) % 1


def _checked(theta: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    theta, samples = as_state("theta", theta).double(), as_state("samples", samples).double()
    if samples.ndim != theta.ndim + 1 or samples.shape[:1] != theta.shape[:1] or samples.shape[2:] != theta.shape[1:]:
        raise ValueError(
            f"samples must be (N, L, *event) for theta (N, *event), got {tuple(samples.shape)} and {tuple(theta.shape)}"
        )
    if not bool(samples.isfinite().all() & theta.isfinite().all()):
        raise ValueError("a value is not finite: leave the pairs out for which the simulator or the sampler failed")
    return flatten_events(theta), samples.flatten(2)
