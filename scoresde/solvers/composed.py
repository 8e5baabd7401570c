"""Solvers made from other solvers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor

from ..sde.base import SDE
from ..tableau.builder import TableauBuilder, grid_points
from ..tableau.tableau import Row, Tableau
from .ancestral import Ancestral
from .annealed_langevin import langevin_row
from .base import Around, Solver
from .single_step import DPMSolver, DPMSolverPP2S


@dataclass(frozen=True)
class StepDown(Solver):
    """Any deterministic one-step solver with the noise of ancestral sampling (k-diffusion's "ancestral" samplers; eta as in DDIM).

    With r = sigma/alpha a step from s to t goes down to r_d by `solver` and up again by noise,

        r_u = min(r_t, eta r_t sqrt(1 - r_t^2/r_s^2)),      r_d^2 = r_t^2 - r_u^2,      y_t = y_d + r_u xi.

    With Euler's step it is DDIM(eta). From alpha = 0 there is no way back up: that step is the solver's own.

    Args:
        solver: takes each step from nothing but the state before it.
        eta: amount of noise, 1 for that of ancestral sampling.

    Raises:
        ValueError: `eta` outside [0, 1].
    """

    solver: DPMSolver | DPMSolverPP2S = DPMSolverPP2S()
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def calls_per_step(self) -> int:
        return self.solver.calls_per_step

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        table = TableauBuilder(sde, grid)
        for _, s, t in table.steps():
            r_s, r_t = (math.exp(-p.half_log_snr) for p in (s, t))
            r_u = min(r_t, self.eta * r_t * math.sqrt(1 - (r_t / r_s) ** 2)) if s.alpha > 0 else 0.0
            d = table.point_at(-0.5 * math.log(r_t**2 - r_u**2)) if r_u > 0 else t
            self.solver.step(table, s, d)
            if r_u > 0:
                table.append(t, z={table.last: t.alpha / d.alpha}, xi={table.fresh_noise(): t.alpha * r_u})
            table.end_step()
        return table.tableau()


@dataclass(frozen=True)
class FreeFirstStep(Around):
    """Any table without the network calls at the grid's first time (the "analytical first step" of Dockhorn et al. 2022, arXiv 2210.05475).

    A coefficient B of such a prediction moves to its state, A += B alpha s^2/(alpha^2 s^2 + sigma^2), in the first step and wherever a
    multistep method refers back to it. That is one call less, so a budget of N calls buys a step more; Langevin dynamics, which calls the
    network several times at the first time, saves them all. A `callback` is not called in the first step, which has no prediction to show.

    Relative to as many calls with the first one made, on two mixtures, four paths and four grids (geometric means of the rms errors):

        calls       4     6     8    12
        Heun      .14   .25   .46   .71
        DDIM      .85   .84   .91   .93
        DPM++ 2M 1.05   .86   .85   .88
        UniPC-3  1.30   .87   .81   .86
        iPNDM-3   .76   .75   .85  1.13

    So it does not help multistep methods whose orders fall over 4 steps; and at many calls what is left is its own error, that of taking the
    mean of the data for 0.

    It is for starts from noise: from a `t_start` where the state shows the data the replacement is poor.

    Args:
        solver: the solver to save calls of.
        std: s, of a data coordinate whose mean is 0. At the end of the usual paths alpha s/sigma is below 0.01 and little depends on it; 0.5
            is `Preconditioned`'s, that of images in [-1, 1].

    Raises:
        ValueError: `std` is negative.
    """

    std: float = 0.5

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std must not be negative, got {self.std}")

    @property
    def single_call(self) -> bool:
        return False

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        wrapped = self.solver.tableau(sde, grid)
        first, variance = wrapped.times[0], self.std**2
        alpha, sigma = float(sde.alpha(first)), float(sde.sigma(first))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)

        def free(row: Row) -> Row:
            z, data = dict(row.z), dict(row.data)
            for j in [j for j in data if wrapped.times[j] == first]:
                z[j] = z.get(j, 0.0) + data.pop(j) * gain
            return Row(z, data, row.xi)

        return replace(wrapped, rows=tuple(free(row) for row in wrapped.rows))


@dataclass(frozen=True)
class LateFirstCall(Around):
    """Any table with its first network call at the second time of the grid. That prediction also makes the step to that time.

    From z at t_0, with a linear look ahead to t_1,

        y = sigma_1/sigma_0 z,      D = D(y, t_1),      z_1 = y + (alpha_1 - alpha_0 sigma_1/sigma_0) D,

    and `solver` goes on from z_1 with D as its prediction there. So N calls make N + 1 steps. The analytical first step of Dockhorn et al. 2022
    (arXiv 2210.05475; `FreeFirstStep`) is z_1 = y, and calls the network at z_1.

    Where alpha/sigma is near 0, D is nearly the mean of the data whatever z is, and the call at t_0 tells little. A call at sigma/alpha = 10
    tells more (`grids.late`). It needs a network whose data prediction is accurate there: one that predicts the data or the velocity. A noise
    prediction that is off by d gives a D that is off by d sigma/alpha, in which this step differs from the network's own flow.

    Args:
        solver: takes the steps after the first.
    """

    @property
    def default_grid(self) -> str:
        return "late"

    @property
    def single_call(self) -> bool:
        return False

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        """The coefficients on `grid`.

        Raises:
            ValueError: the grid has fewer than two steps.
        """
        if len(grid) < 3:
            raise ValueError(f"{self} needs two steps at least: the first has no network call of its own")
        rest = self.solver.tableau(sde, grid[1:])
        first, second = grid_points(sde, grid[:2])
        # The states of `rest` are 2, 3, ... here, and a prediction at its first state is the one at state 1.
        gain = second.sigma / first.sigma
        start = (Row(z={0: gain}), Row(z={1: 1.0}, data={1: second.alpha - first.alpha * gain}))

        def shifted(row: Row) -> Row:
            return Row({j + 2: c for j, c in row.z.items()}, {(j + 2 if j else 1): c for j, c in row.data.items()}, row.xi)

        return Tableau(
            sde,
            times=(first.t, second.t, *rest.times),
            rows=(*start, *(shifted(row) for row in rest.rows)),
            grid_states=(0, *(j + 2 for j in rest.grid_states)),
            step_evals=(1, *(j + 2 if j else 1 for j in rest.step_evals)),
        )


@dataclass(frozen=True)
class LangevinCorrected(Solver):
    """Any predictor, and Langevin steps of a fixed size after each of its steps, as one table.

    Wherever the predictor has arrived at a time t of the grid the state is corrected, `corrections` times, by the step of `AnnealedLangevin`,

        z <- (1 - c/2) z + c/2 alpha D + sqrt(c) sigma xi,

    and all later rows of the predictor see the corrected state: the history of a multistep method is one of corrected states. A prediction
    made at t before the correction, as UniPC makes one, is replaced by one after it. The start and the result are not corrected. As c is
    fixed and not chosen from the norm of the score (`PredictorCorrector`), the table's moments are exact. In few dimensions the only bias is
    that of the finite step: on Gaussian data with variance v at t the steps tend to v/(1 - c sigma^2/(4 v)).

    Args:
        predictor: a solver, of any number of stages and of steps. By exact moments (spectrum 0.01 to 4, five VP-like paths, three grids, 10,
            30 and 100 steps, c = 0.2) W_2 is 0.527, 0.125, 0.020 from `Ancestral` and 0.545, 0.120, 0.024 from `ReverseDiffusion`.
        step_size: c. The rule of `langevin_step` comes to c = 4 r^2 where the score has the norm of xi/sigma: 0.1 for r = 0.16.
        corrections: Langevin steps after each step but the last; each calls the network once.

    Raises:
        ValueError: no corrections, or `step_size` outside (0, 4), where it diverges.
    """

    predictor: Solver = Ancestral()
    step_size: float = 0.2
    corrections: int = 1

    def __post_init__(self) -> None:
        if self.corrections < 1 or not 0 < self.step_size < 4:
            raise ValueError(f"need corrections >= 1 and 0 < step_size < 4, got {self}")

    @property
    def default_grid(self) -> str:
        return self.predictor.default_grid

    @property
    def calls_per_step(self) -> int:
        return self.predictor.calls_per_step + self.corrections

    @property
    def order(self) -> int | None:
        return self.predictor.order

    @property
    def convergence_order(self) -> None:
        return None

    @property
    def stochastic(self) -> bool:
        return True

    def tableau(self, sde: SDE, grid: Tensor) -> Tableau:
        predicted = self.predictor.tableau(sde, grid)
        # The predictor's state at an inner grid time -> the point, and the state of the next step's network call.
        inner = zip(grid_points(sde, grid)[1:-1], predicted.step_evals[1:], strict=True)
        arrivals = dict(zip(predicted.grid_states[1:-1], inner, strict=True))
        fresh = count(1 + max((i for row in predicted.rows for i in row.xi), default=-1))
        rows, times = list[Row](), [predicted.times[0]]
        here = {0: 0}  # the predictor's state -> the state that stands for it in this table
        for state, row in enumerate(predicted.rows, 1):
            z, data = ({here[j]: c for j, c in part.items()} for part in (row.z, row.data))
            rows.append(Row(z, data, row.xi))
            times.append(predicted.times[state])
            here[state] = len(rows)
            if state in arrivals:
                point, evaluated = arrivals[state]
                for _ in range(self.corrections):
                    rows.append(langevin_row(len(rows), point, self.step_size, next(fresh)))
                    times.append(point.t)
                here[state] = len(rows)
                if evaluated < state:
                    here[evaluated] = len(rows)
        grid_states, step_evals = (tuple(here[j] for j in states) for states in (predicted.grid_states, predicted.step_evals))
        return replace(predicted, times=tuple(times), rows=tuple(rows), grid_states=grid_states, step_evals=step_evals)
