"""Reference solutions that other solvers are chosen by, fitted to and calibrated on.

UniPC-3 with exact coefficients on the cubic grid. Between its points s < t the exact solution

    z_t = sigma_t/sigma_s z_s + alpha_t int_0^h e^{u-h} D(lambda_s + u) du

is evaluated with the cubic through the four nearest values of D, so a state is known at every time without another network call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .. import grids
from ..models.base import Model
from ..numerics.batching import batches, index_cond
from ..numerics.quadrature import adams_weights
from ..numerics.random import BatchNoise, derive_seed, randn
from ..sde.base import SDE
from ..solvers.exponential import UniPC
from ..tableau.builder import grid_points
from ..tableau.executor import Run, combine, run
from ..tableau.tableau import Tableau

Cond = dict[str, object]


FEWEST, MOST = 32, 256


def starts(model: Model, shape: Sequence[int], count: int, *keys: int | str) -> Tensor:
    """`count` states from the prior of `model`, `(count, *shape)`, a function of the keys."""
    generator = Generator().manual_seed(derive_seed(*keys))
    return model.sde.prior_std * randn((count, *shape), generator, dtype=model.dtype, device=model.device)


def predict(model: Model, z: Tensor, t: float, cond: Cond, batch_size: int) -> Tensor:
    """The data prediction for all of `z`, a part of the batch at a time."""
    return torch.cat([model.data(z[part], t, **index_cond(cond, part, len(z))) for part in batches(len(z), batch_size)])


def run_recorded(tableau: Tableau, model: Model, z: Tensor, cond: Cond, *, trajectory: bool = False) -> tuple[Run, list[Tensor]]:
    """A run of a deterministic table with the data predictions of its steps."""
    data: list[Tensor] = []

    def watch(n: int, t: Any, state: Tensor, prediction: Tensor) -> None:
        data.append(prediction)

    return run(tableau, model, z, BatchNoise(), callback=watch, trajectory=trajectory, cond=cond), data


def distance(x: Tensor, y: Tensor) -> Tensor:
    """The root of the mean square over the coordinates of an event, `(B,)` float64."""
    return (x.double() - y.double()).flatten(1).square().mean(1).sqrt().cpu()


@dataclass(frozen=True)
class ReferenceSolution:
    """Solutions of the probability-flow ODE.

    Attributes:
        sde: the process.
        times: the S+2 decreasing times, the last 0.
        states: at those times, `(S+2, M, *event)`.
        data: the data predictions at all times but the last.
        steps: S.
        discrepancy: rms distance per coordinate between the endpoints with S and S/2 steps.
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
        return self.states[-1]

    def __call__(self, t: float) -> Tensor:
        """The states at time `t`, `(M, *event)`."""
        if t == 0:
            return self.x
        lower = int((self.times[:-1] >= t).sum()) - 1  # the last time not below t
        if float(self.times[lower]) == t:
            return self.states[lower]
        first = max(0, min(lower - 1, len(self.data) - 4))
        used = range(first, min(first + 4, len(self.data)))
        *nodes, s, to = grid_points(
            self.sde, torch.stack([*self.times[list(used)], self.times[lower], torch.tensor(t, dtype=torch.float64)])
        )
        values = [
            (k, node.half_log_snr - s.half_log_snr) for k, node in zip(used, nodes, strict=True) if math.isfinite(node.half_log_snr)
        ]
        if not math.isfinite(s.half_log_snr):
            # From alpha = 0 the solution is the data prediction's first-order step.
            terms = [(self.states[lower], to.sigma / s.sigma), (self.data[lower], to.alpha)]
            return combine(terms, self.states.dtype)
        weights = adams_weights(to.half_log_snr - s.half_log_snr, [offset for _, offset in values])
        terms = [(self.states[lower], to.sigma / s.sigma)]
        terms += [(self.data[k], to.alpha * w) for (k, _), w in zip(values, weights, strict=True)]
        return combine(terms, self.states.dtype)


def fine_tableau(sde: SDE, steps: int, t_end: float) -> Tableau:
    """`steps` steps down to `t_end`, and one to 0."""
    grid = torch.cat([grids.cubic(sde, steps, t_end=t_end), torch.zeros(1, dtype=torch.float64)])
    return UniPC(order=3).tableau(sde, grid)


@torch.no_grad()
def solve_reference(
    model: Model,
    z: Tensor,
    cond: Cond | None = None,
    *,
    steps: int | None = None,
    t_end: float | None = None,
    tolerance: float = 1e-3,
    batch_size: int = 256,
    pilot: int = 16,
) -> ReferenceSolution:
    """Solve finely from the states `z` `(M, *event)` at t = 1.

    Memory: 2 steps copies of `z`.

    Args:
        cond: conditions; a tensor whose first dimension is M has one row a state.
        steps: S. By default 32 steps are doubled, up to 256, until the `pilot` first states come out as with half the steps.
        t_end: the time of the last network call, by default `model.sde.t_min`; a model that is exact below it can go lower.
        tolerance: the rms distance of those endpoints relative to their rms.
        batch_size: states that the network sees at once.
    """
    cond, sde = cond or {}, model.sde
    t_end = sde.t_min if t_end is None else t_end
    few = slice(0, min(pilot, len(z)))

    def endpoint(steps: int) -> Tensor:
        return run(fine_tableau(sde, steps, t_end), model, z[few], BatchNoise(), cond=index_cond(cond, few, len(z))).x

    def apart(coarse: Tensor, fine: Tensor) -> float:
        return float(distance(coarse, fine).square().mean().sqrt())

    if steps is None:
        steps, x = FEWEST, endpoint(FEWEST)
        while steps < MOST:
            steps, coarse = 2 * steps, x
            x = endpoint(steps)
            discrepancy = apart(coarse, x)
            if discrepancy <= tolerance * float(x.double().square().mean().sqrt()):
                break
    else:
        discrepancy = apart(endpoint(max(1, steps // 2)), endpoint(steps))
    tableau = fine_tableau(sde, steps, t_end)
    paths, predictions = [], []
    for part in batches(len(z), batch_size):
        out, data = run_recorded(tableau, model, z[part], index_cond(cond, part, len(z)), trajectory=True)
        assert out.path is not None
        paths.append(out.path)
        predictions.append(torch.stack(data))
    return ReferenceSolution(sde, out.times, torch.cat(paths, 1), torch.cat(predictions, 1), steps, discrepancy)
