"""The coefficients of a solver in closed form, by regression along the path that the fitted solver itself takes.

From the form z_{n+1} = a_n z_n + sum_j b_nj D_j of a training-free solver, the fit adds a correction c to every step. It brings M starts as
close as possible to their reference solutions Z,

    minimise over c    sum_i w_i |Z_i(t_{n+1}) - z_i,n+1 - c . F_i|^2 + rho s^2 |c|^2,     F = (z_n, D_n, D_n - D_{n-1}, ..., D_1 - D_0),

with z_{n+1} the uncorrected step, rho the ridge and s the size of D_n. z_n and D_n come from the corrected steps before, so a later step sees
the errors of an earlier one. The problem is linear in c, so nothing is differentiated through the network.

The weights are w = 1/(1 + (e/median e)^2), with e the error of a start by the last solver. They limit the influence of the few starts that end
in another mode. They divide the median error by up to 10 and hardly change the rms.

Duan et al. 2023 (arXiv 2305.14677) regress along the own path. The ridge towards a training-free solver and the weights are added here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.arrays import flatten_events
from ..numerics.batching import batches
from ..tableau.multistep_form import Multistep
from .reference import Cond, ReferenceSolution, distance, predict
from .selection import summary

FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """The data of a fit.

    Attributes:
        model: the model that the solver is fitted to.
        reference: M solutions.
        cond: conditions of the M starts.
        fitting: the first `fitting` starts are regressed on, the others are held out.
        batch_size: starts that the network and the regression see at once.
        feature_map: see `fit`.
    """

    model: Model
    reference: ReferenceSolution
    cond: Cond
    fitting: int
    batch_size: int
    feature_map: FeatureMap | None

    def predict(self, z: Tensor, t: float) -> Tensor:
        """The data prediction for all M states, `(M, *event)`."""
        return predict(self.model, z, t, self.cond, self.batch_size)

    def features(self, x: Tensor) -> Tensor:
        """The features of states that the regression compares, `(B, k)` float64; the states themselves without a feature map."""
        return flatten_events(x if self.feature_map is None else self.feature_map(x)).double()

    def score(self, x: Tensor) -> float:
        """sqrt(rms median) of the error of the endpoints `x` over the held-out starts."""
        rms, median = summary(distance(x[self.fitting :], self.reference.x[self.fitting :]))
        return (rms * median) ** 0.5 if rms < float("inf") else float("inf")

    def weights(self, x: Tensor) -> Tensor:
        """w for the endpoints `x`, `(fitting,)`."""
        error = distance(x[: self.fitting], self.reference.x[: self.fitting])
        return 1 / (1 + (error / error.median().clamp(min=1e-30)) ** 2)


@dataclass(frozen=True)
class Fit:
    """Coefficients and the path of all M starts under them.

    Attributes:
        form: the coefficients.
        states: z_0..z_N, each `(M, *event)`.
        data: D_0..D_{N-1}, each `(M, *event)`.
        weights: w of the regression.
        ridge: rho of the regression.
        score: of the endpoints, on the held-out starts.
    """

    form: Multistep
    states: list[Tensor]
    data: list[Tensor]
    weights: Tensor
    ridge: float
    score: float

    @property
    def x(self) -> Tensor:
        """The endpoints, `(M, *event)`."""
        return self.states[-1]


def regressors(z: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
    """F."""
    newest_first = data[::-1]
    return [z, newest_first[0], *(new - old for new, old in itertools.pairwise(newest_first))]


def correction(
    problem: Problem, form: Multistep, z: Tensor, data: Sequence[Tensor], residual: Tensor, weights: Tensor, ridge: float
) -> Tensor:
    """c of one step as coefficients of (z_n, D_0..D_n), `(n + 2,)` float64, for the residual Z(t_{n+1}) - z_{n+1}."""
    n = len(data) - 1
    count = len(data) + 1
    gram = torch.zeros(count, count, dtype=torch.float64, device="cpu")
    right = gram.new_zeros(count)
    size = 0.0
    for part in batches(problem.fitting, problem.batch_size):
        own, *of_data = form.features(n, z[part], [d[part] for d in data])
        features = torch.stack([problem.features(f) for f in regressors(own, of_data)])
        weighted = features * weights[part].to(features.device)[:, None]
        gram += torch.einsum("ibk,jbk->ij", weighted, features).cpu()
        right += torch.einsum("ibk,bk->i", weighted, problem.features(residual[part])).cpu()
        size += float((weighted[1] * features[1]).sum())
    # Where every D_n is 0, so is the ridge. 1e-300 keeps the matrix invertible.
    c = torch.linalg.solve(gram + (ridge * size + 1e-300) * torch.ones_like(right).diag(), right)
    # From coefficients of the differences to those of the predictions, oldest first.
    newest, differences = c[1], c[2:]
    by_age = torch.cat([newest[None], gram.new_zeros(len(differences))])
    by_age[: len(differences)] += differences
    by_age[1:] -= differences
    return torch.cat([c[:1], by_age.flip(0)])


def regress(problem: Problem, form: Multistep, weights: Tensor, ridge: float, earlier: Fit | None = None, shared: int = 0) -> Fit:
    """Correct `form` step by step.

    Args:
        form: the initial coefficients.
        earlier: a fit whose first `shared` steps are taken over. Their times must be those of `form`.
    """
    a, b = form.a.clone(), form.b.clone()
    if earlier is None:
        states, data = [form.first(problem.reference.states[0])], list[Tensor]()
    else:
        states, data = earlier.states[: shared + 1], earlier.data[: shared + 1]
        a[:shared], b[:shared] = earlier.form.a[:shared], earlier.form.b[:shared]
    # The form shares memory with a and b: it is corrected with them.
    corrected = replace(form, a=a, b=b)
    for n in range(shared, len(a)):
        z = states[n]
        if len(data) == n:
            data.append(problem.predict(z, float(form.times[n])))
        residual = problem.reference(float(form.times[n + 1])) - corrected.step(n, z, data)
        c = correction(problem, corrected, z, data, residual, weights, ridge)
        a[n] += c[0]
        b[n, : n + 1] += c[1:]
        states.append(corrected.step(n, z, data))
    return Fit(corrected, states, data, weights, ridge, problem.score(states[-1]))


def evaluate(problem: Problem, form: Multistep, weights: Tensor, ridge: float) -> Fit:
    """`form` without a correction, on the starts of the problem."""
    states, data = form.follow(form.first(problem.reference.states[0]), [], problem.predict)
    return Fit(form, states, data, weights, ridge, problem.score(states[-1]))
