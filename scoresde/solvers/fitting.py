"""A solver fitted to one model: closed-form coefficients, on the solver's own states, and searched times.

Every deterministic method with one network call a step has the form

    z_{n+1} = a_n z_n + sum_{j<=n} b_nj D_j,        n = 0..N-1.

The fit keeps what theory says for the current times and adds, step by step, the correction c that brings M starts closest to their fine
solutions Z,

    minimise over c    sum_i w_i |Z_i(t_{n+1}) - theory_i - c . F_i|^2 + rho s^2 |c|^2,     F = (z_n, D_n, D_n - D_{n-1}, ..., D_1 - D_0),

with s the size of D_n, where z_n and D_n are those of the corrected steps before: what an early step gets wrong a later one sees. The
problem is linear in c, so nothing is differentiated through the network. The weights w = 1/(1 + (e/median e)^2), e the error of a start so
far, keep the few that end in another mode from ruling the rest: they divide the median error by up to 10 and hardly change the rms.

The interior times are searched one by one, as far as the error on starts that the coefficients have not seen falls; so is rho.

Trained by gradient, such a form is the solver of Shaul et al. 2024 (arXiv 2403.01329); regression along the own path is that of Duan et al.
2023 (arXiv 2305.14677). Theory to shrink to, weights and held-out times are added here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..prediction import Model
from ..sde import SDE
from .base import Solver
from .bound import BoundSolver, scales
from .executor import combine
from .selection import Ranked, rank, require, solve, summary
from .tableau import Row, Tableau
from .teacher import Cond, Teacher, distance, parts, predict, starts, teach

FeatureMap = Callable[[Tensor], Tensor]
RIDGES = (1e-7, 1e-5, 1e-4, 1e-3)
MOVES = (0.4, 0.2, 0.1)
LEAST_GAIN = 0.01


@dataclass(frozen=True)
class Multistep:
    """The coefficients of the form above.

    Attributes:
        times: t_0 > ... > t_N = 0.
        a: `(N,)` float64.
        b: `(N, N)` float64, zero above the diagonal.
    """

    times: Tensor
    a: Tensor
    b: Tensor

    def table(self, sde: SDE) -> Tableau:
        """As a tableau."""
        rows = []
        for n, (a, b) in enumerate(zip(self.a.tolist(), self.b.tolist(), strict=True)):
            rows.append(Row({n: a} if a else {}, {j: c for j, c in enumerate(b[: n + 1]) if c}))
        marks = tuple(range(len(self.times)))
        return Tableau(sde, tuple(self.times.tolist()), tuple(rows), marks, marks[:-1])


def multistep(tableau: Tableau) -> Multistep:
    """A deterministic table in the form above: the same results up to rounding.

    Every state is a combination of the first and of the outputs; with that of state n one eliminates the first from that of state n + 1.

    Raises:
        ValueError: the table draws noise.
    """
    if any(row.noise for row in tableau.rows):
        raise ValueError("a solver that draws noise has no deterministic form")
    called = tableau.evaluated
    column = {state: i + 1 for i, state in enumerate(called)}
    unit = torch.eye(len(called) + 1, dtype=torch.float64)
    states = [unit[0]]
    for row in tableau.rows:
        state = torch.zeros_like(unit[0])
        for j, c in row.z.items():
            state = state + c * states[j]
        for j, c in row.data.items():
            state = state + c * unit[column[j]]
        states.append(state)
    points = torch.stack([*(states[j] for j in called), states[-1]])
    a = points[1:, 0] / points[:-1, 0]
    b = (points[1:] - a[:, None] * points[:-1])[:, 1:]
    times = torch.tensor([*(tableau.times[j] for j in called), tableau.times[-1]], dtype=torch.float64)
    return Multistep(times, a, b.tril())


@dataclass(frozen=True)
class _Problem:
    """What a fit is measured on: the first `fitting` of the teacher's solutions are regressed on, the others held out."""

    model: Model
    teacher: Teacher
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
        return 1 / (1 + (error / error.median()) ** 2)


