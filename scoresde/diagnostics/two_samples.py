"""Are two sets of samples of one distribution? Distances with their standard errors.

c2st                  accuracy of a classifier on what it has not seen: 0.5 for equal distributions       Lopez-Paz and Oquab 2017
sliced_wasserstein    (E_u W_2(u.a, u.b)^2)^{1/2} over directions u                                       Rabin et al. 2011
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.arrays import flatten_events
from ..numerics.inputs import as_count, as_state
from ..numerics.random import cpu_generator, derive_seed


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {self.stderr:.2g}"


def c2st(a: Tensor, b: Tensor, *, folds: int = 5, seed: int = 0) -> Estimate:
    """The accuracy of a classifier between `a` and `b`, `(n, *event)` each, on what it has not seen.

    The classifier is a network with two hidden layers of 10 d units, as in the sbi benchmark (Lueckmann et al. 2021, arXiv 2101.04653), on
    standardised data. With different numbers the first ones of the larger set count.

    Returns:
        The mean over folds, and its standard error over the 2 n single decisions.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: events of different sizes, or fewer samples than folds.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neural_network import MLPClassifier

    a, b = _pair(a, b, as_count("folds", folds, 2))
    n, d = min(len(a), len(b)), a.shape[1]
    a, b = a[:n], b[:n]
    both = torch.cat([a, b])
    std = both.std(0)
    x = ((both - both.mean(0)) / torch.where(std > 0, std, 1.0)).cpu().numpy()
    y = np.repeat([0, 1], n)
    classifier = MLPClassifier(
        (10 * d, 10 * d), max_iter=1000, solver="adam", random_state=seed, early_stopping=True, n_iter_no_change=50
    )
    guesses = cross_val_predict(classifier, x, y, cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
    accuracy = float((guesses == y).mean())
    return Estimate(accuracy, math.sqrt(max(accuracy * (1 - accuracy), 0.25 / (2 * n)) / (2 * n)))


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 500, seed: int = 0) -> Estimate:
    """(E_u W_2(u.a, u.b)^2)^{1/2} over random unit vectors u, between `a` and `b`, `(n, *event)` and `(m, *event)`.

    Returns:
        The distance, and its standard error over directions. Two exact samples are not at distance 0: compare with that of two of them.

    Raises:
        ValueError: events of different sizes, or no samples.
    """
    a, b = _pair(a, b, 1)
    directions = as_count("directions", directions, 2)
    u = torch.randn(a.shape[1], directions, generator=cpu_generator(derive_seed("directions", seed)), dtype=torch.float64).to(
        a.device
    )
    u = u / u.norm(dim=0)
    # Quantiles at common levels: with unequal numbers the steps of both sets meet between.
    levels = (torch.arange(max(len(a), len(b)), dtype=torch.float64, device=a.device) + 0.5) / max(len(a), len(b))
    qa, qb = (_quantiles((s @ u).sort(0).values, levels) for s in (a, b))
    squares = ((qa - qb) ** 2).mean(0)
    mean, stderr = float(squares.mean()), float(squares.std()) / math.sqrt(directions)
    value = math.sqrt(mean)
    return Estimate(value, stderr / (2 * value) if value else 0.0)


def _quantiles(rows: Tensor, levels: Tensor) -> Tensor:
    """The quantiles of sorted columns, as step functions."""
    return rows[(levels * len(rows)).long().clamp(max=len(rows) - 1)]


def _pair(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    a, b = (flatten_events(as_state(name, s)).double() for name, s in (("a", a), ("b", b)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b have events of {a.shape[1]} and {b.shape[1]} coordinates")
    if min(len(a), len(b)) < least:
        raise ValueError(f"each set needs at least {least} samples, got {len(a)} and {len(b)}")
    return a, b.to(a.device)
