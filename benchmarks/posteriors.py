"""Posterior samples at few network calls: our solvers on networks that sbi trained, beside sbi's own sampler.

For three tasks of the sbi benchmark (Lueckmann et al. 2021, arXiv 2101.04653) sbi trains a score network (NPSE) and a flow (FMPE) on 10,000
simulations. From each, samplers draw 1,000 parameters for some observations. C2ST (0.5 is perfect, 1 is the worst) and MMD^2 (0 is perfect)
compare them with reference posterior samples, both as `sbi.utils.metrics` computes them. The networks are not perfect: sbi's own sampler at 500
calls shows what can be reached. Nothing is drawn again outside the prior, so that every sampler has the calls that it claims.

    pip install sbi
    SCORESDE_EXTERNAL=FOLDER python benchmarks/posteriors.py [--out benchmarks/results/sbi.json]

FOLDER/data/sbibm is the folder `sbibm/tasks` of github.com/sbi-benchmark/sbibm.
"""

from __future__ import annotations

import argparse
import bz2
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Uniform

import scoresde as ss
from scoresde.interop.sbi import PosteriorModel, posterior_model

OUT = Path(__file__).parent / "results" / "sbi.json"
CALLS = (5, 8, 10, 20)
SAMPLES = 1000
SIMULATIONS = 10_000
OBSERVATIONS = (1, 2)
# Of sbi's trainer.
EPOCHS = 40
# Names of solvers, and the grid that each takes.
SOLVERS = {
    "default": (None, None),
    "unipc3 trailing": ("unipc3", "trailing"),
    "sde-dpm++2m trailing": ("sde-dpm++2m", "trailing"),
    "er-sde3 trailing": ("er-sde3", "trailing"),
}


@dataclass(frozen=True)
class Task:
    """A prior and a simulator `theta (n, d) -> x (n, D)`."""

    prior: Distribution
    simulate: Callable[[Tensor], Tensor]


def two_moons(theta: Tensor) -> Tensor:
    angle = math.pi * (torch.rand(len(theta)) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta))
    crescent = torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)
    turned = torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)
    return crescent + turned


def gaussian_mixture(theta: Tensor) -> Tensor:
    std = torch.where(torch.rand(len(theta), 1) < 0.5, 1.0, 0.1)
    return theta + std * torch.randn_like(theta)


def gaussian_linear(theta: Tensor) -> Tensor:
    return theta + math.sqrt(0.1) * torch.randn_like(theta)


def box(bound: float, d: int) -> Distribution:
    return Independent(Uniform(-bound * torch.ones(d), bound * torch.ones(d), validate_args=False), 1)


TASKS = {
    "two_moons": Task(box(1.0, 2), two_moons),
    "gaussian_mixture": Task(box(10.0, 2), gaussian_mixture),
    "gaussian_linear": Task(MultivariateNormal(torch.zeros(10), 0.1 * torch.eye(10)), gaussian_linear),
}


def table_of(path: Path) -> Tensor:
    """The numbers of a CSV file with a header."""
    raw = bz2.decompress(path.read_bytes()) if path.suffix == ".bz2" else path.read_bytes()
    return torch.from_numpy(np.loadtxt(raw.decode().splitlines(), delimiter=",", skiprows=1, ndmin=2)).float()


def references(folder: Path, task: str, k: int) -> tuple[Tensor, Tensor]:
    """The observation `(D,)` with this number, and samples of its posterior `(n, d)`."""
    files = folder / task / "files" / f"num_observation_{k}"
    return table_of(files / "observation.csv")[0], table_of(files / "reference_posterior_samples.csv.bz2")


def train(kind: str, task: Task) -> Any:
    """sbi's own trainer after its training, with its default network."""
    from sbi.inference import FMPE, NPSE

    theta = task.prior.sample((SIMULATIONS,))
    inference = {"NPSE": NPSE, "FMPE": FMPE}[kind](prior=task.prior, show_progress_bars=False)
    inference.append_simulations(theta, task.simulate(theta))
    inference.train(max_num_epochs=EPOCHS, training_batch_size=200)
    return inference