@dataclass(frozen=True)
class _Fit:
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


def _correction(problem: _Problem, z: Tensor, data: Sequence[Tensor], gap: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """c of one step as coefficients of (z, D_0..D_n), `(n + 2,)` float64, for the states' distance `gap` to theory."""
    count = len(data) + 1
    gram, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    size = 0.0
    for part in parts(problem.fitting, problem.batch_size):
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


def _regress(
    problem: _Problem, theory: Multistep, weights: Tensor, ridge: float, before: _Fit | None = None, kept: int = 0
) -> _Fit:
    """Fit along the own path. The first `kept` steps are those of the fit `before`, whose times they share."""
    steps = len(theory.a)
    a, b = theory.a.clone(), theory.b.clone()
    if before is None:
        states, data = [problem.teacher.states[0]], list[Tensor]()
    else:
        states, data = before.states[: kept + 1], before.data[: kept + 1]
        a[:kept], b[:kept] = before.form.a[:kept], before.form.b[:kept]
    for n in range(kept, steps):
        z = states[n]
        if len(data) == n:
            data.append(problem.predict(z, float(theory.times[n])))
        terms = [(z, float(a[n])), *((d, float(c)) for d, c in zip(data, b[n], strict=False))]
        gap = problem.teacher(float(theory.times[n + 1])) - combine(terms, z.dtype)
        c = _correction(problem, z, data, gap, weights, ridge)
        a[n] += c[0]
        b[n, : n + 1] += c[1:]
        terms = [(z, float(a[n])), *((d, float(c)) for d, c in zip(data, b[n], strict=False))]
        states.append(combine(terms, z.dtype))
    return _Fit(Multistep(theory.times, a, b), states, data, weights, ridge, problem.score(states[-1]))


def _moved(times: Tensor, m: int, fraction: float, t_min: float) -> Tensor:
    """Time m shifted by this fraction of the gap towards its neighbour: positive towards noise."""
    moved = times.clone()
    gap = times[m - 1] - times[m] if fraction > 0 else times[m] - times[m + 1]
    moved[m] += fraction * gap
    if m == len(times) - 2:
        moved[m] = moved[m].clamp(min=t_min)
    return moved


def _search(problem: _Problem, solver: Solver, fit: _Fit, tick: Callable[[], object]) -> _Fit:
    """Coordinate search of the interior times; a direction is followed while the held-out score falls."""
    sde, steps = problem.model.sde, len(fit.form.a)

    def follow(fit: _Fit, m: int, fraction: float) -> _Fit:
        """Move time m for as long as that helps."""
        while True:
            times = _moved(fit.form.times, m, fraction, sde.t_min)
            if torch.equal(times, fit.form.times):
                return fit
            # The steps before m - 1 do not see time m.
            trial = _regress(problem, _theory(sde, solver, times), fit.weights, fit.ridge, fit, m - 1)
            tick()
            if not trial.score < fit.score:
                return fit
            fit = trial

    for move in MOVES:
        # With a better fit the weights see better which starts change their mode.
        reweighted = _regress(problem, _theory(sde, solver, fit.form.times), problem.weights(fit.x), fit.ridge)
        fit = min(fit, reweighted, key=lambda f: f.score)
        for m in range(1, steps):
            up = follow(fit, m, move)
            fit = up if up is not fit else follow(fit, m, -move)
    return fit


def _theory(sde: SDE, solver: Solver, times: Tensor) -> Multistep:
    return multistep(solver.tableau(sde, times))


@dataclass(frozen=True, eq=False)
class FittedSolver(BoundSolver):
    """A solver fitted to one model, for its process and its number of calls: an ordinary table. `str` says what the fit was worth.

    Attributes:
        form: the coefficients.
        process: see `BoundSolver`.
        improved: the fit is better than the best training-free solver on the held-out starts; where it is not, `form` is that solver.
        error: rms distance per coordinate to the teacher on the held-out starts. They chose the times: over starts never seen the median is
            about the same, but the rms, ruled by a start in a hundred that ends in another mode, can be several times larger.
        median: the median of that distance.
        baseline: name, rms and median of the best training-free solver on the same starts.
        settings: what the fit was asked for and what it took: event, trajectories, seed, teacher steps and discrepancy, ridge.
        model: `fingerprint` of the model.
    """

    form: Multistep
    process: Tensor
    improved: bool
    error: float
    median: float
    baseline: tuple[str, float, float]
    settings: dict[str, Any]
    model: str

    @property
    def grid(self) -> Tensor:  # type: ignore[override]
        """The fitted times."""
        return self.form.times

    @property
    def nfe(self) -> int:
        """Network calls per sample."""
        return len(self.form.a)

    def table(self, sde: SDE) -> Tableau:
        return self.form.table(sde)

    def check(self, model: Model) -> None:
        """Warn if the solver was fitted to another model."""
        here = fingerprint(model)
        if here != self.model:
            warnings.warn(
                f"this solver was fitted to the model {self.model}, and samples the model {here}", UserWarning, stacklevel=3
            )

    def __str__(self) -> str:
        name, rms, median = self.baseline
        fitted = f"rms {self.error:.3g}, median {self.median:.3g} on held-out starts"
        if self.improved:
            return f"fitted solver of {self.nfe} calls: {fitted}; {name}: {rms:.3g}, {median:.3g}"
        return f"{name} with {self.nfe} calls, which the fit did not improve on: {fitted}"

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whose metadata are JSON. `load` gives the same solver, to the bit."""
        from safetensors.torch import save_file

        meta = {
            "improved": self.improved, "error": self.error, "median": self.median, "baseline": self.baseline,
            "settings": self.settings, "model": self.model, "nfe": self.nfe,
        }  # fmt: skip
        tensors = {"times": self.form.times, "a": self.form.a, "b": self.form.b, "process": self.process}
        save_file({name: t.contiguous() for name, t in tensors.items()}, str(path), {FORMAT: json.dumps(meta)})


FORMAT = "scoresde fitted solver 1"


def load(path: str | Path) -> FittedSolver:
    """The solver of a file that `FittedSolver.save` wrote.

    Raises:
        ValueError: the file holds none.
        FileNotFoundError: there is no file.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} holds no fitted solver: {error}") from None
    if meta is None:
        raise ValueError(f"{path} holds no fitted solver of this version of scoresde")
    form = Multistep(tensors["times"], tensors["a"], tensors["b"])
    name, rms, median = meta["baseline"]
    return FittedSolver(
        form,
        tensors["process"],
        meta["improved"],
        meta["error"],
        meta["median"],
        (name, rms, median),
        meta["settings"],
        meta["model"],
    )


