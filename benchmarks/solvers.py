"""Error against network calls for our solvers and those of diffusers, k-diffusion and azula.

    python benchmarks/solvers.py [--noises 256] [--network runs/demo ...] [--only exact|networks|laws|processes] [--out benchmarks/results]

Deterministic solvers start from the same noises and are compared, sample by sample, with the exact flow: on targets with exact scores 3,000
steps of order 4 in float64, down to t = 1e-7; for a trained network its own solve in 300 steps. The error is the rms, the median and the 95th
percentile over noises of the endpoint's distance per coordinate. A few samples that change mode dominate the rms, so it is never read alone.

Stochastic solvers have no such pairing: their samples are compared with samples of the data by sliced Wasserstein and energy distance, beside
the distance of two sets of data.

Writes solvers.json; `python benchmarks/pages.py` makes the pages and the picture from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import torch
from targets import TARGETS, exact_flow
from torch import Tensor

import scoresde as ss
from scoresde import analytic, grids
from scoresde.sampling import plan
from scoresde.train.experiment import Experiment

NFE = (3, 4, 5, 6, 8, 10, 15, 20)
LAW_NFE = (5, 10, 20, 50)
ODE = [
    *("ddim", "heun", "dpm2", "dpm3", "dpm2m", "dpm3m", "dpm++2s", "dpm++2m", "dpm++3m", "unipc2", "unipc3"),
    *("deis2", "deis3", "rho-deis2", "rho-deis3", "ipndm2", "ipndm3", "ipndm4", "plms"),
    *("vab2", "vab3", "vab4", "circle-vab2", "circle-vab3"),
]
SDE = [
    *(
        "ancestral",
        "ancestral-posterior",
        "euler-maruyama",
        "reverse-diffusion",
        "sde-dpm++1",
        "sde-dpm++2m",
        "sde-dpm++3m",
        "sa-solver",
    ),
    *("seeds2", "seeds3", "dpm2-ancestral", "dpm++2s-ancestral", "er-sde1", "er-sde2", "er-sde3", "edm", "restart"),
]
GRIDS: dict[str, grids.Grid] = {
    **{name: grids.get(name) for name in ("uniform", "half_log_snr", "karras", "quadratic", "cubic", "tangent", "beta")},
    "power 2.5": partial(grids.power, power=2.5),
    "trailing 1": partial(grids.trailing, power=1.0),
    "trailing": grids.trailing,
    "trailing 2.5": partial(grids.trailing, power=2.5),
    "trailing 3": partial(grids.trailing, power=3.0),
    "trailing 4": partial(grids.trailing, power=4.0),
}
NETWORK_GRIDS = (
    "uniform",
    "half_log_snr",
    "quadratic",
    "power 2.5",
    "cubic",
    "trailing 1",
    "trailing",
    "trailing 2.5",
    "trailing 3",
)
PROCESSES: dict[str, ss.SDE] = {
    "VP, linear chain": ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "VP, cosine chain": ss.VPSDE.cosine(),
    "sub-VP": ss.SubVPSDE(),
    "VE": ss.VESDE(),
    "EDM": ss.EDM(),
    "rectified flow": ss.RectifiedFlow(),
}
Results = dict[str, dict[int, dict[str, float]]]


def statistics(x: Tensor, exact: Tensor) -> dict[str, float]:
    """rms, median and 95th percentile of the distance per coordinate."""
    distance = (x - exact).detach().double().flatten(1).square().mean(1).sqrt()
    values = {"rms": distance.square().mean().sqrt(), "median": distance.median(), "p95": distance.quantile(0.95)}
    return {name: float(f"{float(value):.4g}") for name, value in values.items()}


def ours(model: ss.Model, z: Tensor, exact: Tensor, names: tuple[str, ...]) -> Results:
    """Every deterministic solver on the grids of these names, and the default."""
    results: Results = {}
    for name in ODE:
        for grid in names:
            for nfe in NFE:
                if plan(model.sde, name, nfe=nfe, grid=GRIDS[grid]).nfe >= nfe - 2:
                    x = ss.sample(model, z.shape, name, nfe=nfe, grid=GRIDS[grid], z=z)
                    results.setdefault(f"{name} {grid}", {})[nfe] = statistics(x, exact)
    for nfe in NFE:
        results.setdefault("default", {})[nfe] = statistics(ss.sample(model, z.shape, nfe=nfe, z=z), exact)
    return results


def theirs(model: ss.Model, z: Tensor, exact: Tensor) -> Results:
    """Every deterministic configuration of the peers; one call over the budget is let pass, and a budget that breaks it is left out."""
    results: Results = {}
    for name, run in peers.deterministic().items():
        for nfe in NFE:
            try:
                x, calls = run(model, z, nfe)
            except (IndexError, AssertionError) as error:  # diffusers, where two of its rounded times coincide
                print(f"{name} fails at {nfe} calls: {error!r}")
                continue
            if calls <= nfe + 1 and bool(x.isfinite().all()):
                results.setdefault(name, {})[nfe] = {**statistics(x, exact), "calls": calls}
    return results


def law(x: Tensor, y: Tensor, directions: Tensor) -> dict[str, float]:
    """Sliced W_2 over the unit vectors `directions` and the energy distance, between equally many samples."""
    x, y = x.detach().float(), y.detach().float()
    sliced = ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt()
    n = len(x)
    within = sum(torch.cdist(a, a).sum() / (n * (n - 1)) for a in (x, y))
    energy = 2 * torch.cdist(x, y).mean() - within
    return {"sliced_w2": float(f"{float(sliced):.4g}"), "energy": float(f"{float(energy):.4g}")}


def laws(mixture: analytic.GaussianMixture, features: int, n: int) -> Results:
    """Stochastic solvers, and the best deterministic rule, against data; "data" is another sample of the data."""
    sde = PROCESSES["VP, linear chain"]
    model = mixture.model(sde)
    generator = torch.Generator().manual_seed(3)
    data, other = (mixture.sample(n, generator=generator).double() for _ in range(2))
    directions = torch.nn.functional.normalize(torch.randn(features, 256, generator=generator), dim=0)
    z = torch.randn(n, features, dtype=torch.float64, generator=generator)
    floor = law(other, data, directions)
    results: Results = {"data": dict.fromkeys(LAW_NFE, floor)}
    runs: dict[str, Callable[[int], Tensor]] = {
        f"{name} {grid}": lambda nfe, name=name, grid=grid: ss.sample(
            model, z.shape, name, nfe=nfe, grid=GRIDS[grid], z=z, generator=torch.Generator().manual_seed(4)
        )
        for name in SDE
        for grid in ("half_log_snr", "karras", "trailing")
    }
    runs["default"] = lambda nfe: ss.sample(model, z.shape, nfe=nfe, z=z)
    for name, run in peers.stochastic().items():
        runs[name] = lambda nfe, run=run: run(model, z, nfe)[0]
    for name, run in runs.items():
        for nfe in LAW_NFE:
            x = run(nfe)
            if bool(x.isfinite().all()):
                results.setdefault(name, {})[nfe] = law(x, data, directions)
    return results


def processes(mixture: analytic.GaussianMixture, features: int, n: int) -> dict[str, Results]:
    """A few solvers on every process, each against the exact flow of its own."""
    results: dict[str, Results] = {}
    unit = torch.randn(n, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for name, sde in PROCESSES.items():
        model = mixture.model(sde)
        z = unit * sde.prior_std
        exact = exact_flow(model, z, 3000)
        for solver in ("default", "vab3", "dpm++2m", "heun", "ddim"):
            for nfe in NFE:
                x = ss.sample(model, z.shape, None if solver == "default" else solver, nfe=nfe, z=z)
                results.setdefault(name, {}).setdefault(solver, {})[nfe] = statistics(x, exact)
    return results


def network(run: Path, n: int) -> dict[str, Results]:
    """A trained network against its own fine solve."""
    experiment = Experiment.read(run)
    model = experiment.load_model(run, torch.device("cpu")).requires_grad_(False)
    z = torch.randn(n, *experiment.event, generator=torch.Generator().manual_seed(1))
    exact = exact_flow(model, z, 300)
    return {"ours": ours(model, z, exact, NETWORK_GRIDS), "peers": theirs(model, z, exact)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--noises", type=int, default=256, help="starts on the exact targets")
    parser.add_argument("--network", nargs="*", default=[], help="training runs, each as FOLDER or FOLDER=NUMBER of starts")
    parser.add_argument("--only", choices=("exact", "networks", "laws", "processes"), help="measure this part alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    path = options.out / "solvers.json"
    results: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}
    wanted = {options.only} if options.only else {"exact", "networks", "laws", "processes"}
    for name, (make, features) in TARGETS.items():
        mixture = make()
        if "exact" in wanted:
            model = mixture.model(PROCESSES["VP, linear chain"])
            z = torch.randn(options.noises, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            exact = exact_flow(model, z, 3000)
            measured = {"ours": ours(model, z, exact, tuple(GRIDS)), "peers": theirs(model, z, exact)}
            results.setdefault("exact", {})[name] = measured
        if "laws" in wanted:
            results.setdefault("laws", {})[name] = laws(mixture, features, 4 * options.noises)
        if "processes" in wanted:
            results.setdefault("processes", {})[name] = processes(mixture, features, options.noises)
        print(f"{name}: done", flush=True)
    for entry in options.network if "networks" in wanted else []:
        folder, _, number = entry.partition("=")
        results.setdefault("networks", {})[Path(folder).name] = network(Path(folder), int(number or options.noises // 4))
        print(f"{folder}: done", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
