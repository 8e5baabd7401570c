"""Solvers fitted to a model against the best that is not, ours and the peers', on starts that no fit has seen.

    python benchmarks/fitted.py [--trajectories 256] [--noises 256] [--no-peers] [--network runs/demo ...] [--out benchmarks/results]

The targets are those of solvers.py and two more. For every number of network calls: `solvers.fit`, without and with refinement;
`solvers.select`, chosen by a pilot as a user would; the best entry of its portfolio and the best configuration of diffusers, k-diffusion and
azula, these two chosen in hindsight on the very starts that are reported, for the rms and for the median alone. Errors as in solvers.py. Then
the errors of fits to more and fewer trajectories, and the cascades: how often a bound holds, and what a tolerance costs, beside the fewest
calls of a single solver that brings as many samples below it. Writes fitted.json and prints the tables; `pages.py` makes docs/fitted.md of it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path

import peers
import torch
from solvers import PROCESSES, statistics
from tabulate import tabulate
from targets import TARGETS, anisotropic, exact_flow

import scoresde as ss
from scoresde import solvers
from scoresde.cli.report import save_rows
from scoresde.train.experiment import Experiment
from scoresde.tuning.reference import distance, solve_reference
from scoresde.tuning.selection import candidates

NFE = (4, 5, 6, 8, 10, 12, 15)
MORE = {
    "anisotropic 16": (partial(anisotropic, 40, 16, 0.5, 1), 16),
    "anisotropic 128": (partial(anisotropic, 20, 128, 0.7, 2), 128),
}
TOLERANCES = (0.1, 0.03, 0.01)
TRAJECTORIES = (32, 64, 128, 256, 512)
ROUNDS = 6
CALIBRATIONS = 4
PICTURED = 5  # calls
DOCS = Path(__file__).parent.parent / "docs"
Errors = dict[str, float]


def least(results: list[Errors]) -> Errors:
    """The least of each statistic alone."""
    return {name: min(r[name] for r in results) for name in results[0]}


def of_peers(model: ss.Model, z: torch.Tensor, exact: torch.Tensor, nfe: int) -> list[Errors]:
    """Every deterministic configuration that keeps to the budget but for one call."""
    results = []
    for run in peers.deterministic().values():
        try:
            x, calls = run(model, z, nfe)
        except (IndexError, AssertionError):  # diffusers, where two of its rounded times coincide
            continue
        if calls <= nfe + 1 and bool(x.isfinite().all()):
            results.append(statistics(x, exact))
    return results


def measure(
    model: ss.Model, z: torch.Tensor, exact: torch.Tensor, *, nfes: tuple[int, ...], with_peers: bool, **fit: object
) -> dict[int, dict]:
    """All contenders at every budget."""
    event, results = tuple(z.shape[1:]), {}
    for nfe in nfes:
        fits, seconds = {}, {}
        for name, rounds in (("fitted", 0), ("refined", ROUNDS)):
            began = time.perf_counter()
            fits[name] = solvers.fit(model, nfe, shape=event, progress=False, refine=rounds, **fit)
            seconds[name] = round(time.perf_counter() - began, 1)
        options = {name: fit[name] for name in ("t_end",) if name in fit}
        picked = solvers.select(model, nfe, event, **options)
        portfolio = [
            statistics(ss.sample(model, z.shape, solver, grid=grid, z=z), exact) for _, solver, grid in candidates(model.sde, nfe)
        ]
        results[nfe] = {
            **{name: statistics(ss.sample(model, z.shape, fitted, z=z), exact) for name, fitted in fits.items()},
            "selected": statistics(ss.sample(model, z.shape, picked, z=z), exact),
            "portfolio": least(portfolio),
            "default": statistics(ss.sample(model, z.shape, nfe=nfe, z=z), exact),
            "seconds": seconds,
            "selection": picked.name,
        }
        if with_peers:
            results[nfe]["peers"] = least(of_peers(model, z, exact, nfe))
    return results


def picture(model: ss.Model, fitted: ss.tuning.FittedSolver, z: torch.Tensor, exact: torch.Tensor, path: Path) -> None:
    """The same starts by a fine solve, by the fit and by what needs none, in as many calls."""
    rows = {"fine solve": exact, f"fitted, {fitted.nfe} calls": ss.sample(model, z.shape, fitted, z=z)}
    for name in (None, "unipc3", "dpm++2m", "ddim"):
        rows[f"{name or 'default'}, {fitted.nfe}"] = ss.sample(model, z.shape, name, nfe=fitted.nfe, z=z)
    save_rows(rows, path)


def by_trajectories(model: ss.Model, z: torch.Tensor, exact: torch.Tensor, nfe: int = 8) -> dict[int, Errors]:
    """The errors of fits to so many trajectories."""
    results = {}
    for count in TRAJECTORIES:
        fitted = solvers.fit(model, nfe, shape=z.shape[1:], trajectories=count, t_end=1e-6, refine=0, progress=False)
        results[count] = statistics(ss.sample(model, z.shape, fitted, z=z), exact)
    return results


def cascades(model: ss.Model, features: int, n: int) -> dict[str, dict]:
    """Coverage of every level on fresh starts, bound over error, and calls, coverage and errors of the tolerances.

    Means over some calibrations: what is promised is an average over them too. "least covered" is the worst of them.
    """
    each = [
        _cascade(solvers.calibrate(model, (features,), noises=512, seed=seed), model, features, n) for seed in range(CALIBRATIONS)
    ]
    means = {
        key: {name: sum(results[key][name] for results in each) / len(each) for name in values} for key, values in each[0].items()
    }
    for key, values in means.items():
        values["least covered"] = min(results[key]["covered"] for results in each)
    return means


def _cascade(cascade: ss.tuning.Cascade, model: ss.Model, features: int, n: int) -> dict[str, dict]:
    z = torch.randn(n, features, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = solve_reference(model, z, steps=cascade.reference_steps).x
    results: dict[str, dict] = {}
    errors = {}
    for level in cascade.levels:
        data: list[torch.Tensor] = []
        out = ss.sample(model, z.shape, level.solver, z=z, callback=lambda n, t, s, d, data=data: data.append(d))
        errors[level.nfe] = error = distance(out, x)
        bound = level.bound(data)
        results[f"{level.nfe} calls"] = {
            "calls": level.nfe,
            "covered": float((error <= bound).double().mean()),
            "bound/error": float((bound / error).median()),
        }
    for tol in TOLERANCES:
        out = ss.sample(model, z.shape, cascade, tol=tol, z=z, trajectory=True)
        error = distance(out.x, x)
        share = float((error <= tol).double().mean())
        # The 1 % allows for samples that differ in the third digit of their error.
        enough = [nfe for nfe, fixed in errors.items() if float((fixed <= tol).double().mean()) >= share - 0.01]
        results[f"tol {tol:g}"] = {
            "calls": float(out.calls.double().mean()),
            "calls of one level": min(enough, default=math.inf),
            "covered": float((error <= out.bound).double().mean()),
            "bound below tol": float((out.bound <= tol).double().mean()),
            "error below tol": share,
        }
    return results


def table(results: dict[str, dict[int, dict]]) -> str:
    """Geometric means over targets of the errors relative to the others', rms / median, and the worst of any target."""
    rows = []
    targets = list(results.values())
    for nfe in targets[0]:
        for name in ("fitted", "refined"):
            row: dict[str, object] = {"network calls": nfe, "": name}
            for other in ("selected", "portfolio", "peers"):
                ratios = [[t[nfe][name][s] / t[nfe][other][s] for t in targets if other in t[nfe]] for s in ("rms", "median")]
                if ratios[0]:
                    means = [math.exp(sum(map(math.log, values)) / len(values)) for values in ratios]
                    row[f"of {other}"] = (
                        " / ".join(f"{mean:.2f}" for mean in means) + f" (worst {max(ratios[0]):.2f} / {max(ratios[1]):.2f})"
                    )
            row["seconds"] = max(t[nfe]["seconds"][name] for t in targets)
            rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trajectories", type=int, default=256, help="starts of a fit")
    parser.add_argument("--noises", type=int, default=256, help="fresh starts")
    parser.add_argument("--nfe", type=int, nargs="*", default=NFE)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--network", nargs="*", default=[], help="training runs in place of the exact targets")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "fitted.json"
    results: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    common = {"nfes": tuple(options.nfe), "with_peers": not options.no_peers, "trajectories": options.trajectories}
    generator = torch.Generator().manual_seed(1)
    shown: dict[str, dict] = {}
    if options.network:
        for folder in map(Path, options.network):
            experiment = Experiment.read(folder)
            model = experiment.load_model(folder, torch.device("cpu")).requires_grad_(False)
            z = torch.randn(options.noises, *experiment.event, generator=generator)
            exact = exact_flow(model, z, 200)
            shown[folder.name] = measure(model, z, exact, **common)
            fitted = solvers.fit(model, PICTURED, shape=experiment.event, refine=ROUNDS, progress=False)
            picture(model, fitted, z[:12], exact[:12], DOCS / f"fitted-{folder.name}.png")
        results.setdefault("networks", {}).update(shown)
    else:
        for name, (make, features) in {**TARGETS, **MORE}.items():
            mixture = make().model(PROCESSES["VP, linear chain"])
            z = torch.randn(options.noises, features, dtype=torch.float64, generator=generator)
            shown[name] = measure(mixture, z, exact_flow(mixture, z, 1000), **common, t_end=1e-6)
            held = results.setdefault("cascades", {})[name] = cascades(mixture, features, 4 * options.noises)
            results.setdefault("exact", {})[name] = shown[name]
            results.setdefault("trajectories", {})[name] = counts = by_trajectories(mixture, z, exact_flow(mixture, z, 1000))
            print(
                f"\n{name}, 8 calls\n\n"
                + tabulate([{"trajectories": n, **e} for n, e in counts.items()], headers="keys", tablefmt="github")
            )
            path.write_text(json.dumps(results, separators=(",", ":")) + "\n")
            rows = [{"": key, **values} for key, values in held.items()]
            print(f"\n{name}\n\n" + tabulate(rows, headers="keys", tablefmt="github", floatfmt=".3g"), flush=True)
    print("\n" + table(shown))
    path.write_text(json.dumps(results, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
