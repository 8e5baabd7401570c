"""A solver is a table of coefficients.

With z_j the states, D_j = E[x | z_j] the data prediction at state j and xi_j fresh noise, every row makes one new state,

    z_{k+1} = sum_j A[k,j] z_j + sum_j B[k,j] D_j + sum_j C[k,j] xi_j        (j <= k),

an explicit general linear method (Butcher 2016, chapter 5) for a Gaussian path. Rows are sparse and in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..prediction import Prediction, conversion
from ..sde import SDE

Kind = Literal["z", "data", "noise"]
Operand = tuple[Kind, int]


class Point(NamedTuple):
    """A grid time with the path's scales at it."""

    t: float
    alpha: float
    sigma: float
    half_log_snr: float


def points(sde: SDE, grid: Tensor) -> list[Point]:
    """The grid's times with their alpha, sigma and lambda, as Python floats (which are float64)."""
    columns = (grid, sde.alpha(grid), sde.sigma(grid), sde.half_log_snr(grid))
    return [Point(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


NOTHING: Mapping[int, float] = MappingProxyType({})


class Row(NamedTuple):
    """One row: coefficients of earlier states (A), data predictions (B) and noises (C), by their index."""

    z: Mapping[int, float] = NOTHING
    data: Mapping[int, float] = NOTHING
    noise: Mapping[int, float] = NOTHING

    def operands(self) -> dict[Operand, float]:
        """All coefficients, by what they multiply."""
        z: dict[Operand, float] = {("z", j): c for j, c in self.z.items()}
        data: dict[Operand, float] = {("data", j): c for j, c in self.data.items()}
        return z | data | {("noise", j): c for j, c in self.noise.items()}


class Instruction(NamedTuple):
    """What a loop does for one row. It keeps its tensors in numbered places; the first state is in place 0.

    Attributes:
        call: the places of the state to call the network at and of its output; None where the row needs no call.
        convert: the (c_z, c_out) that turn the output into what the terms multiply; None where they multiply the output itself.
        fresh: the noises to draw, each a place and a standard deviation: its coefficient where that is positive and no other row needs it,
            else 1.
        terms: the row's coefficients by place, 1 for a noise that was drawn with its own.
        overwrite: the tensor of the first term is not needed again and nobody else's.
        unused: the places of what no later row needs.
        result: the place of the new state.
    """

    call: tuple[int, int] | None
    convert: tuple[float, float] | None
    fresh: tuple[tuple[int, float], ...]
    terms: tuple[tuple[int, float], ...]
    overwrite: bool
    unused: tuple[int, ...]
    result: int


class Program(NamedTuple):
    """A table as instructions, and the number of places that they need."""

    instructions: tuple[Instruction, ...]
    places: int


@dataclass(frozen=True)
class Tableau:
    """A solver on one path and one grid.

    Attributes:
        sde: the path.
        times: the time of each state, `len(rows) + 1` floats.
        rows: row k makes state k + 1.
        marks: the states that stand at the grid's times, first to last; between two marks lie a step's inner stages.
        looks: for every step, the state whose network call belongs to its start: the mark itself, unless the state there was corrected after
            the call, or stirred up before it.
        prediction: what the B coefficients multiply. Solvers write tables for "data"; `folded` changes it.
    """

    sde: SDE
    times: tuple[float, ...]
    rows: tuple[Row, ...]
    marks: tuple[int, ...]
    looks: tuple[int, ...]
    prediction: Prediction = "data"

    @cached_property
    def evaluated(self) -> tuple[int, ...]:
        """The states at which the network is called."""
        return tuple(sorted({j for row in self.rows for j in row.data}))

    @property
    def nfe(self) -> int:
        """Network calls per sample."""
        return len(self.evaluated)

    def folded(self, prediction: Prediction) -> Tableau:
        """The same method as a table for another prediction.

        The conversion D = c_z z + c_out out is linear, so it costs nothing at run time: A += B c_z and B *= c_out.

        Raises:
            ValueError: the network is called at a time where the prediction does not determine the data.
        """
        if prediction == self.prediction or not self.evaluated:
            return self
        at = self._conversions(prediction)

        def fold(row: Row) -> Row:
            z, data = dict(row.z), {}
            for j, b in row.data.items():
                c_z, c_out = at[j]
                z[j] = z.get(j, 0.0) + b * c_z
                # Rows that were written in this prediction get back their zeros: what rounding leaves there is no reason to keep a state.
                if abs(z[j]) <= 1e-14 * abs(b * c_z):
                    del z[j]
                data[j] = b * c_out
            return Row(z, data, row.noise)

        return replace(self, rows=tuple(fold(row) for row in self.rows), prediction=prediction)

    def _conversions(self, prediction: Prediction) -> dict[int, tuple[float, float]]:
        """(c_z, c_out) at every evaluated state, with what the B coefficients multiply = c_z z + c_out out for an output `prediction`."""
        times = torch.tensor([self.times[j] for j in self.evaluated], dtype=torch.float64)
        columns = (c.tolist() for c in conversion(self.sde, times, prediction, self.prediction))
        return dict(zip(self.evaluated, zip(*columns, strict=True), strict=True))

    def moments(self, mean: float = 0.0, std: float = 0.5, start: tuple[float, float] | None = None) -> tuple[float, float]:
        """Mean and standard deviation of the result when every data coordinate is N(mean, std^2), without sampling.

        On Gaussian data D is affine in z, so every state is an affine function of independent unit normals: the start and the
        noises. Following their coefficients through the rows is exact.

        Args:
            mean: of the data.
            std: of the data.
            start: mean and standard deviation of the first state; by default those of the path's prior.
        """
        means, stds = self._moments(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64), start)
        return float(means), float(stds)

    def gaussian_w2(self, spectrum: Tensor) -> float:
        """The Wasserstein distance W_2 between the result and data N(0, C), where C has the eigenvalues `spectrum` `(d,)`.

        In the eigenbasis of C every coordinate is solved alone: W_2^2 = sum_i m_i^2 + (s_i - c_i)^2 (arXiv 2405.14250).
        """
        c = torch.as_tensor(spectrum).double().sqrt()
        m, s = self._moments(torch.zeros_like(c), c, None)
        return float((m**2 + (s - c) ** 2).sum().sqrt())

    def gaussian_kl(self, spectrum: Tensor) -> float:
        """KL(result || data) in nats for data N(0, C), where C has the positive eigenvalues `spectrum` `(d,)`.

        The sum over the eigenbasis of (q - 1 - log q + m^2/c^2)/2 with q = s^2/c^2.
        """
        c = torch.as_tensor(spectrum).double().sqrt()
        m, s = self._moments(torch.zeros_like(c), c, None)
        q = (s / c) ** 2
        return float(0.5 * (q - 1 - q.log() + (m / c) ** 2).sum())

    def _moments(self, mean: Tensor, std: Tensor, start: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
        """`moments` for means and standard deviations of any one shape."""
        start_mean, start_std = start if start is not None else (0.0, self.sde.prior_std)
        noises = sorted({j for row in self.rows for j in row.noise})
        column = {j: i + 1 for i, j in enumerate(noises)}
        first = torch.zeros(*std.shape, 1 + len(noises), dtype=torch.float64)
        first[..., 0] = start_std
        states = {0: (torch.full_like(mean, start_mean), first)}
        last = {j: k for k, row in enumerate(self.rows) for j in (*row.z, *row.data)}
        for k, row in enumerate(self.rows):
            state_mean, loadings = torch.zeros_like(mean), torch.zeros_like(first)
            for j, a in row.z.items():
                state_mean += a * states[j][0]
                loadings += a * states[j][1]
            for j, b in row.data.items():
                constant, slope = self._gaussian_output(self.times[j], mean, std)
                state_mean += b * (constant + slope * states[j][0])
                loadings += b * slope[..., None] * states[j][1]
            for j, c in row.noise.items():
                loadings[..., column[j]] += c
            states[k + 1] = (state_mean, loadings)
            for j in (*row.z, *row.data):
                if last[j] == k:
                    states.pop(j, None)
        result_mean, loadings = states[len(self.rows)]
        return result_mean, loadings.norm(dim=-1)

    def _gaussian_output(self, t: float, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """(constant, slope) of E[out | z] = constant + slope z for data N(mean, std^2)."""
        alpha, sigma = float(self.sde.alpha(t)), float(self.sde.sigma(t))
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        constant, slope = mean * (1 - gain * alpha), gain
        if self.prediction != "data":
            c_z, c_out = (float(c) for c in conversion(self.sde, t, "data", self.prediction))
            constant, slope = c_out * constant, c_z + c_out * slope
        return constant, slope

    def program(self, prediction: Prediction) -> Program:
        """What a loop has to do under a network of this prediction, with everything that can be known before it decided.

        Folding the conversion into the rows is free where a row has its prediction and its state already, but every other prediction brings
        its state along. Where that is more than the two operations a call of converting what the network returns, that is done instead.
        """
        if prediction not in self._programs:
            folded = self.folded(prediction)
            at: dict[int, tuple[float, float]] = {}
            if folded is not self and _size(folded) >= _size(self) + 2 * self.nfe:
                folded, at = self, self._conversions(prediction)
            self._programs[prediction] = folded._compiled(at)
        return self._programs[prediction]

    @cached_property
    def _programs(self) -> dict[Prediction, Program]:
        return {}

    def _compiled(self, conversions: Mapping[int, tuple[float, float]]) -> Program:
        operands = [row.operands() for row in self.rows]
        last: dict[Operand, int] = {}
        for k, terms in enumerate(operands):
            last.update(dict.fromkeys(terms, k))
        for j in self.evaluated:
            last["z", j] = max(last.get(("z", j), j), j)
        unused: list[list[Operand]] = [[] for _ in self.rows]
        for operand, k in last.items():
            unused[k].append(operand)
        places = _Places()
        places.take(("z", 0))
        evaluated = set(self.evaluated)
        instructions = []
        for k, (row, terms) in enumerate(zip(self.rows, operands, strict=True)):
            call = (places.of["z", k], places.take(("data", k))) if k in evaluated else None
            fresh, ours = list[tuple[int, float]](), dict[Operand, float]()
            for j, c in row.noise.items():
                new, done = ("noise", j) not in places.of, last["noise", j] == k
                scaled = new and done and c > 0
                if new:
                    fresh.append((places.take(("noise", j)), c if scaled else 1.0))
                if done:
                    ours["noise", j] = 1.0 if scaled else c
            # A noise that is not needed again comes first: its memory may take the sum.
            first = ours | {operand: c for operand, c in terms.items() if operand not in ours}
            by_place = tuple((places.of[operand], c) for operand, c in first.items())
            free = tuple(places.free(operand) for operand in unused[k])
            result = places.take(("z", k + 1))
            instructions.append(Instruction(call, conversions.get(k), tuple(fresh), by_place, bool(ours), free, result))
        return Program(tuple(instructions), places.count)


class _Places:
    """Numbers for what a loop holds, as few as possible."""

    def __init__(self) -> None:
        self.of: dict[Operand, int] = {}
        self.count = 0
        self._empty: list[int] = []

    def take(self, operand: Operand) -> int:
        if not self._empty:
            self._empty.append(self.count)
            self.count += 1
        self.of[operand] = self._empty.pop()
        return self.of[operand]

    def free(self, operand: Operand) -> int:
        # The operand keeps its number: that it was there once is asked for later.
        self._empty.append(self.of[operand])
        return self.of[operand]


def _size(tableau: Tableau) -> int:
    """The number of coefficients."""
    return sum(len(row.z) + len(row.data) + len(row.noise) for row in tableau.rows)


class Rows:
    """Writes a tableau for one grid, state by state; a solver fills it and calls `tableau`."""

    def __init__(self, sde: SDE, grid: Tensor) -> None:
        self.sde = sde
        self.points = points(sde, grid)
        self.at = [self.points[0]]  # of each state
        self.rows: list[Row] = []
        self.marks, self.looks = [0], [0]
        self._noises = 0

    def steps(self) -> Iterator[tuple[int, Point, Point]]:
        """`(n, s, t)` for every step that a solver has to fill in: from `s` down to `t`, with n = 0, 1, ...

        A step to sigma = 0 is the same for every solver, the plain data prediction without noise, and is written here.
        """
        for n, (s, t) in enumerate(zip(self.points[:-1], self.points[1:], strict=True)):
            if t.sigma > 0:
                yield n, s, t
            else:
                self.add(t, data={self.looks[-1]: t.alpha})
                self.mark()

    def point(self, half_log_snr: float) -> Point:
        """The point of the path with this lambda, on the grid or not."""
        t = self.sde.time(half_log_snr)
        return Point(float(t), float(self.sde.alpha(t)), float(self.sde.sigma(t)), half_log_snr)

    @property
    def state(self) -> int:
        """The index of the newest state."""
        return len(self.rows)

    def add(
        self,
        at: Point,
        z: Mapping[int, float] | None = None,
        data: Mapping[int, float] | None = None,
        eps: Mapping[int, float] | None = None,
        noise: Mapping[int, float] | None = None,
    ) -> int:
        """Append the row of a state at the point `at`; returns the state's index.

        `eps` are coefficients of noise predictions, eps_j = (z_j - alpha_j D_j)/sigma_j. Zero coefficients are dropped.
        """
        z, data = dict(z or {}), dict(data or {})
        for j, c in (eps or {}).items():
            z[j] = z.get(j, 0.0) + c / self.at[j].sigma
            data[j] = data.get(j, 0.0) - c * self.at[j].alpha / self.at[j].sigma
        kept = ({j: c for j, c in part.items() if c != 0} for part in (z, data, dict(noise or {})))
        self.rows.append(Row(*kept))
        self.at.append(at)
        return self.state

    def mark(self, look: int | None = None) -> None:
        """The newest state stands at the next grid time; its network call is that at `look`, by default at itself."""
        self.marks.append(self.state)
        self.looks.append(self.state if look is None else look)

    def fresh_noise(self) -> int:
        """The index of a noise not used before."""
        self._noises += 1
        return self._noises - 1

    def tableau(self) -> Tableau:
        """The finished table."""
        times = tuple(point.t for point in self.at)
        return Tableau(self.sde, times, tuple(self.rows), tuple(self.marks), tuple(self.looks[:-1]))
