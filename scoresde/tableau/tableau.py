"""A solver is a table of coefficients.

With z_j the states, D_j = E[x | z_j] the data prediction at state j and xi_j fresh noise, every row makes one new state,

    z_{k+1} = sum_j A[k,j] z_j + sum_j B[k,j] D_j + sum_j C[k,j] xi_j        (j <= k),

an explicit general linear method (Butcher 2016, chapter 5) for a Gaussian path. Rows are sparse and in float64. On a `LinearSDE` a coefficient
is a number for each block of the basis, or a matrix (`numerics.coefficients`), and the states are in the basis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from .. import deprecation
from ..numerics.brief import line, shown
from ..numerics.coefficients import Coefficient, add, compose, is_finite
from ..sde.base import SDE
from ..sde.linear import LinearSDE
from ..sde.linear_prediction import linear_conversion
from ..sde.prediction import Prediction, conversion
from . import analysis
from .compile import Operand, Program, compile_rows, place

NO_TERMS: Mapping[int, Coefficient] = MappingProxyType({})


class Row(NamedTuple):
    """One row: coefficients of earlier states (A), data predictions (B) and noises (C), by their index."""

    z: Mapping[int, Coefficient] = NO_TERMS
    data: Mapping[int, Coefficient] = NO_TERMS
    xi: Mapping[int, Coefficient] = NO_TERMS

    def __repr__(self) -> str:
        return line("Row", *(f"{name}={shown(dict(part))}" for name, part in self._asdict().items() if part))

    @property
    def noise(self) -> Mapping[int, Coefficient]:
        """Deprecated: `xi`."""
        deprecation.warn("Row.noise", "Row.xi")
        return self.xi

    def terms(self) -> dict[Operand, Coefficient]:
        """All coefficients, by what they multiply."""
        z: dict[Operand, Coefficient] = {("z", j): c for j, c in self.z.items()}
        data: dict[Operand, Coefficient] = {("data", j): c for j, c in self.data.items()}
        return z | data | {("xi", j): c for j, c in self.xi.items()}


@dataclass(frozen=True)
class Tableau:
    """A solver on one path and one grid. A table that no loop could run is refused when it is made.

    Attributes:
        sde: the path.
        times: the time of each state, `len(rows) + 1` floats.
        rows: row k makes state k + 1.
        grid_states: the states at the grid's times, first to last. Between two of them lie the stages of a step.
        step_evals: the state at which step n evaluates the network, for every n. Usually this is `grid_states[n]`. UniPC evaluates before
            its correction, EDM's sampler after its churn.
        prediction: what the B coefficients multiply. Solvers write tables for "data"; `folded` changes the prediction.

    Raises:
        ValueError: a row uses a state that comes after it, a coefficient is not finite, or the grid's times do not fall; names the row.
    """

    sde: SDE
    times: tuple[float, ...]
    rows: tuple[Row, ...]
    grid_states: tuple[int, ...]
    step_evals: tuple[int, ...]
    prediction: Prediction = "data"

    def __post_init__(self) -> None:
        check_rows(self.rows, self.times)
        check_steps(self.times, self.grid_states, self.step_evals)

    def __repr__(self) -> str:
        noise = "noise" if self.stochastic else "no noise"
        return line("Tableau", repr(self.sde), f"{self.steps} steps", f"{self.nfe} network calls", noise)

    @cached_property
    def evaluated(self) -> tuple[int, ...]:
        """The states at which the network is called."""
        return tuple(sorted({j for row in self.rows for j in row.data}))

    @property
    def nfe(self) -> int:
        """Network calls per sample."""
        return len(self.evaluated)

    @property
    def steps(self) -> int:
        """Intervals of the grid."""
        return len(self.step_evals)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        return any(row.xi for row in self.rows)

    @property
    def grid(self) -> Tensor:
        """The grid's times, `(N+1,)` float64."""
        return torch.tensor([self.times[j] for j in self.grid_states], dtype=torch.float64, device="cpu")

    @property
    def marks(self) -> tuple[int, ...]:
        """Deprecated: `grid_states`."""
        deprecation.warn("Tableau.marks", "Tableau.grid_states")
        return self.grid_states

    @property
    def looks(self) -> tuple[int, ...]:
        """Deprecated: `step_evals`."""
        deprecation.warn("Tableau.looks", "Tableau.step_evals")
        return self.step_evals

    @property
    def coefficients(self) -> int:
        """How many coefficients there are: each costs one operation on a state."""
        return sum(len(row.z) + len(row.data) + len(row.xi) for row in self.rows)

    def folded(self, prediction: Prediction) -> Tableau:
        """The same method as a table for another prediction.

        The conversion D = c_z z + c_out out is linear, so it costs nothing at run time: A += B c_z and B *= c_out.

        Raises:
            ValueError: the network is called at a time where the prediction does not determine the data.
        """
        if prediction == self.prediction or not self.evaluated:
            return self
        at = self.conversions(prediction)

        def fold(row: Row) -> Row:
            z, data = dict(row.z), dict[int, Coefficient]()
            for j, b in row.data.items():
                c_z, c_out = at[j]
                added = compose(b, c_z)
                z[j] = add(z.get(j, 0.0), added)
                # Coefficients that cancel up to rounding are dropped: they would keep a state alive.
                if not isinstance(added, Tensor) and abs(float(z[j])) <= 1e-14 * abs(added):
                    del z[j]
                data[j] = compose(b, c_out)
            return Row(z, data, row.xi)

        return replace(self, rows=tuple(fold(row) for row in self.rows), prediction=prediction)

    def conversions(self, prediction: Prediction) -> dict[int, tuple[Coefficient, Coefficient]]:
        """(c_z, c_out) at every evaluated state: the B coefficients multiply c_z z + c_out out for an output `prediction`."""
        times = torch.tensor([self.times[j] for j in self.evaluated], dtype=torch.float64, device="cpu")
        if isinstance(self.sde, LinearSDE):
            pairs = zip(*linear_conversion(self.sde, times, prediction, self.prediction), strict=True)
            return dict(zip(self.evaluated, pairs, strict=True))
        columns = (c.tolist() for c in conversion(self.sde, times, prediction, self.prediction))
        return dict(zip(self.evaluated, zip(*columns, strict=True), strict=True))

    def moments(self, mean: float = 0.0, std: float = 0.5, start: tuple[float, float] | None = None) -> tuple[float, float]:
        """Mean and standard deviation of the result when every data coordinate is N(mean, std^2), without sampling.

        On a `LinearSDE` ask `tableau.analysis.block_moments`, which has them for each block.

        Args:
            mean: of the data.
            std: of the data.
            start: mean and standard deviation of the first state; by default those of the path's prior.
        """
        means, stds = analysis.moments(
            self, torch.tensor(mean, dtype=torch.float64, device="cpu"), torch.tensor(std, dtype=torch.float64, device="cpu"), start
        )
        return float(means), float(stds)

    def gaussian_w2(self, spectrum: Tensor) -> float:
        """The Wasserstein distance W_2 between the result and data N(0, C), where C has the eigenvalues `spectrum` `(d,)`.

        On a `LinearSDE` the spectrum is that of the data in its basis, `(K,)`.
        """
        if isinstance(self.sde, LinearSDE):
            return analysis.block_w2(self, spectrum)
        return analysis.gaussian_w2(self, spectrum)

    def gaussian_kl(self, spectrum: Tensor) -> float:
        """KL(result || data) in nats for data N(0, C), where C has the positive eigenvalues `spectrum` `(d,)`."""
        return analysis.gaussian_kl(self, spectrum)

    def program(self, prediction: Prediction) -> Program:
        """What the loop does under a network of this prediction, with everything decided that can be known before it.

        Folding the conversion of the output into the rows is free where a row uses the prediction's state anyway; elsewhere it adds a term
        for that state. Where the added terms cost more than the two operations of converting an output, outputs are converted.

        Raises:
            ValueError: the network is called at a time where the prediction does not determine the data.
        """
        if prediction not in self._programs:
            folded = self.folded(prediction)
            at: dict[int, tuple[Coefficient, Coefficient]] = {}
            if folded is not self and folded.coefficients >= self.coefficients + 2 * self.nfe:
                folded, at = self, self.conversions(prediction)
            self._programs[prediction] = compile_rows([row.terms() for row in folded.rows], folded.evaluated, at)
        return self._programs[prediction]

    def placed(self, prediction: Prediction, dtype: torch.dtype, device: torch.device) -> Program:
        """`program` with the tensors among its coefficients cast and moved, once for all runs."""
        if not self.has_blocks:
            return self.program(prediction)
        key = prediction, dtype, device
        if key not in self._placed:
            self._placed[key] = place(self.program(prediction), dtype, device)
        return self._placed[key]

    @cached_property
    def has_blocks(self) -> bool:
        """Whether any coefficient is a tensor."""
        return any(isinstance(c, Tensor) for row in self.rows for part in row for c in part.values())

    @cached_property
    def _programs(self) -> dict[Prediction, Program]:
        return {}

    @cached_property
    def _placed(self) -> dict[tuple[Prediction, torch.dtype, torch.device], Program]:
        return {}


