"""The audit: every property of one sampler, with a verdict for each."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import accuracy, behaviour
from .accuracy import INTERVAL, SHORT, SMOOTH_AND_NARROW, STEPS
from .findings import Finding, guarded
from .levels import Levels
from .named import sampler_of
from .probe import Coefficients, count, probe
from .sampler import Sampler

PROPERTIES = {
    "calls": "network calls in a step",
    "linear": "a table of coefficients, read by probing",
    "order conditions": "order of the coefficients, by Butcher's conditions over a whole run",
    "order": "measured order on a fixed interval, data with wide modes",
    "narrow order": "measured order on a fixed interval, data with narrow modes",
    "point mass": "the level that the network is told is that of the state, on data of one point",
    "gaussian": "the law on data N(0, 0.3^2) at 10 steps",
    "bias": "error of the law on data N(0.7, 0.3^2) at 1000 steps",
    "noise left": "noise at the end, on data of one point",
    "seeds": "the result is a function of the seed",
    "batch": "a sample does not depend on its batch",
    "global state": "the global random state is left alone",
    "inputs": "the caller's tensors are not written over",
    "steps": "1 and 2 steps run and are finite",
    "precision": "float32, bfloat16 and float16",
}


@dataclass(frozen=True)
class Audit:
    """The findings about one sampler.

    Attributes:
        sampler: its name.
        claimed: the order that it claims, None where it claims none.
        stochastic: whether noise reaches the result.
        findings: by the name of the property, a key of `PROPERTIES`.
    """

    sampler: str
    claimed: int | None
    stochastic: bool
    findings: dict[str, Finding]

    @property
    def broken(self) -> list[str]:
        """The properties that do not hold."""
        return [name for name, finding in self.findings.items() if finding.verdict == "broken"]

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Network calls and errors of the measurement of the order, for a work-precision plot; empty where there was none."""
        if not {"calls", "order"} <= self.findings.keys():
            return []
        calls, order = (self.findings[name].numbers for name in ("calls", "order"))
        per_step, start = calls.get("calls a step", 0.0), calls.get("at 8 steps", 0.0)
        errors = {int(name.rsplit(" ", 1)[1]): e for name, e in order.items() if name.startswith("error at")}
        return [(round(start + per_step * (n - 8)), e) for n, e in errors.items() if e > 0]

    def __repr__(self) -> str:
        return f"Audit({self.sampler!r}, broken={self.broken})"

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold of it; an infinite order is null."""
        return {
            "sampler": self.sampler,
            "claimed": self.claimed,
            "stochastic": self.stochastic,
            "findings": {
                name: {
                    "verdict": f.verdict,
                    "text": f.text,
                    "numbers": {k: v if math.isfinite(v) else None for k, v in f.numbers.items()},
                }
                for name, f in self.findings.items()
            },
        }

    def markdown(self) -> str:
        """A table with a row for each property."""
        rows = [f"| {name} | {f.verdict} | {f.text} |" for name, f in self.findings.items()]
        claim = "no order claimed" if self.claimed is None else f"claims order {self.claimed}"
        kind = "draws noise" if self.stochastic else "deterministic"
        return "\n".join(
            [f"# {self.sampler}", "", f"{kind}, {claim}", "", "| property | verdict | measured |", "|---|---|---|", *rows, ""]
        )

    def save(self, path: str) -> None:
        """Write the JSON."""
        with open(path, "w") as file:
            json.dump(self.as_json(), file, indent=2)


def run(target: Any, **claims: Any) -> Audit:
    """Audit a sampler.

    Args:
        target: a `Sampler`; or a name, a file, a class, an object or a function that `sampler_of` reads.
        **claims: what `sampler_of` takes besides: `order`, `calls_per_step` and options of the sampler.

    Raises:
        TypeError, ValueError: `target` is no sampler.
    """
    sampler = target if isinstance(target, Sampler) else sampler_of(target, **claims)
    with _quiet():
        return Audit(sampler.name, sampler.order, *_findings(sampler))


def _findings(sampler: Sampler) -> tuple[bool, dict[str, Finding]]:
    found = {
        "calls": guarded("calls", lambda: behaviour.calls(sampler)),
        "linear": guarded("linear", lambda: behaviour.linear(sampler)),
    }
    is_linear = found["linear"].verdict == "holds"
    runs, stochastic = _coefficients(sampler, is_linear)
    free = sampler.own_levels is None
    if runs and free and not stochastic:
        short = _try_probes(sampler, SHORT)
        found["order conditions"] = guarded("order conditions", lambda: accuracy.order_conditions(sampler, short))
    if free and not sampler.adaptive:
        for name, target in SMOOTH_AND_NARROW.items():
            found[name] = guarded(name, partial(accuracy.order_measured, sampler, target, name, stochastic, runs))
    if runs:
        found["point mass"] = guarded("point mass", lambda: accuracy.levels_told(runs))
        found["gaussian"] = guarded("gaussian", lambda: accuracy.gaussian(runs))
    if free:
        found["bias"] = guarded("bias", lambda: accuracy.bias(sampler, stochastic or not is_linear))
        found["steps"] = guarded("steps", lambda: behaviour.few_steps(sampler))
    for name, measure in {
        "noise left": lambda: accuracy.noise_left(sampler),
        "seeds": lambda: behaviour.seeds(sampler, stochastic),
        "batch": lambda: behaviour.batch(sampler),
        "global state": lambda: behaviour.global_state(sampler, stochastic),
        "inputs": lambda: behaviour.inputs(sampler),
        "precision": lambda: behaviour.precision(sampler),
    }.items():
        found[name] = guarded(name, measure)
    return stochastic, {name: found[name] for name in PROPERTIES if name in found}


def _coefficients(sampler: Sampler, is_linear: bool) -> tuple[dict[int, Coefficients], bool]:
    """The coefficients over the interval, where there are any, and whether noise reaches a result."""
    if not is_linear:
        return {}, _draws(sampler)
    if sampler.own_levels is not None:
        run = probe(sampler, accuracy.sampler_levels(sampler), len(sampler.own_levels) - 1)
        return {run.calls: run}, run.stochastic
    runs = _try_probes(sampler, INTERVAL, STEPS[:2])
    stochastic = any(run.stochastic for run in runs.values())
    # A weak order is read off the coefficients, and needs more of them.
    return runs | (_try_probes(sampler, INTERVAL, STEPS[2:]) if stochastic else {}), stochastic


def _draws(sampler: Sampler) -> bool:
    """Whether a run draws noise; a run that fails does not."""
    try:
        return count(sampler, INTERVAL, STEPS[0])[1] > 0
    except Exception:
        return False


def _try_probes(sampler: Sampler, levels: Levels, steps_of_runs: tuple[int, ...] = STEPS) -> dict[int, Coefficients]:
    """Coefficients by steps, of those numbers of steps at which there are any."""
    runs = dict[int, Coefficients]()
    for steps in steps_of_runs:
        try:
            runs[steps] = probe(sampler, levels, steps)
        except Exception:  # noqa: PERF203
            continue
    return runs


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of hosts are about other things, and torch's global random state is as before."""
    with warnings.catch_warnings(), torch.random.fork_rng([]):
        warnings.simplefilter("ignore")
        yield
