"""Linear SDEs, measured: CLD against the textbook discretisations, four processes trained on digits, and a bridge against posterior samplers.

    python benchmarks/processes.py [cld digits restoration]

Every part writes its numbers into benchmarks/results/processes.json and its pictures into docs/; benchmarks/pages.py makes the tables of
docs/processes.md. `digits` trains in runs/processes/<name>, 10 minutes each on one core, or goes on from what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde as ss
from scoresde import analytic, data, inverse, networks
from scoresde.cli.report import save_rows
from scoresde.cli.report.features import Classifier, frechet_distance
from scoresde.inverse import operators
from scoresde.numerics.random import BatchNoise
from scoresde.solvers import GDDIM, EulerMaruyama
from scoresde.solvers.blocks import table
from scoresde.tableau import Row, Tableau, run
from scoresde.tableau.analysis import block_moments
from scoresde.train import Recipe, Trainer
from scoresde.train.experiment import Experiment

ROOT = Path(__file__).parent.parent
OUT = ROOT / "benchmarks" / "results" / "processes.json"
RUNS = ROOT / "runs" / "processes"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# CLD at 16 calls.


def euler(sde: ss.LinearSDE, grid: Tensor) -> Tableau:
    """Euler's method on the probability flow dz/dt = P z + (F - P) A D."""
    rows = []
    for n, (s, t) in enumerate(itertools.pairwise(grid)):
        on_state, on_data = sde.flow_rates(s[None])
        unit = torch.eye(sde.channels, dtype=torch.float64)
        rows.append(Row({n: unit - (s - t) * on_state[0]}, {n: -(s - t) * on_data[0]}))
    states = tuple(range(len(grid)))
    return Tableau(sde, tuple(grid.tolist()), tuple(rows), states, states[:-1])


def cld(calls: int = 16, starts: int = 512) -> dict[str, Any]:
    """Distance of the position to the exact flow, rms and median over starts; of Euler-Maruyama the error of the standard deviation."""
    sde, t_end = ss.CLD(), 1e-3
    laws = {
        "Gaussian": analytic.GaussianMixture(torch.tensor([[-0.3]]), torch.tensor([0.03])),
        "two modes": analytic.GaussianMixture(torch.tensor([[-1.0], [0.8]]), torch.tensor([0.02, 0.05]), torch.tensor([0.6, 0.4])),
    }
    grid = torch.linspace(1, math.sqrt(t_end), calls + 1, dtype=torch.float64) ** 2
    fine = torch.linspace(1, math.sqrt(t_end), 1025, dtype=torch.float64) ** 2
    z = sde.prior((starts, 1), generator(0), dtype=torch.float64)
    results: dict[str, Any] = {"calls": calls}
    for law, mixture in laws.items():
        model = mixture.model(sde)

        def solved(tableau: Tableau, model: ss.Model = model) -> Tensor:
            return run(tableau, model, z, BatchNoise()).x[:, 0]

        exact = solved(GDDIM(3).tableau(sde, fine))
        errors = {"Euler on the ODE": solved(euler(sde, grid)) - exact}
        errors |= {f"gddim{k}": solved(GDDIM(k).tableau(sde, grid)) - exact for k in (1, 2, 3)}
        results[law] = {
            name: {"rms": float(e.square().mean().sqrt()), "median": float(e.abs().median())} for name, e in errors.items()
        }
    spread = torch.tensor(0.03).sqrt()
    to_zero = torch.cat([grid, torch.zeros(1, dtype=torch.float64)])
    results["std"] = {
        name: float((block_moments(table(solver, sde, to_zero), torch.tensor(0.0), spread)[1][0, 0, 0].sqrt() - spread).abs() / spread)
        for name, solver in {
            "Euler-Maruyama": EulerMaruyama(), "sde-gddim1": GDDIM(1, 1.0), "sde-gddim2": GDDIM(2, 1.0), "gddim2": GDDIM(2)
        }.items()
    }  # fmt: skip
    return results


# Four processes on digits, at equal iterations.


def digits(samples: int = 1500) -> dict[str, Any]:
    """Frechet distance of a classifier's features to the training data, and how far apart two halves of the data are."""
    whole = data.load("digits")
    training, _ = whole.split(200)
    assert whole.labels is not None
    assert training.labels is not None
    classifier = Classifier.trained(training.x, training.labels)
    real = classifier.features(training.x)
    halves = real[torch.randperm(len(real), generator=generator(0))].chunk(2)
    results: dict[str, Any] = {"samples": samples, "halves": frechet_distance(*halves)}
    rows: dict[str, Tensor] = {}
    for name in ("vp", "blur", "coloured", "cld"):
        experiment = Experiment(
            "digits", held_out=200, process=name, width=32, recipe=Recipe(iterations=4000, ema=0.998, save_every=1000)
        )
        model = experiment.train(RUNS / name, torch.device("cpu")).averaged
        results[name] = {}
        for nfe in (10, 20, 50):
            for solver in (None, "gddim2", "sde-gddim2"):
                x = ss.sample(model, (samples, *training.x.shape[1:]), solver, nfe=nfe, seeds=range(samples), batch_size=500)
                results[name][f"{solver or 'default'} {nfe}"] = frechet_distance(classifier.features(x.clamp(-1, 1)), real)
                if solver == "sde-gddim2" and nfe == 50:
                    rows[name] = x[:16]
        print(name, results[name], flush=True)
    save_rows({"data": training.x[:16]} | rows, ROOT / "docs" / "processes-digits.png")
    return results


