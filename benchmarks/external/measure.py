"""Errors on networks that others trained: our rules, `select`, `fit` and the peers, at 3 to 20 network calls.

    SCORESDE_EXTERNAL=FOLDER python benchmarks/external/measure.py [NETWORK ...] [--starts 32] [--fit 5 8 10] [--out runs/external]

All start from the same states and are compared, sample by sample, with a fine solve: UniPC of order 2 in --fine steps uniform in lambda down to
t_min, states and arithmetic of the solver in float64, the network in its own precision. Its own error is stated: the rms distance to half the
steps. Writes the errors of all samples to OUT/NETWORK.npz, one array of `(starts,)` for each "method|calls", as soon as they are known; a
second run adds what is missing. `summary.py` makes tables of them. A network is a name of `catalogue.MODELS`, a mixture such as
"mixture:ring:linear" (targets of `targets.py`; linear, cosine, flow or edm), or the folder of a training run.

On two cores an image network takes about 15 minutes, and one of the plane two.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from targets import TARGETS, exact_flow

import scoresde as ss
from external import flows
from external.catalogue import MODELS
from scoresde import grids, solvers
from scoresde.train.experiment import Experiment

NFE = (3, 4, 5, 6, 8, 10, 15, 20)
PROCESSES: dict[str, Callable[[], ss.SDE]] = {
    "linear": lambda: ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "cosine": ss.VPSDE.cosine,
    "flow": ss.RectifiedFlow,
    "edm": ss.EDM,
}
GRIDS: dict[str, grids.Grid] = {
    "flow .5 1.25": partial(grids.flow, shift=0.5, power=1.25),
    "flow 1 1": grids.flow,
    "flow 1 3": partial(grids.flow, power=3.0),
    "half_log_snr": grids.half_log_snr,
    **{f"trailing {power:g}": partial(grids.trailing, power=power) for power in (1.0, 1.5, 2.0, 2.5)},
}


def late(rule: grids.Grid) -> grids.Grid:
    """The rule from sigma/alpha = max(10, 5/2 N) on, for N calls."""
    return lambda sde, steps: grids.late(sde, steps, rule=rule, ratio=max(10.0, 2.5 * (steps - 1)))


# What a default could be: a solver on a grid. "late" is the same with a late first call.
RULES: dict[str, tuple[ss.Solver, grids.Grid]] = {
    f"{solver} {grid}": (solvers.get(solver), GRIDS[grid])
    for solver, names in {
        "unipc2": ("flow .5 1.25", "flow 1 1", "flow 1 3", "trailing 1", "trailing 2", "half_log_snr"),
        "unipc3": ("flow .5 1.25", "trailing 2"),
        "dpm++2m": ("flow 1 1", "trailing 1", "half_log_snr"),
        "circle-vab2": ("flow .5 1.25",),
        "circle-vab3": ("trailing 2",),
        "vab3": ("trailing 2",),
        "ipndm2": ("trailing 1", "trailing 1.5", "trailing 2"),
        "ipndm3": ("trailing 1", "trailing 2", "trailing 2.5"),
        "ddim": ("flow 1 1", "trailing 1"),
    }.items()
    for grid in names
} | {
    f"late {solver} {grid}": (solvers.LateFirstCall(solvers.get(solver)), late(GRIDS[grid]))
    for solver, names in {
        "ipndm3": ("trailing 1", "trailing 2", "trailing 2.5"),
        "ipndm2": ("trailing 1", "trailing 2"),
        "unipc2": ("trailing 1", "trailing 2", "flow .5 1.25"),
    }.items()
    for grid in names
}


def load(name: str) -> tuple[ss.Model, tuple[int, ...]]:
    """The model and its event."""
    if name in MODELS:
        return MODELS[name].make(), MODELS[name].event
    if name.startswith("mixture:"):
        _, target, process = name.split(":")
        make, features = TARGETS[target]
        return make().model(PROCESSES[process]()), (features,)
    experiment = Experiment.read(Path(name))
    return experiment.load_model(Path(name), torch.device("cpu")).requires_grad_(False), experiment.event


def fine(model: ss.Model, z: Tensor, steps: int) -> tuple[Tensor, float]:
    """The endpoints, and their rms distance to those of half the steps."""
    if not isinstance(model, ss.ScoreModel):
        x = exact_flow(model, z, 3000)
        return x.double(), float((x - exact_flow(model, z, 1500)).square().mean().sqrt())

    def solve(steps: int) -> Tensor:
        end = model.sde.t_min
        x = ss.sample(model, z.shape, "unipc2", grid=grids.half_log_snr(model.sde, steps, t_end=end), z=z.double())
        return model.data(x, end).double()

    x = solve(steps)
    return x, float((x - solve(steps // 2)).square().mean().sqrt())


class Measured:
    """Errors of all samples by "method|calls", kept in a file."""

    def __init__(self, path: Path, z: Tensor) -> None:
        self.path, self.z = path, z
        path.parent.mkdir(parents=True, exist_ok=True)
        self.arrays: dict[str, np.ndarray] = dict(np.load(path)) if path.exists() else {}

    def write(self) -> None:
        np.savez(self.path, **self.arrays)

    def add(self, method: str, calls: int, run: Callable[[], Tensor]) -> None:
        """The distance per coordinate of what `run` gives, unless it is there; a method that cannot make these calls is left out."""
        key = f"{method}|{calls}"
        if key in self.arrays:
            return
        try:
            x = run()
        except (ValueError, IndexError, AssertionError, FloatingPointError):
            return
        reference = torch.from_numpy(self.arrays["reference"])
        self.arrays[key] = (x.double() - reference).flatten(1).square().mean(1).sqrt().numpy()


def peer(run: Callable, model: ss.Model, z: Tensor, calls: int) -> Tensor:
    """The samples of a peer, which may take one call more."""
    x, made = run(model, z, calls)
    if made > calls + 1 or not bool(x.isfinite().all()):
        raise ValueError(f"{made} calls, largest {float(x.abs().max()):g}")
    return x


def fitted(model: ss.Model, calls: int, z: Tensor, path: Path) -> Tensor:
    """The samples of a fit, which is kept beside the errors, as "-fit-CALLS.safetensors"."""
    solver = solvers.fit(model, calls, shape=z.shape[1:], progress=False)
    solver.save(path.with_name(f"{path.stem}-fit-{calls}.safetensors"))
    return ss.sample(model, z.shape, solver, z=z)


@torch.no_grad()
def measure(name: str, starts: int, steps: int, fits: list[int], out: Path) -> None:
    """Add what is missing to the network's file."""
    model, event = load(name)
    dtype = torch.float32 if isinstance(model, ss.ScoreModel) else torch.float64
    z = torch.randn(starts, *event, dtype=dtype, generator=torch.Generator().manual_seed(1)) * model.sde.prior_std
    measured, started = Measured(out / f"{name.replace('/', '_').replace(':', '_')}.npz", z), time.time()
    if "reference" not in measured.arrays:
        x, error = fine(model, z, steps)
        measured.arrays |= {"reference": x.numpy(), "reference_error": np.array(error)}
        measured.write()
    print(f"{name}: reference off by {float(measured.arrays['reference_error']):.2g}, {time.time() - started:.0f} s", flush=True)
    for calls in NFE:
        measured.add("default", calls, lambda calls=calls: ss.sample(model, z.shape, nfe=calls, z=z))
        for rule, (solver, grid) in RULES.items():
            measured.add(
                rule,
                calls,
                lambda calls=calls, solver=solver, grid=grid: ss.sample(model, z.shape, solver, nfe=calls, grid=grid, z=z),
            )
    measured.write()
    print(f"{name}: our rules, {time.time() - started:.0f} s", flush=True)
    for calls in NFE:
        measured.add("select", calls, lambda calls=calls: ss.sample(model, z.shape, solvers.select(model, calls, event), z=z))
    measured.write()
    print(f"{name}: select, {time.time() - started:.0f} s", flush=True)
    for peer_name, run in flows.deterministic(model.sde).items():
        for calls in NFE:
            measured.add(peer_name, calls, lambda calls=calls, run=run: peer(run, model, z, calls))
        measured.write()
    print(f"{name}: peers, {time.time() - started:.0f} s", flush=True)
    for calls in fits:
        measured.add("fit", calls, lambda calls=calls: fitted(model, calls, z, measured.path))
        measured.write()
        print(f"{name}: fit at {calls}, {time.time() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(MODELS))
    parser.add_argument("--starts", type=int, default=32)
    parser.add_argument("--fine", type=int, default=400, help="steps of the fine solve")
    parser.add_argument("--fit", type=int, nargs="*", default=[], help="budgets at which a solver is fitted too")
    parser.add_argument("--out", type=Path, default=Path("runs/external"))
    options = parser.parse_args()
    for name in options.networks:
        measure(name, options.starts, options.fine, options.fit, options.out)


if __name__ == "__main__":
    main()
