"""All coefficients and times of a fitted solver together, by Gauss-Newton steps on its endpoints.

With theta = (a, b, t_1..t_{N-1}) of the form of `multistep`, and t_0 where that is not the start, x_i(theta) its endpoint from start i and X_i
the reference solution,

    minimise over theta    sum_i w_i |x_i(theta) - X_i|^2,
    (J^T W J + mu diag(J^T W J)) dtheta = J^T W (X - x),        J = dx/dtheta

(Levenberg 1944, Marquardt 1963). As a and b are free, t_n only enters as the time that the network is told.

J comes from forward differences, so any model will do. A change of step n changes z_{n+1} exactly as its row says. The steps after n are run
again, where forward-mode differentiation would need a derivative of the network. That is N (N - 1)(N + 7)/6 calls a start, and N for each
damping mu. The held-out starts choose the damping and decide whether there is another round.

The network must run in float32 or float64. In half precision the differences are mostly rounding, and no round lowers the held-out score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..numerics.batching import batches, index_cond
from ..tableau.multistep_form import Multistep
from .reference import Cond
from .regression import Fit, Problem, evaluate

DAMPINGS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


# In one round a time moves by at most this share of the smaller of the two intervals beside it.
MAX_TIME_SHARE = 0.3


def refined(problem: Problem, fit: Fit) -> Fit:
    """`fit` after one round, which lowers the held-out score; `fit` itself where the round does not."""
    gram, right = normal_equations(problem, fit)
    if not bool(gram.isfinite().all() & right.isfinite().all()) or float(gram.diagonal().max()) == 0:
        return fit
    trials = []
    for damping in DAMPINGS:
        scale = gram.diagonal() + 1e-12 * gram.diagonal().max()
        step = torch.linalg.solve(gram + damping * scale.diag(), right)
        trials.append(evaluate(problem, take_step(fit.form, step, problem.model.sde.t_min), fit.weights, fit.ridge))
    best = min(trials, key=lambda trial: trial.score)
    return replace(best, weights=problem.weights(best.x)) if best.score < fit.score else fit


def normal_equations(problem: Problem, fit: Fit) -> tuple[Tensor, Tensor]:
    """J^T W J `(p, p)` and J^T W (X - x) `(p,)` over the starts of the fit, float64 on the CPU."""
    gram, right = torch.zeros(0, device="cpu"), torch.zeros(0, device="cpu")
    total = len(problem.reference.x)
    for part in batches(problem.fitting, problem.batch_size):
        states, data = [z[part] for z in fit.states], [d[part] for d in fit.data]
        columns = sensitivities(problem, fit.form, states, data, index_cond(problem.cond, part, total))
        j = torch.stack([problem.features(column) for column in columns])
        weighted = j * fit.weights[part].to(j.device)[None, :, None]
        residual = problem.features(problem.reference.x[part]) - problem.features(states[-1])
        square, product = torch.einsum("pbk,qbk->pq", weighted, j).cpu(), torch.einsum("pbk,bk->p", weighted, residual).cpu()
        gram, right = (gram + square, right + product) if len(gram) else (square, product)
    return gram, right


def sensitivities(
    problem: Problem, form: Multistep, states: Sequence[Tensor], data: Sequence[Tensor], cond: Cond
) -> Iterator[Tensor]:
    """The columns of J, `(B, *event)` each: those of a_n, b_n0..b_nn step by step, then those of the times."""
    x, steps = states[-1], len(form.a)
    # The square root of the rounding balances the errors of rounding and of curvature.
    small = 10 * torch.finfo(x.dtype).eps ** 0.5

    def predict(z: Tensor, t: float) -> Tensor:
        return problem.model.data(z, t, **cond)

    def change(z: Tensor, data: Sequence[Tensor], h: float) -> Tensor:
        """The difference quotient of the endpoint for a path that goes on from the state `z` after the predictions `data`."""
        path, _ = form.follow(z, data, predict)
        return (path[-1] - x) / h

    for n in range(steps):
        for feature in form.features(n, states[n], data[: n + 1]):
            h = small * float(states[n + 1].norm() / feature.norm().clamp(min=1e-30))
            yield change(states[n + 1] + h * feature, data[: n + 1], h)
    intervals = form.all_times[:-1] - form.all_times[1:]
    nearest = torch.minimum(intervals[:-1], intervals[1:])  # to each interior time
    for n, interval in enumerate(nearest.tolist(), steps - len(nearest)):
        # Upwards: a chain has no time below its first. The interval above n bounds h.
        h = small * interval
        d = predict(states[n], float(form.times[n]) + h)
        yield change(states[n + 1] + form.newest(n, d - data[n]), [*data[:n], d], h)


def take_step(form: Multistep, step: Tensor, t_min: float) -> Multistep:
    """The form at theta + `step`, with the times in order and none below `t_min`."""
    steps = len(form.a)
    rows, columns = torch.ones(steps, steps + 1, device="cpu").tril(1).nonzero(as_tuple=True)
    table = torch.cat([form.a[:, None], form.b], 1)
    count = len(rows)
    table[rows, columns] += step[:count]
    intervals = form.all_times[:-1] - form.all_times[1:]
    limit = MAX_TIME_SHARE * torch.minimum(intervals[:-1], intervals[1:])
    times = form.times.clone()
    interior = times[-1 - len(limit) : -1]
    interior.copy_((interior + step[count:].clamp(-limit, limit)).clamp(min=t_min))
    return replace(form, times=times, a=table[:, 0], b=table[:, 1:])
