"""Reference solutions of the probability-flow ODE. Other solvers are selected, fitted and calibrated by their distance to them.

The solver is UniPC-3 with exact coefficients on the cubic grid, and `GDDIM` of order 3 on a linear SDE. Between its times s > t the exact
solution is

    z_t = sigma_t/sigma_s z_s + alpha_t int_0^h e^{u-h} D(lambda_s + u) du,        h = lambda_t - lambda_s.

Its integral is evaluated with the cubic through the four nearest values of D. The state at any time t costs no further network call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import grids
from ..models.base import Model, require_model
from ..models.failures import explained
from ..models.training_mode import warn_if_training
from ..numerics.arrays import event_mean
from ..numerics.batching import batches, index_cond
from ..numerics.brief import Brief
from ..numerics.inputs import as_count, as_event, as_number, as_state
from ..numerics.quadrature import adams_weights
from ..numerics.random import BatchNoise, cpu_generator, derive_seed
from ..sde.base import SDE, end_time
from ..sde.bridge import Bridge
from ..sde.linear import LinearSDE, at_state
from ..solvers.exponential import UniPC
from ..solvers.gddim import GDDIM, steps
from ..tableau.builder import grid_points
from ..tableau.executor import Run, combine, run
from ..tableau.tableau import Tableau

Cond = dict[str, object]


# The number of steps when the caller names none: the first that is tried, and the most.
MIN_STEPS, MAX_STEPS = 64, 256


def starts(model: Model, shape: Sequence[int], count: int, seed: int, *purpose: str) -> Tensor:
    """`count` states from the prior of `model`, `(count, *shape)`, a function of the seed and of the words after it.

    Raises:
        TypeError: `model` is no model, `shape` no sequence of integers, or the seed no integer.
        ValueError: a size below 1, or a bridge.
    """
    require_model(model, "data")
    if isinstance(model.sde, Bridge):
        raise ValueError("a bridge starts at a known y by a random step: there is no flow from noise to fit a solver to")
    warn_if_training(model)
    event = as_event("shape", shape)
    generator = cpu_generator(derive_seed(as_count("seed", seed, -math.inf), *purpose))
    return model.sde.prior((count, *event), generator, dtype=model.dtype, device=model.device)


def predict(model: Model, z: Tensor, t: float, cond: Cond, batch_size: int) -> Tensor:
    """The data prediction for all of `z`, at most `batch_size` states at once."""
    return torch.cat([model.data(z[part], t, **index_cond(cond, part, len(z))) for part in batches(len(z), batch_size)])


def run_recorded(tableau: Tableau, model: Model, z: Tensor, cond: Cond, *, trajectory: bool = False) -> tuple[Run, list[Tensor]]:
    """A run of a deterministic table, and the data prediction of every step."""
    data: list[Tensor] = []

    def on_step(n: int, t: Any, state: Tensor, prediction: Tensor) -> None:
        data.append(prediction)

    return run(tableau, model, z, BatchNoise(), callback=on_step, trajectory=trajectory, cond=cond), data


def distance(x: Tensor, y: Tensor) -> Tensor:
    """The root of the mean square over the coordinates of an event, `(B,)` float64 on the CPU."""
    return event_mean((x.double() - y.double()).square()).sqrt().cpu()


def rms_distance(x: Tensor, y: Tensor) -> float:
    """The root of the mean square over all coordinates of all events."""
    return float(distance(x, y).square().mean().sqrt())


@dataclass(frozen=True, repr=False)
class ReferenceSolution(Brief):
    """Accurate solutions of the probability-flow ODE from M starts. Call it with a time t in [0, 1] for the states there, `(M, *event)`.

    Attributes:
        sde: the process.
        times: the S+2 decreasing times, the last 0.
        states: at those times, `(S+2, M, *event)`.
        data: the data predictions at all times but the last.
        steps: S.
        discrepancy: rms distance per coordinate between the endpoints with S and with `other_steps(S)` steps, over the first starts. It
            estimates the error of the endpoints: of 40 measured cases, on networks and mixtures smooth and rough in time, it is 0.2 to 5 times
            the distance to a solution of 3,000 or 4,000 steps in 37, and larger in the others.
    """

    sde: SDE
    times: Tensor
    states: Tensor
    data: Tensor
    steps: int
    discrepancy: float

    @property
    def x(self) -> Tensor:
        """The endpoints, `(M, *event)`."""
        several = isinstance(self.sde, LinearSDE) and self.sde.channels > 1
        return self.states[-1][:, 0] if several else self.states[-1]

    def __call__(self, t: float) -> Tensor:
        """The states at time `t`, `(M, *event)`."""
        if t == 0:
            return self.x
        k = int((self.times[:-1] >= t).sum()) - 1  # times[k] is the last time not below t
        if float(self.times[k]) == t:
            return self.states[k]
        if isinstance(self.sde, LinearSDE):
            return self._between(self.sde, k, t)
        s, to = grid_points(self.sde, torch.stack([self.times[k], torch.tensor(t, dtype=torch.float64, device="cpu")]))
        transport = (self.states[k], to.sigma / s.sigma)
        if not math.isfinite(s.half_log_snr):
            # lambda_s is infinite where alpha_s = 0. The first-order step needs no lambda.
            return combine([transport, (self.data[k], to.alpha)], self.states.dtype)
        first = max(0, min(k - 1, len(self.data) - 4))
        near = slice(first, first + 4)
        nodes = [
            (d, node.half_log_snr - s.half_log_snr)
            for d, node in zip(self.data[near], grid_points(self.sde, self.times[:-1][near]), strict=True)
            if math.isfinite(node.half_log_snr)
        ]
        weights = adams_weights(to.half_log_snr - s.half_log_snr, [offset for _, offset in nodes])
        integral = [(d, to.alpha * weight) for (d, _), weight in zip(nodes, weights, strict=True)]
        return combine([transport, *integral], self.states.dtype)

    def _between(self, sde: LinearSDE, k: int, t: float) -> Tensor:
        """The states at a time below times[k], with the cubic through the four nearest values of D."""
        first = max(0, min(k - 1, len(self.data) - 4))
        near = slice(first, first + 4)
        times = self.times[:-1][near]
        nodes = [(d, u) for d, u in zip(self.data[near], times.tolist(), strict=True) if math.isfinite(float(sde.half_log_snr(u)))]
        if not math.isfinite(float(sde.half_log_snr(self.times[k]))):
            nodes = [(self.data[k], float(self.times[k]))]
        (made,) = steps(sde, [(float(self.times[k]), t)], [[u for _, u in nodes]])
        z = self.states[k]
        terms = [(z, at_state(made.state, z)), *((d, at_state(c, z)) for (d, _), c in zip(nodes, made.data, strict=True))]
        return combine(terms, z.dtype)


def reference_tableau(sde: SDE, steps: int, t_end: float) -> Tableau:
    """`steps` steps down to `t_end`, and one to 0."""
    grid = torch.cat([grids.cubic(sde, steps, t_end=t_end), torch.zeros(1, dtype=torch.float64, device="cpu")])
    return (GDDIM(order=3) if isinstance(sde, LinearSDE) else UniPC(order=3)).tableau(sde, grid)


@torch.no_grad()
def solve_reference(
    model: Model,
    z: Tensor,
    cond: Cond | None = None,
    *,
    steps: int | None = None,
    t_end: float | None = None,
    tolerance: float = 2.5e-4,
    batch_size: int = 256,
    pilot: int = 16,
) -> ReferenceSolution:
    """Solve accurately from the states `z` `(M, *event)` at t = 1.

    The last step goes from `t_end` to the data prediction there, as in `sample`. `discrepancy` is the error up to that jump; what the flow
    does below `t_end` is no part of it. Memory: 2 S copies of `z`.

    Args:
        cond: conditions; a tensor whose first dimension is M has one row a state.
        steps: S. By default 64 steps are doubled, up to 256, until the first `pilot` endpoints agree with those of `other_steps(S)`.
        t_end: the time of the last network call, by default `model.sde.t_min`; a model that is exact below it can go lower.
        tolerance: endpoints agree when their discrepancy is at most this share of their rms.
        batch_size: states that the network sees at once.

    Raises:
        TypeError: an argument of a wrong type; names it.
        ValueError: a number out of its range; names it.
    """
    require_model(model, "data")
    z, cond, sde = as_state("z", z), cond or {}, model.sde
    t_end, tolerance = end_time(sde, t_end), as_number("tolerance", tolerance, above=0.0)
    pilot, batch_size = as_count("pilot", pilot), as_count("batch_size", batch_size)
    steps = None if steps is None else as_count("reference_steps", steps)
    first = slice(0, min(pilot, len(z)))

    def pilot_endpoints(steps: int) -> Tensor:
        return run(reference_tableau(sde, steps, t_end), model, z[first], BatchNoise(), cond=index_cond(cond, first, len(z))).x

    shape = f"the network fails on states of shape {tuple(z.shape)}: the shape that a pilot is given is that of one sample, without a batch"
    with explained(model, z.shape, cond, shape):
        steps, discrepancy = enough_steps(pilot_endpoints, tolerance, steps)
    tableau = reference_tableau(sde, steps, t_end)
    paths, predictions = [], []
    for part in batches(len(z), batch_size):
        out, data = run_recorded(tableau, model, z[part], index_cond(cond, part, len(z)), trajectory=True)
        assert out.path is not None
        paths.append(out.path)
        predictions.append(torch.stack(data))
    return ReferenceSolution(sde, out.times, torch.cat(paths, 1), torch.cat(predictions, 1), steps, discrepancy)


def enough_steps(endpoints: Callable[[int], Tensor], tolerance: float, steps: int | None = None) -> tuple[int, float]:
    """The steps, doubled until the endpoints agree where none are given, and their discrepancy."""
    s = steps or MIN_STEPS
    while True:
        x = endpoints(s)
        discrepancy = rms_distance(endpoints(other_steps(s)), x)
        if steps or s >= MAX_STEPS or discrepancy <= tolerance * float(x.double().square().mean().sqrt()):
            return s, discrepancy
        s *= 2


def other_steps(steps: int) -> int:
    """S/sqrt 2, rounded: the steps of the solution with which that of S steps is compared.

    The two grids share no times but the ends. Half the steps would be on every second time, where a network that is rough in time shows both
    solutions the same values. And their errors are of one size: half the steps have 8 times the error where the solver has its order 3.
    """
    return max(1, round(steps / math.sqrt(2))) if steps > 1 else 2