def fingerprint(model: Model) -> str:
    """What a model is recognised by: the shapes of its parameters with four values of each, hashed; without parameters its class alone."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    digest = hashlib.sha256(type(model).__name__.encode() if not parameters else b"")
    for p in parameters:
        # Three digits survive another device and half precision.
        values = ",".join(f"{v:.2e}" for v in p.detach().flatten()[:4].float().tolist())
        digest.update(f"{tuple(p.shape)}:{values};".encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def fit(
    model: Model,
    nfe: int = 8,
    *,
    shape: Sequence[int],
    trajectories: int = 256,
    cond: Cond | None = None,
    seed: int = 0,
    progress: bool = True,
    feature_map: FeatureMap | None = None,
    teacher_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
) -> FittedSolver:
    """Fit a solver of `nfe` calls to `model`; the module's docstring says how.

    Half of the starts are regressed on, half choose the start from the portfolio of `select` (a grid and the theory of its best solver), the
    ridge and the times. For 8 calls that is some 600 calls a start in all, half of them for the times.
    Memory: 2 S + 2 nfe copies of all states, S the steps of the teacher.

    Args:
        model: anything with a data prediction: a network, a guided one, an exact score.
        nfe: network calls per sample.
        shape: the event, without the batch.
        trajectories: number of starts.
        cond: reaches the network untouched; a tensor whose first dimension is `trajectories` has one row a start.
        seed: of the starts.
        progress: show a progress bar.
        feature_map: a linear map of states `(B, *event)`; the regression compares what it returns, in place of the states themselves.
        teacher_steps: S; by default as many as needed, see `teach`.
        t_end: time of the teacher's last network call, by default `model.sde.t_min`; a model that is exact below it can go lower.
        batch_size: samples that the network sees at once.

    Returns:
        A solver for `sample`, never worse on the held-out starts than the winner of the pilot.

    Raises:
        ValueError: `nfe` below 2 or fewer than 8 trajectories.
    """
    require(nfe=(nfe, 2), trajectories=(trajectories, 8))
    cond = cond or {}
    teacher = teach(
        model, starts(model, shape, trajectories, seed, "fit"), cond, steps=teacher_steps, t_end=t_end, batch_size=batch_size
    )
    problem = _Problem(model, teacher, cond, trajectories // 2, batch_size, feature_map)
    with _counter(progress) as tick:
        ranking = rank(model, nfe, teacher, min(32, trajectories), cond, batch_size)
        best = ranking[0]
        free = solve(model, best.solver.tableau(model.sde, best.grid), teacher.states[0], cond, batch_size)
        entry, found = _start(problem, ranking, problem.weights(free), tick)
        found = _best_ridge(problem, entry.solver, found, tick)
        found = _search(problem, entry.solver, found, tick)
        found = _best_ridge(problem, entry.solver, found, tick)
    improved = found.score < (1 - LEAST_GAIN) * problem.score(free)
    held_out = slice(problem.fitting, None)
    rms, median = summary(distance(free[held_out], teacher.x[held_out]))
    error, middle = summary(distance(found.x[held_out], teacher.x[held_out])) if improved else (rms, median)
    form = found.form if improved else multistep(best.solver.tableau(model.sde, best.grid))
    settings = {
        "event": list(shape), "trajectories": trajectories, "seed": seed, "teacher_steps": teacher.steps,
        "discrepancy": teacher.discrepancy, "theory": entry.name, "ridge": found.ridge,
    }  # fmt: skip
    return FittedSolver(form, scales(model.sde), improved, error, middle, (best.name, rms, median), settings, fingerprint(model))


def _start(problem: _Problem, ranking: Sequence[Ranked], weights: Tensor, tick: Callable[[], object]) -> tuple[Ranked, _Fit]:
    """The best fit at the grids of the portfolio, each with the best of its solvers for theory."""
    fits, grids = list[tuple[Ranked, _Fit]](), list[Tensor]()
    for entry in ranking:
        if not any(torch.allclose(entry.grid, grid, rtol=1e-3) for grid in grids):
            grids.append(entry.grid)
            theory = _theory(problem.model.sde, entry.solver, entry.grid)
            fits.append((entry, _regress(problem, theory, weights, RIDGES[1])))
            tick()
    return min(fits, key=lambda pair: pair[1].score)


def _best_ridge(problem: _Problem, solver: Solver, fit: _Fit, tick: Callable[[], object]) -> _Fit:
    """The fit at the same times with the ridge that is best on the held-out starts."""
    theory = _theory(problem.model.sde, solver, fit.form.times)
    for ridge in RIDGES:
        fit = min(fit, _regress(problem, theory, fit.weights, ridge), key=lambda f: f.score)
        tick()
    return fit


@contextmanager
def _counter(show: bool) -> Iterator[Callable[[], object]]:
    """What to call after every regression; their number is not known beforehand."""
    if not show:
        yield lambda: None
        return
    from tqdm.auto import tqdm

    with tqdm(unit="fit") as bar:
        yield bar.update
