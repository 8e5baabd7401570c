"""Density of a trained network: our solver against the recipe of score_sde, at equal measured error.

    python benchmarks/likelihood.py --network runs/demo [--points 16] [--out benchmarks/results]

The recipe (Song et al. 2021, arXiv 2011.13456, appendix D.2): scipy's RK45 on the host in float64 over the flattened batch with its log density
appended, one Rademacher probe, rtol = atol = 1e-5, from t = 1e-5 to 1. Ours starts at the same t with the same probes. The error of both is
against our solve of the same points in float64 at tolerance 1e-7, in nats per dimension (1e-9 changes it by 2e-5). A network that is rough in
time makes errors fall unevenly, so that ours is compared at the loosest tolerance from which on its rms error is never above theirs.
Writes likelihood.json and prints the table. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import scoresde as ss
from scoresde.train.experiment import Experiment

T_END = 1e-5
OURS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
THEIRS = (1e-3, 1e-4, 1e-5)


def score_sde(model: ss.ScoreModel, x: torch.Tensor, probe: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, int]:
    """log p(x), `(B,)`, and the network calls of the recipe."""
    import numpy as np
    from scipy.integrate import solve_ivp

    batch, flow = len(x), ss.models.ReverseSDE(model, eta=0)

    def slope(t: float, y: Any) -> Any:
        z = torch.from_numpy(y[:-batch]).reshape(x.shape).to(x.dtype).requires_grad_()
        with torch.enable_grad():
            drift = flow.drift(z, t)
            (product,) = torch.autograd.grad((drift * probe).sum(), z)
        trace = (product * probe).flatten(1).sum(1)
        return np.concatenate([drift.detach().double().flatten().numpy(), trace.double().numpy()])

    start = np.concatenate([x.double().flatten().numpy(), np.zeros(batch)])
    solution = solve_ivp(slope, (T_END, 1.0), start, method="RK45", rtol=tolerance, atol=tolerance)
    end = torch.from_numpy(solution.y[:, -1])
    return model.sde.prior_log_prob(end[:-batch].reshape(x.shape)) + end[-batch:], solution.nfev


def ours(model: ss.ScoreModel, x: torch.Tensor, seeds: range, tolerance: float) -> tuple[torch.Tensor, float]:
    """log p(x), `(B,)`, and the mean network calls a point."""
    out = ss.log_likelihood(model, x, divergence="hutchinson", seeds=seeds, t_end=T_END, rtol=tolerance, atol=tolerance)
    return out.nats.double(), float(out.nfe.double().mean())


def probes(x: torch.Tensor, seeds: range) -> torch.Tensor:
    """The signs that `log_likelihood` draws for these seeds."""
    d = x[0].numel()
    rows = [torch.randn(1, d, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) for seed in seeds]
    return torch.where(torch.stack(rows) < 0, -1.0, 1.0).reshape(x.shape).to(x.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, required=True, help="a training run")
    parser.add_argument("--points", type=int, default=16, help="held-out points")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    experiment = Experiment.read(options.network)
    model = experiment.load_model(options.network, torch.device("cpu")).requires_grad_(False)
    x = experiment.load_data()[1].x[: options.points]
    x = ss.dequantise(x, width=2 / 16, generator=torch.Generator().manual_seed(0)).x  # the digits have 17 levels
    d, seeds, probe = x[0].numel(), range(len(x)), probes(x, range(len(x)))
    reference = fine(experiment, options.network, x, probe)

    rows: list[dict[str, Any]] = []
    offset = d * float(model.sde.alpha(T_END).log())  # theirs takes x for the state z, ours for z/alpha

    def measure(name: str, tolerance: float, solve: Any, add: float) -> None:
        began = time.perf_counter()
        nats, nfe = solve()
        seconds = time.perf_counter() - began
        error = (nats + add - reference).abs() / d
        row = {"solver": name, "tolerance": tolerance, "nfe": nfe, "seconds": round(seconds, 3)}
        rows.append({**row, "rms": float(error.square().mean().sqrt()), "median": float(error.median())})

    ours(model, x[:2], range(2), 1e-2)  # warm up
    for tolerance in THEIRS:
        measure(
            "score_sde",
            tolerance,
            lambda tolerance=tolerance: score_sde(model, x * float(model.sde.alpha(T_END)), probe, tolerance),
            offset,
        )
    for tolerance in OURS:
        measure("scoresde", tolerance, lambda tolerance=tolerance: ours(model, x, seeds, tolerance), 0.0)

    print("| solver | tolerance | network calls | seconds | rms error, nats/dim | median |\n|---|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['solver']} | {row['tolerance']:g} | {row['nfe']:.0f} | {row['seconds']:.2f} | {row['rms']:.1e} | {row['median']:.1e} |"
        )
    equal = []
    for recipe in (row for row in rows if row["solver"] == "score_sde"):
        good: list[dict[str, Any]] = []
        for row in reversed([row for row in rows if row["solver"] == "scoresde"]):
            if row["rms"] > recipe["rms"]:
                break
            good.append(row)
        if good:
            calls, seconds = recipe["nfe"] / good[-1]["nfe"], recipe["seconds"] / good[-1]["seconds"]
            equal.append({"theirs": recipe["tolerance"], "ours": good[-1]["tolerance"], "fewer_calls": calls, "faster": seconds})
            print(
                f"At the error of the recipe at {recipe['tolerance']:g}: ours at {good[-1]['tolerance']:g}, {calls:.1f} times fewer calls, "
                f"{seconds:.1f} times faster."
            )
    result = {"network": options.network.name, "points": len(x), "t_end": T_END, "rows": rows, "at_equal_error": equal}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "likelihood.json").write_text(json.dumps(result, indent=1) + "\n")


def fine(experiment: Experiment, run: Path, x: torch.Tensor, probe: torch.Tensor) -> torch.Tensor:
    """log p(x) in float64 at tolerance 1e-7, with these probes."""
    from scoresde.likelihood.density import solve
    from scoresde.likelihood.flow import flows
    from scoresde.numerics.dormand_prince import StepControl
    from scoresde.numerics.jacobian import Hutchinson

    model = experiment.load_model(run, torch.device("cpu")).double().requires_grad_(False)
    x, probe = x.double(), probe.double().reshape(len(x), 1, -1)
    with torch.no_grad():
        ((flow, part),) = flows(model, x, T_END, None, {})
        return solve(flow, part, Hutchinson(probe), StepControl(1e-7, 1e-7), 1, False).nats


if __name__ == "__main__":
    main()
