"""All coefficients and times of a fitted solver together, by Gauss-Newton steps on its endpoints.

With theta = (a, b, t_1..t_{N-1}) of the form of `multistep`, x_i(theta) its endpoint from start i and X_i the fine solution,

    minimise over theta    sum_i w_i |x_i(theta) - X_i|^2,
    (J^T W J + mu diag(J^T W J)) dtheta = J^T W (X - x),        J = dx/dtheta

(Levenberg 1944, Marquardt 1963). As a and b are free, the t_n are no more than the times that the network is told. J comes from forward
differences: a change of step n changes z_{n+1} exactly as its row says, and the steps after n are run again, so any model will do and one
network call stands in place of a forward-mode derivative. That is N (N - 1)(N + 7)/6 calls a start, and N for each damping mu, which is
chosen, like whether there is another round, on the starts that the differences have not seen.

The differences need a network in float32 or float64: in half precision they are mostly rounding, and no round is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..numerics.batching import batches, index_cond
from ..tableau.multistep import Multistep
from .reference import Cond
from .regression import Fit, Problem, follow

DAMPINGS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


# A time moves by no more than this share of its smaller gap in one round.
FURTHEST = 0.3


def refined(problem: Problem, fit: Fit, rounds: int, tick: Callable[[], object]) -> Fit:
    """`fit` after at most so many rounds, each of which lowers the held-out score."""
    for _ in range(rounds):
        gram, right = _normal_equations(problem, fit)
        if not bool(gram.isfinite().all() & right.isfinite().all()) or float(gram.diagonal().max()) == 0:
            break
        trials = []
        for damping in DAMPINGS:
            scale = gram.diagonal() + 1e-12 * gram.diagonal().max()
            form = _moved(fit.form, torch.linalg.solve(gram + damping * scale.diag(), right), problem.model.sde.t_min)
            trials.append(follow(problem, form, fit.weights, fit.ridge))
            tick()
        best = min(trials, key=lambda trial: trial.score)
        if not best.score < fit.score:
            break
        fit = replace(best, weights=problem.weights(best.x))
    return fit


def _normal_equations(problem: Problem, fit: Fit) -> tuple[Tensor, Tensor]:
    """J^T W J and J^T W (X - x), over the starts of the fit."""
    gram, right = torch.zeros(0), torch.zeros(0)
    total = len(problem.teacher.x)
    for part in batches(problem.fitting, problem.batch_size):
        states, data = [z[part] for z in fit.states], [d[part] for d in fit.data]
        columns = _sensitivities(problem, fit.form, states, data, index_cond(problem.cond, part, total))
        j = torch.stack([problem.seen(column) for column in columns])
        weighted = j * fit.weights[part].to(j.device)[None, :, None]
        residual = problem.seen(problem.teacher.x[part]) - problem.seen(states[-1])
        square, product = torch.einsum("pbk,qbk->pq", weighted, j).cpu(), torch.einsum("pbk,bk->p", weighted, residual).cpu()
        gram, right = (gram + square, right + product) if len(gram) else (square, product)
    return gram, right


def _sensitivities(
    problem: Problem, form: Multistep, states: Sequence[Tensor], data: Sequence[Tensor], cond: Cond
) -> Iterator[Tensor]:
    """The columns of J: those of a_n, b_n0..b_nn step by step, then those of t_1..t_{N-1}."""
    model, x, steps = problem.model, states[-1], len(form.a)
    # Far above the rounding of the states, far below what bends the path.
    small = 10 * torch.finfo(x.dtype).eps ** 0.5

    def endpoint(n: int, z: Tensor, data: Sequence[Tensor]) -> Tensor:
        """From state n with the outputs before it."""
        data = list(data)
        for m in range(n, steps):
            data.append(model.data(z, float(form.times[m]), **cond))
            z = form.step(m, z, data)
        return z

    for n in range(steps):
        for feature in (states[n], *data[: n + 1]):
            h = small * float(states[n + 1].norm() / feature.norm().clamp(min=1e-30))
            yield (endpoint(n + 1, states[n + 1] + h * feature, data[: n + 1]) - x) / h
    for n in range(1, steps):
        # Upwards, as a chain has no time below its first, and not past the time before.
        h = small * float(min(form.times[n - 1] - form.times[n], form.times[n] - form.times[n + 1]))
        d = model.data(states[n], float(form.times[n]) + h, **cond)
        z = states[n + 1] + float(form.b[n, n]) * (d - data[n])
        yield (endpoint(n + 1, z, [*data[:n], d]) - x) / h


def _moved(form: Multistep, step: Tensor, t_min: float) -> Multistep:
    """The form at theta + dtheta; the times keep their order."""
    steps = len(form.a)
    rows, columns = torch.ones(steps, steps + 1).tril(1).nonzero(as_tuple=True)
    table = torch.cat([form.a[:, None], form.b], 1)
    count = len(rows)
    table[rows, columns] += step[:count]
    gaps = form.times[:-1] - form.times[1:]
    furthest = FURTHEST * torch.minimum(gaps[:-1], gaps[1:])
    times = form.times.clone()
    times[1:-1] = (times[1:-1] + step[count:].clamp(-furthest, furthest)).clamp(min=t_min)
    return Multistep(times, table[:, 0], table[:, 1:])
