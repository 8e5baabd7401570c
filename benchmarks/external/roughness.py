"""How rough in time networks are, beside what that does to the order of a solver.

    SCORESDE_EXTERNAL=FOLDER python benchmarks/external/roughness.py [--measured runs/external] [--out benchmarks/results/roughness.json]

Along a fine solve, D_n is the data prediction at the times of `trailing` with 10 steps. t = 1 is left out, where lambda may be infinite. P_p
is the polynomial in lambda through the last p of them. The error of the extrapolation of order p is

    e_p = rms over starts and n of |D_{n+1} - P_p(lambda_{n+1})|.

e_1, e_2 and e_3 are differences of first, second and third order. Where errors of neighbouring calls are not alike, differences grow with their
order. Written beside them, both at 10 calls, are the error of UniPC of order 3 by that of order 2, and of `trailing` with power 1 by power 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

import scoresde as ss
from external.measure import load
from external.summary import Network, named, read
from scoresde import grids

STEPS = 10
ORDERS = (1, 2, 3)


@torch.no_grad()
def predictions(model: ss.Model, z: Tensor, times: Tensor) -> Tensor:
    """D at the times but the first and the last, on a fine solve that has them in its grid, `(N, B, *event)` float64."""
    fine = grids.half_log_snr(model.sde, 200, t_end=float(times[-2]) / 2)
    grid = torch.cat([fine, times[1:-1]]).unique().flip(0)
    path = ss.sample(model, z.shape, "unipc2", grid=grid, z=z, trajectory=True).path
    return torch.stack([model.data(path[int((grid == t).nonzero())], float(t)).double() for t in times[1:-1]])


def extrapolation_errors(d: Tensor, lambdas: Tensor) -> list[float]:
    """e_1, e_2, e_3, over the n that the highest order has."""
    errors = []
    for order in ORDERS:
        found = []
        for n in range(max(ORDERS) - 1, len(d) - 1):
            at = lambdas[n + 1 - order : n + 1]
            # Lagrange's polynomials at lambda_{n+1}.
            weights = [
                torch.stack([(lambdas[n + 1] - at[k]) / (at[j] - at[k]) for k in range(order) if k != j]).prod()
                if order > 1
                else 1.0
                for j in range(order)
            ]
            found.append(d[n + 1] - sum(w * d[n + 1 - order + j] for j, w in enumerate(weights)))
        errors.append(float(torch.stack(found).square().mean().sqrt()))
    return errors


def score(network: Network, rule: str) -> float:
    """sqrt(rms median) of a rule at 10 calls."""
    return float(np.sqrt(np.prod([network.value(rule, STEPS, s) for s in ("rms", "median")])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("runs/external"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/roughness.json"))
    options = parser.parse_args()
    results = {}
    for path in sorted(options.measured.glob("*.npz")):
        name, kind = named(path, options.measured.parent)
        network = read(path, name, kind)
        if ("unipc3 trailing 2", STEPS) not in network.errors:
            continue
        model, event = load(name)
        dtype = torch.float32 if isinstance(model, ss.ScoreModel) else torch.float64
        count = 8 if len(event) == 3 else 64
        z = torch.randn(count, *event, dtype=dtype, generator=torch.Generator().manual_seed(2)) * model.sde.prior_std
        times = grids.trailing(model.sde, STEPS, power=2.0)
        errors = extrapolation_errors(predictions(model, z, times), model.sde.half_log_snr(times[1:-1]))
        results[Path(name).name] = {
            "kind": kind,
            "errors": errors,
            "order 3 by 2": score(network, "unipc3 trailing 2") / score(network, "unipc2 trailing 2"),
            "power 1 by 2": score(network, "unipc2 trailing 1") / score(network, "unipc2 trailing 2"),
        }
        print(name, results[Path(name).name], flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