def check_rows(rows: tuple[Row, ...], times: tuple[float, ...]) -> None:
    """Raise unless every row can be computed from what comes before it.

    Raises:
        ValueError: names the row.
    """
    if not rows or len(times) != len(rows) + 1:
        raise ValueError(f"a table of {len(rows)} rows needs at least one row and {len(rows) + 1} times, got {len(times)} times")
    for k, row in enumerate(rows):
        for what, part in (("state", row.z), ("data prediction", row.data)):
            for j in part:
                if not 0 <= j <= k:
                    raise ValueError(f"row {k} uses {what} {j}, but only 0..{k} exist before it")
        if row.xi and min(row.xi) < 0:
            raise ValueError(f"row {k} uses noise {min(row.xi)}: noises are counted from 0")
        for part in row:
            for j, c in part.items():
                if not is_finite(c):
                    raise ValueError(f"row {k}, to t={times[k + 1]:g}, has the coefficient {c} at index {j}")


def check_steps(times: tuple[float, ...], grid_states: tuple[int, ...], step_evals: tuple[int, ...]) -> None:
    """Raise unless the states fall into steps along a decreasing grid.

    Raises:
        ValueError: names the step.
    """
    last = len(times) - 1
    if len(grid_states) < 2 or (grid_states[0], grid_states[-1]) != (0, last) or len(step_evals) != len(grid_states) - 1:
        raise ValueError(
            f"grid states run from 0 to {last} with one evaluation for each step, got {grid_states} and {len(step_evals)} evaluations"
        )
    for n, (first, to, at) in enumerate(zip(grid_states[:-1], grid_states[1:], step_evals, strict=True)):
        # Times are equal where a stage was made a step of its own (`multistep`).
        if not (first < to and times[to] <= times[first]):
            raise ValueError(
                f"step {n} must go to a later state and no larger time, got state {to} at t={times[to]:g} after {first}"
            )
        if not 0 <= at < to:
            raise ValueError(f"step {n} evaluates the network at state {at}, which does not exist before state {to}")