def samplers(inference: Any, model: PosteriorModel, x: Tensor) -> Iterable[tuple[str, int | None, Any, Callable[[], Tensor]]]:
    """(name, calls, estimator, draw) of everything that is compared; None for a sampler that chooses its calls."""
    sde, ode = (inference.build_posterior(sample_with=name) for name in ("sde", "ode"))
    theirs = {"show_progress_bars": False, "reject_outside_prior": False, "x": x}
    for calls in CALLS:
        for name, (solver, grid) in SOLVERS.items():
            yield name, calls, model.estimator, partial(ours, model, solver, grid, calls)
        yield "sbi", calls, sde.vector_field_estimator, partial(sde.sample, (SAMPLES,), steps=calls + 1, **theirs)
        if hasattr(model.estimator, "sigma_min"):
            yield (
                "sbi, power law",
                calls,
                sde.vector_field_estimator,
                partial(sde.sample, (SAMPLES,), ts=power_law(model, calls), **theirs),
            )
    yield "sbi", 500, sde.vector_field_estimator, partial(sde.sample, (SAMPLES,), steps=501, **theirs)
    yield "sbi, adaptive ODE", None, ode.vector_field_estimator, partial(ode.sample, (SAMPLES,), **theirs)


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[int]]:
    """A list that holds one number for each call of a network."""
    calls: list[int] = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


def power_law(model: PosteriorModel, calls: int) -> Tensor:
    """The times of Karras et al. 2022, eq. 5, with rho = 7, as sbi's `solve_schedule="power_law"` has them."""
    e = model.estimator
    low, high = e.sigma_min ** (1 / 7), e.sigma_max ** (1 / 7)  # type: ignore[attr-defined]
    sigmas = torch.linspace(high, low, calls + 1) ** 7
    unit = (sigmas / e.sigma_min).log() / math.log(e.sigma_max / e.sigma_min)  # type: ignore[attr-defined]
    return e.t_min + (e.t_max - e.t_min) * unit


def ours(model: PosteriorModel, solver: str | None, grid: str | None, calls: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z = model.start(SAMPLES, generator)
    return model.to_parameters(ss.sample(model, z.shape, solver, nfe=calls, grid=grid, z=z, generator=generator))


def scores(samples: Tensor, reference: Tensor) -> dict[str, float]:
    from sbi.utils.metrics import c2st, unbiased_mmd_squared

    reference = reference[:SAMPLES]
    return {"c2st": float(c2st(samples, reference, seed=1)), "mmd2": float(unbiased_mmd_squared(samples, reference))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--observations", type=int, nargs="+", default=OBSERVATIONS)
    args = parser.parse_args()
    folder = Path(os.environ.get("SCORESDE_EXTERNAL", "")) / "data" / "sbibm"
    if not os.environ.get("SCORESDE_EXTERNAL") or not folder.is_dir():
        sys.exit("the environment variable SCORESDE_EXTERNAL names no folder with data/sbibm in it")
    about = {
        "sbi": version("sbi"),
        "simulations": SIMULATIONS,
        "samples": SAMPLES,
        "observations": list(args.observations),
        "epochs": EPOCHS,
    }
    results: dict[str, Any] = {}
    for name, task in TASKS.items():
        for kind in ("NPSE", "FMPE"):
            torch.manual_seed(0)
            began = time.perf_counter()
            inference = train(kind, task)
            print(f"{name} {kind}: trained in {time.perf_counter() - began:.0f} s", flush=True)
            found: dict[str, list[dict[str, float]]] = {}
            for k in args.observations:
                x, reference = references(folder, name, k)
                model = posterior_model(inference.build_posterior(), x)
                for sampler, calls, estimator, draw in samplers(inference, model, x):
                    torch.manual_seed(k)
                    with counted(estimator.net) as made:
                        samples = draw()
                    assert calls in (None, len(made)), (sampler, calls, len(made))
                    one = scores(samples, reference) | {"calls": len(made)}
                    found.setdefault(f"{sampler} {'' if calls is None else calls}".strip(), []).append(one)
            means = {key: {entry: float(np.mean([one[entry] for one in ones])) for entry in ones[0]} for key, ones in found.items()}
            results.setdefault(name, {})[kind] = means
            for key, mean in means.items():
                print("  ", key.ljust(24), {entry: round(value, 4) for entry, value in mean.items()}, flush=True)
            # After every network: a run that is cut off has what it measured.
            args.out.write_text(json.dumps({"about": about, "tasks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
