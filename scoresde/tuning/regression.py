"""Coefficients in closed form, along the path that the corrected solver itself takes.

The fit keeps what theory says for the current times and adds, step by step, the correction c that brings M starts closest to their fine
solutions Z,

    minimise over c    sum_i w_i |Z_i(t_{n+1}) - theory_i - c . F_i|^2 + rho s^2 |c|^2,     F = (z_n, D_n, D_n - D_{n-1}, ..., D_1 - D_0),

with s the size of D_n, where z_n and D_n are those of the corrected steps before: what an early step gets wrong a later one sees. The
problem is linear in c, so nothing is differentiated through the network. The weights w = 1/(1 + (e/median e)^2), e the error of a start so
far, keep the few that end in another mode from ruling the rest: they divide the median error by up to 10 and hardly change the rms.

Regression along the own path is that of Duan et al. 2023 (arXiv 2305.14677). Theory to shrink to and weights are added here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Model
from ..numerics.batching import batches
from ..tableau.multistep import Multistep
from .reference import Cond, ReferenceSolution, distance, predict
from .selection import summary

FeatureMap = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """What a fit is measured on: the first `fitting` of the teacher's solutions are regressed on, the others held out."""

    model: Model
    teacher: ReferenceSolution
    cond: Cond
    fitting: int
    batch_size: int
    feature_map: FeatureMap | None

    def predict(self, z: Tensor, t: float) -> Tensor:
        return predict(self.model, z, t, self.cond, self.batch_size)

    def seen(self, x: Tensor) -> Tensor:
        """What the regression compares, `(B, k)` float64."""
        return (x if self.feature_map is None else self.feature_map(x)).flatten(1).double()

    def score(self, x: Tensor) -> float:
        """sqrt(rms median) over the held-out starts."""
        rms, median = summary(distance(x[self.fitting :], self.teacher.x[self.fitting :]))
        return (rms * median) ** 0.5 if rms < float("inf") else float("inf")

    def weights(self, x: Tensor) -> Tensor:
        """w for the endpoints `x`, `(fitting,)`."""
        error = distance(x[: self.fitting], self.teacher.x[: self.fitting])
        return 1 / (1 + (error / error.median().clamp(min=1e-30)) ** 2)


@dataclass(frozen=True)
class Fit:
    """Coefficients with the states and outputs that they were found on."""

    form: Multistep
    states: list[Tensor]
    data: list[Tensor]
    weights: Tensor
    ridge: float
    score: float

    @property
    def x(self) -> Tensor:
        return self.states[-1]


def _features(z: Tensor, data: Sequence[Tensor]) -> list[Tensor]:
    """F."""
    newest_first = data[::-1]
    return [z, newest_first[0], *(new - old for new, old in itertools.pairwise(newest_first))]


def correction(problem: Problem, z: Tensor, data: Sequence[Tensor], gap: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """c of one step as coefficients of (z, D_0..D_n), `(n + 2,)` float64, for the states' distance `gap` to form."""
    count = len(data) + 1
    gram, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    size = 0.0
    for part in batches(problem.fitting, problem.batch_size):
        features = torch.stack([problem.seen(f) for f in _features(z[part], [d[part] for d in data])])
        weighted = features * weights[part].to(features.device)[:, None]
        gram += torch.einsum("ibk,jbk->ij", weighted, features).cpu()
        right += torch.einsum("ibk,bk->i", weighted, problem.seen(gap[part])).cpu()
        size += float((weighted[1] * features[1]).sum())
    # The residual of a state at rest at 0 has no size of its own.
    c = torch.linalg.solve(gram + (ridge * size + 1e-300) * torch.eye(count, dtype=torch.float64), right)
    # Of the differences' coefficients to those of the outputs themselves, oldest first.
    newest, steps = c[1], c[2:]
    by_age = torch.cat([newest[None], torch.zeros(len(steps), dtype=torch.float64)])
    by_age[: len(steps)] += steps
    by_age[1:] -= steps
    return torch.cat([c[:1], by_age.flip(0)])


def regress(problem: Problem, form: Multistep, weights: Tensor, ridge: float, before: Fit | None = None, kept: int = 0) -> Fit:
    """Fit along the own path. The first `kept` steps are those of the fit `before`, whose times they share."""
    steps = len(form.a)
    a, b = form.a.clone(), form.b.clone()
    if before is None:
        states, data = [problem.teacher.states[0]], list[Tensor]()
    else:
        states, data = before.states[: kept + 1], before.data[: kept + 1]
        a[:kept], b[:kept] = before.form.a[:kept], before.form.b[:kept]
    for n in range(kept, steps):
        z = states[n]
        if len(data) == n:
            data.append(problem.predict(z, float(form.times[n])))
        corrected = Multistep(form.times, a, b)
        gap = problem.teacher(float(form.times[n + 1])) - corrected.step(n, z, data)
        c = correction(problem, z, data, gap, weights, ridge)
        a[n] += c[0]
        b[n, : n + 1] += c[1:]
        states.append(corrected.step(n, z, data))
    return Fit(Multistep(form.times, a, b), states, data, weights, ridge, problem.score(states[-1]))


def follow(problem: Problem, form: Multistep, weights: Tensor, ridge: float) -> Fit:
    """The path that a form takes as it is."""
    states, data = [problem.teacher.states[0]], list[Tensor]()
    for n in range(len(form.a)):
        data.append(problem.predict(states[n], float(form.times[n])))
        states.append(form.step(n, states[n], data))
    return Fit(form, states, data, weights, ridge, problem.score(states[-1]))