# Restoration of blurred digits.


def psnr(x: Tensor, truth: Tensor) -> float:
    """Of images in [-1, 1], in dB."""
    return 10 * math.log10(4 / float((x - truth).square().mean()))


def restoration(blur: float = 1.0, std: float = 0.1, calls: int = 20) -> dict[str, Any]:
    """Held-out digits from their blurred and noisy versions: a bridge that was trained on pairs, and posterior samplers on the VP network."""
    whole = data.load("digits")
    training, held_out = whole.split(200)
    operator = operators.blur(blur, size=5)

    def observed(x: Tensor, seed: int) -> Tensor:
        return operator(x) + std * torch.randn(x.shape, generator=generator(seed))

    assert training.labels is not None
    classifier = Classifier.trained(training.x, training.labels)
    truth, y = held_out.x, observed(held_out.x, 1)
    bridge = ss.Bridge.interpolant(0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.UNet(1, 32, (1, 2))
    model = ss.BridgeModel(network, bridge)
    recipe = Recipe(iterations=3000, ema=0.998, weighting="data", save_every=1000)
    # One fixed observation for each training image.
    folder = RUNS / "bridge"
    trainer = Trainer(model, training.x, recipe, cond={"given": observed(training.x, 0)}, folder=folder)
    restored = trainer.run()
    vp = Experiment("digits", held_out=200, process="vp", width=32, recipe=Recipe(iterations=4000, ema=0.998, save_every=1000))
    prior = vp.train(RUNS / "vp", torch.device("cpu"), progress=False).averaged
    likelihood = inverse.Gaussian(operator, std=std)
    kind: dict[str, Callable[[], Tensor]] = {
        "bridge, ddim": lambda: ss.sample(restored, y.shape, "ddim", nfe=calls, given=y, seeds=range(len(y))),
        "bridge, ancestral (I2SB)": lambda: ss.sample(
            restored, y.shape, "ancestral-posterior", nfe=calls, given=y, seeds=range(len(y))
        ),
        "bridge, unipc2": lambda: ss.sample(restored, y.shape, "unipc2", nfe=calls, given=y, seeds=range(len(y))),
        "bridge, one call": lambda: ss.sample(restored, y.shape, "ddim", nfe=1, given=y, seeds=range(len(y))),
        "posterior, DiffPIR": lambda: ss.sample(
            inverse.diffpir(prior, likelihood, 8.0), y.shape, "sde-dpm++2m", nfe=calls, y=y, seeds=range(len(y))
        ),
        "posterior, DPS, 100 steps": lambda: ss.sample(
            prior, y.shape, inverse.DPS(likelihood), steps=100, y=y, seeds=range(len(y))
        ),
        "posterior, DAPS, 100 steps": lambda: ss.sample(
            prior, y.shape, inverse.DAPS(likelihood), steps=100, y=y, seeds=range(len(y))
        ),
    }
    results: dict[str, Any] = {"calls": calls, "blur": blur, "std": std, "images": len(y)}
    rows = {"truth": truth[:14], "observed": y[:14]}
    real = classifier.features(training.x)
    results["observed"] = {"psnr": psnr(y, truth), "frechet": frechet_distance(classifier.features(y), real)}
    results["truth"] = {"psnr": math.inf, "frechet": frechet_distance(classifier.features(truth), real)}
    for name, restore in kind.items():
        x = restore().detach()
        right = classifier.probabilities(x.clamp(-1, 1)).argmax(1) == held_out.labels
        results[name] = {
            "psnr": psnr(x, truth),
            "frechet": frechet_distance(classifier.features(x.clamp(-1, 1)), real),
            "class": float(right.double().mean()),
            "residual": float((operator(x) - y).square().mean().sqrt()),
        }
        rows[name] = x[:14]
        print(name, results[name], flush=True)
    save_rows(rows, ROOT / "docs" / "processes-restoration.png")
    return results


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"cld": cld, "digits": digits, "restoration": restoration}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], default=list(PARTS), help="what to measure; everything by default"
    )
    for part in parser.parse_args().parts:
        found = PARTS[part]()
        results = json.loads(OUT.read_text()) if OUT.exists() else {}
        results[part] = found
        OUT.write_text(json.dumps(results, indent=1, default=str) + "\n")
        print(part, json.dumps(results[part], indent=1, default=str))


if __name__ == "__main__":
    main()
