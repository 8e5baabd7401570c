"""A solver fitted to one model. `regression` gives the coefficients, `search` the times and the ridge, `gauss_newton` refines all.

The interior times are searched one by one. A time moves for as long as the error on held-out starts falls. The ridge is chosen in the same way.

The solvers of Shaul et al. 2024 (arXiv 2403.01329) have the form of `multistep` too. They are trained by gradient, without held-out starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import deprecation, grids
from ..models.base import Model, require_model
from ..models.in_basis import in_basis
from ..numerics.brief import line
from ..numerics.files import prefixed, stored_entry, stored_tensor, subset
from ..numerics.inputs import as_callback, as_count
from ..numerics.keywords import explained_keywords
from ..numerics.progress import bar_or_lines
from ..sde.base import SDE
from ..sde.families import RectifiedFlow
from ..sde.fingerprint import schedule_fingerprint
from ..sde.linear import LinearSDE
from ..solvers.blocks import table
from ..solvers.tuned import State, TunedSolver, stored_process
from ..tableau.linear_multistep import LinearMultistep, multistep_of, stored_form
from ..tableau.multistep_form import Multistep
from ..tableau.tableau import Tableau
from ..tableau.tensors import from_tensors, to_tensors
from .identity import fingerprint
from .reference import MIN_STEPS, Cond, distance, solve_reference, starts
from .regression import FeatureMap, Problem
from .search import best_start, refine_once, stages
from .selection import rank, solve, summary
from .trust import against, warn_of_discrepancy, warn_of_flaw
from .unfinished import Unfinished

# The progress of a fit: its unit is about a network call a start. Before the search come so many calls for each call of the solver.
BAR, EARLY = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}", 25


# A fit whose held-out score is lower by less than this share is not taken: the training-free solver is.
MIN_GAIN = 0.01

# An rms above so many medians is that of a few starts: of a normal error of one coordinate it is 1.5 of them.
FAR = 2.0


# The attributes of a fitted solver that its file holds beside tensors, and their types in JSON.
STORED_FIELDS: dict[str, tuple[type, ...]] = {
    "improved": (bool,), "error": (float, int), "median": (float, int), "baseline": (list,), "settings": (dict,), "model": (str,),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FittedSolver(TunedSolver):
    """A solver fitted to one model, for its process and its number of calls. `str` compares it with the best training-free solver.

    Attributes:
        form: the coefficients.
        process: see `TunedSolver`.
        improved: whether the fit is better than the best training-free solver on the held-out starts. If not, `form` is that solver.
        error: the rms over the held-out starts of the distance per coordinate to the reference. On fresh starts it can be several times
            larger, as one start in a hundred ends in another mode and determines it.
        median: the median of that distance. On fresh starts it is about the same.
        baseline: name, rms and median of the best training-free solver on the same starts.
        settings: arguments and outcomes of the fit: event, trajectories, seed, steps and discrepancy of the reference ("teacher_steps",
            "discrepancy"), name of the initial solver and grid ("theory"), ridge, refine.
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
        """The times of the start and of the state after each call."""
        return self.form.grid

    def table(self, sde: SDE) -> Tableau:
        return self.form.table(sde)

    def check(self, model: Model, event: Sequence[int] | None = None) -> None:
        """Warn if the solver was fitted to another model.

        Raises:
            ValueError: the solver was fitted to samples of another shape.
        """
        fitted = self.settings.get("event")
        if event is not None and fitted is not None and tuple(event) != tuple(fitted):
            raise ValueError(f"this solver was fitted to samples of shape {tuple(fitted)}, not {tuple(event)}: fit one to them")
        here = fingerprint(model)
        if here != self.model:
            warnings.warn(
                f"fitted to another network or guidance ({self.model}, not {here}); its errors may be larger",
                UserWarning,
                stacklevel=4,
            )

    def __repr__(self) -> str:
        return line("FittedSolver", f"{self.nfe} network calls", f"rms {self.error:.3g}", f"median {self.median:.3g}")

    def __str__(self) -> str:
        name, rms, median = self.baseline
        error = against(self.error, self.settings["discrepancy"]) if "discrepancy" in self.settings else f"{self.error:.3g}"
        count = f" (n = {n - n // 2})" if (n := self.settings.get("trajectories")) else ""
        fitted = f"error on held-out starts{count}: median {self.median:.3g}, rms {error}"
        few = ". A few starts decide this rms: compare medians" if self.error > FAR * self.median else ""
        if self.improved:
            best = f"The best solver without a fit, {name}: median {median:.3g}, rms {rms:.3g}"
            return f"fitted solver of {self.nfe} calls, {fitted}{few}. {best}"
        return f"{name} with {self.nfe} calls, which the fit did not improve on, {fitted}{few}"

    def state_dict(self) -> State:
        meta = {"kind": "fitted", "nfe": self.nfe} | {name: getattr(self, name) for name in STORED_FIELDS}
        if self.form.t_start is not None:
            meta |= {"t_start": self.form.t_start, "gain": self.form.gain}
        tensors = {"times": self.form.times, "a": self.form.a, "b": self.form.b, "process": self.process}
        if isinstance(self.form, LinearMultistep):
            # With the corrections added, as one table.
            tensors |= prefixed("table", to_tensors(self.form.table(RectifiedFlow())))
        return tensors, meta

    @classmethod
    def from_state_dict(cls, state_dict: State) -> FittedSolver:
        """The inverse of `state_dict`.

        Raises:
            ValueError: an entry is missing, or is not what `state_dict` writes; names it.
        """
        tensors, meta = state_dict
        nfe = stored_entry(meta, "nfe", int)
        times = grids.check(stored_tensor(tensors, "times", nfe + 1))
        late = (
            tuple(stored_entry(meta, name, float, int) for name in ("t_start", "gain")) if {"t_start", "gain"} & meta.keys() else ()
        )
        a, b = stored_tensor(tensors, "a", nfe), stored_tensor(tensors, "b", nfe, nfe)
        form: Multistep
        if blocks := subset("table", tensors):
            form = stored_form(times, from_tensors(RectifiedFlow(), blocks))
        else:
            form = Multistep(times, a, b, *late)
        grids.check(form.all_times)
        form.table(RectifiedFlow())  # On any path: only the form of the table is checked.
        values = {name: stored_entry(meta, name, *types) for name, types in STORED_FIELDS.items()}
        name, rms, median = values["baseline"]
        return cls(form, stored_process(tensors), **values | {"baseline": (str(name), float(rms), float(median))})


