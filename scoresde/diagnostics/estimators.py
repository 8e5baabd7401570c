"""The variance of the gradients of each loss at equal compute.

All forms of score matching have one expected gradient (`losses.score_matching`). They differ in the variance and in the cost of a draw. The
cost of a value is the number of passes through the network, forward or backward. A gradient by the parameters doubles each cost:

    denoising, explicit    1
    sliced                 1 + K        a backward pass for each of K projections
    finite difference      2 K          two calls for each
    implicit, exact        1 + d        a backward pass for each coordinate

With a budget of C passes a loss of cost c is averaged over a batch of n = C/c rows, and the variance of an estimator G is

    V = E | G - E G |^2 = tr Cov G.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ..losses.denoising import denoising, denoising_at
from ..losses.score_matching import explicit, finite_difference, implicit, sliced
from ..losses.times import TimeSampler
from ..losses.weightings import WeightingLike
from ..models.base import Model, require_model
from ..numerics.inputs import as_count, as_number, as_state
from ..numerics.random import as_generator


class Estimator(NamedTuple):
    """A loss and its cost.

    Attributes:
        loss: `(model, x, generator) -> (B,)`.
        cost: passes through the network for one value of one sample.
    """

    loss: Callable[[Model, Tensor, Generator], Tensor]
    cost: int


class EstimatorVariance(NamedTuple):
    """Variances of the mean over a batch of `rows`.

    Attributes:
        rows: n, the size of the batch for the budget.
        value: variance of the loss.
        gradient: tr Cov of the gradient of the loss by the parameters; NaN for a model without parameters.
        gradient_stderr: the standard error of `gradient` over the repetitions.
    """

    rows: int
    value: float
    gradient: float
    gradient_stderr: float


def forms(t: float, event_size: int, projections: int = 1, exact: Model | None = None) -> dict[str, Estimator]:
    """The forms of score matching at one noise level, which have equal expected gradients ("finite difference" up to O(h^2)).

    Args:
        t: the time.
        event_size: d, which determines the cost of the exact divergence.
        projections: K of all sliced forms.
        exact: the exact model of the distribution of the data; adds "explicit".
    """

    t, event_size = as_number("t", t, 0.0, 1.0), as_count("event_size", event_size)
    projections = as_count("projections", projections)

    def at_state(loss: Callable[..., Tensor], cost: int, **options: Any) -> Estimator:
        def of(model: Model, x: Tensor, generator: Generator) -> Tensor:
            z, _ = model.sde.perturb(x, t, generator)
            return loss(model, z, t, generator=generator, **options)

        return Estimator(of, cost)

    def known(model: Model, z: Tensor, t: float, generator: Generator) -> Tensor:
        assert exact is not None
        return explicit(model, z, exact.score(z, t), t=t)

    estimators = {
        "denoising": Estimator(lambda model, x, generator: denoising_at(model, x, t, generator), 1),
        "implicit": at_state(implicit, 1 + event_size),
        "implicit, Hutchinson": at_state(implicit, 1 + projections, divergence="hutchinson", projections=projections),
        "sliced": at_state(sliced, 1 + projections, projections=projections, variance_reduced=False),
        "sliced, variance reduced": at_state(sliced, 1 + projections, projections=projections),
        "finite difference": at_state(finite_difference, 2 * projections, projections=projections),
    }
    return estimators if exact is None else {"explicit": at_state(known, 1), **estimators}


def time_samplers(weighting: WeightingLike, names: Iterable[TimeSampler]) -> dict[str, Estimator]:
    """`losses.denoising` over the path with each time sampler; expected gradients are equal for those that are uniform or corrected."""

    def at(sampler: TimeSampler) -> Estimator:
        return Estimator(lambda model, x, generator: denoising(model, x, weighting, sampler, generator), 1)

    return {str(name): at(name) for name in names}


def estimator_variance(
    estimators: Mapping[str, Estimator],
    model: Model,
    x: Tensor,
    *,
    budget: int,
    repetitions: int = 200,
    generator: Generator | None = None,
) -> dict[str, EstimatorVariance]:
    """The variance of each estimator at an equal budget: each is averaged over budget // cost rows of `x`.

    Args:
        estimators: results of `forms` or `time_samplers`, or your own.
        model: the model of the gradients. A model without parameters has only values.
        x: data, `(B, *event)`; rows are drawn with replacement.
        budget: passes through the network for the values of one batch; the gradients cost as much again.
        repetitions: number of batches. The relative error of a variance is about sqrt(2/repetitions), less for many parameters.
        generator: the source of rows, noise, times and projections.

    Raises:
        ValueError: a budget below the cost of one sample, or fewer than two repetitions.
    """
    require_model(model)
    x, generator = as_state("x", x), as_generator(generator)
    if not len(x):
        raise ValueError("x is empty: no rows can be drawn")
    budget, repetitions = as_count("budget", budget), as_count("repetitions", repetitions, 2)
    parameters = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    if not (isinstance(estimators, Mapping) and all(isinstance(each, tuple) and len(each) == 2 for each in estimators.values())):
        raise TypeError(f"estimators must be a dict of (loss, cost), such as forms(t, event_size), got {type(estimators).__name__}")
    out = {}
    for name, (loss, cost) in estimators.items():
        rows = budget // cost
        if rows < 1:
            raise ValueError(f"budget={budget} does not pay for one sample of {name!r}, which costs {cost} passes")
        values, gradients = [], []
        for _ in range(repetitions):
            chosen = torch.randint(0, len(x), (rows,), generator=generator, device=generator.device).to(x.device)
            with torch.set_grad_enabled(bool(parameters)):
                mean = loss(model, x[chosen], generator).mean()
            values.append(mean.detach().double())
            if parameters:
                parts = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
                gradients.append(torch.cat([part.flatten() for part in parts]).double())
        out[name] = EstimatorVariance(rows, float(torch.stack(values).var()), *_total_variance(gradients))
    return out


def _total_variance(draws: list[Tensor]) -> tuple[float, float]:
    """tr Cov of the draws, unbiased, and its standard error."""
    if not draws:
        return math.nan, math.nan
    stacked = torch.stack(draws)
    squared = (stacked - stacked.mean(0)).square().sum(1) * len(draws) / (len(draws) - 1)
    return float(squared.mean()), float(squared.std()) / math.sqrt(len(draws))