@deprecation.renamed_keywords(teacher_steps="reference_steps")
@explained_keywords(
    "conditions of the network go into cond={...}",
    steps="the number of network calls is nfe=",
    event="the shape of one sample is shape=",
)
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
    refine: int = 6,
    feature_map: FeatureMap | None = None,
    reference_steps: int | None = None,
    t_end: float | None = None,
    batch_size: int = 256,
    late: bool = True,
    checkpoint: str | Path | None = None,
) -> FittedSolver:
    """Fit a solver of `nfe` calls to `model`; the module's docstring says how.

    The coefficients are regressed on half of the starts. The other half is held out and chooses the grid and the initial coefficients from the
    portfolio of `select`, the ridge and the times.

    Cost at 8 calls: about 600 network calls a start, half of them for the times, and as many again for the refinement.
    Memory: 2 S + 2 nfe copies of all states, S the steps of the reference. The refinement adds nfe^2 copies of `batch_size` states in float64.

    Warns where the reference solutions look unlike data, and where their own error is no small share of the error that is reported (`trust`).

    Args:
        model: anything with a data prediction: a network, a guided one, an exact score.
        nfe: network calls per sample.
        shape: the event, without the batch.
        trajectories: number of starts.
        cond: reaches the network untouched; a tensor whose first dimension is `trajectories` has one row a start.
        seed: of the starts.
        progress: show a progress bar.
        refine: the most rounds of joint refinement of coefficients and times. At 8 calls a round takes 270 calls a start of the fit. Rounds
            end where the held-out error no longer falls. The network must run in float32 or float64.
        feature_map: a linear map of states `(B, *event)`; the regression compares its results in place of the states themselves.
        reference_steps: S. By default the first starts decide, see `solve_reference`.
        t_end: time of the reference's last network call, by default `model.sde.t_min`; a model that is exact below it can go lower.
        batch_size: samples that the network sees at once.
        late: as in `select`.
        checkpoint: a file for the best coefficients so far, written after every stage of the search and removed at the end. A fit with the same
            arguments goes on from it; the reference is solved again. A file of another fit is left aside, with a warning.

    Returns:
        A solver for `sample`, never worse on the held-out starts than the winner of the pilot.

    Raises:
        TypeError: an argument of a wrong type; names it.
        ValueError: `nfe` below 2, fewer than 8 trajectories, or another number out of its range; names it.
    """
    nfe, trajectories = as_count("nfe", nfe, 2), as_count("trajectories", trajectories, 8)
    refine, batch_size = as_count("refine", refine, 0), as_count("batch_size", batch_size)
    feature_map = as_callback("feature_map", feature_map, 1)
    cond = cond or {}
    require_model(model, "data")
    whole, model = model, in_basis(model)
    if isinstance(model.sde, LinearSDE) and model is not whole and feature_map is not None:
        raise ValueError(f"feature_map would see coordinates in the basis of {model.sde!r}: leave it out")
    unfinished = None
    if checkpoint is not None:
        given = {
            "nfe": nfe, "event": list(shape), "trajectories": trajectories, "seed": seed, "refine": refine, "late": late, "t_end": t_end,
            "reference_steps": reference_steps, "process": schedule_fingerprint(model.sde).tolist(), "model": fingerprint(whole),
        }  # fmt: skip
        unfinished = Unfinished(Path(checkpoint), given)
    z = starts(model, shape, trajectories, seed, "fit")
    total = 1.5 * (reference_steps or MIN_STEPS) + EARLY * nfe + sum(stage.calls for stage in stages(nfe + 1, nfe, refine))
    with bar_or_lines(progress, "fit", total, bar_format=BAR) as bar:
        bar.set_postfix_str("reference solutions")
        reference = solve_reference(model, z, cond, steps=reference_steps, t_end=t_end, batch_size=batch_size)
        warn_of_flaw(reference)
        bar.update(1.5 * (reference_steps or MIN_STEPS))
        bar.set_postfix_str(f"reference solved with {reference.steps} steps; solvers without a fit")
        problem = Problem(model, reference, cond, trajectories // 2, batch_size, feature_map)
        ranking = rank(model, nfe, reference, min(32, trajectories), cond, batch_size, late)
        baseline = ranking[0]
        baseline_table = table(baseline.solver, model.sde, baseline.grid)
        baseline_x = solve(model, baseline_table, z, cond, batch_size)
        found = unfinished.found(problem, ranking) if unfinished else None
        bar.set_postfix_str(f"best of {len(ranking)} solvers without a fit: {baseline.name}")
        if unfinished and found:
            bar.write(f"{unfinished.path}: going on")
        done, initial, best = found or (0, *best_start(problem, ranking, problem.weights(baseline_x)))
        bar.update(EARLY * nfe)
        for k, stage in enumerate(stages(len(best.form.all_times), nfe, refine), 1):
            if k > done:
                bar.set_postfix_str(stage.name)
                before, best = best, stage.improve(problem, initial.solver, best)
                if stage.improve is refine_once and best is before:
                    break
                if unfinished and unfinished.can_keep(stage.name, best):
                    unfinished.keep(k, initial, best)
            bar.update(stage.calls)
        bar.update(total - bar.n)
    improved = best.score < (1 - MIN_GAIN) * problem.score(baseline_x)
    form, x = (best.form, best.x) if improved else (multistep_of(baseline_table), baseline_x)
    held_out = slice(problem.fitting, None)
    error, median = summary(distance(x[held_out], reference.x[held_out]))
    baseline_errors = summary(distance(baseline_x[held_out], reference.x[held_out]))
    warn_of_discrepancy(reference, error)
    settings = {
        "event": list(shape), "trajectories": trajectories, "seed": seed, "teacher_steps": reference.steps,
        "discrepancy": reference.discrepancy, "theory": initial.name, "ridge": best.ridge, "refine": refine,
    }  # fmt: skip
    if unfinished:
        unfinished.path.unlink(missing_ok=True)
    return FittedSolver(
        form,
        schedule_fingerprint(model.sde),
        improved,
        error,
        median,
        (baseline.name, *baseline_errors),
        settings,
        fingerprint(whole),
    )
