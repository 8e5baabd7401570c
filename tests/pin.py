"""The numbers that no change of structure may move: coefficients of every table, seeded samples, losses and likelihoods.

`python -m tests.pin` writes them to tests/data/pin.npz. Do it only where a number is meant to change, and say so in CHANGELOG.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import scoresde as ss
from scoresde import grids, losses, networks, solvers

from .conftest import SDES, TABLEAUX, generator, linear_betas, mixture

FILE = Path(__file__).parent / "data" / "pin.npz"
GRIDS = ("trailing", "half_log_snr", "uniform")
STEPS = 5


def flattened(tableau: ss.tableau.Tableau) -> np.ndarray:
    """Times and coefficients with their indices as one vector."""
    numbers = [*tableau.times, *tableau.grid_states, *tableau.step_evals]
    for row in tableau.rows:
        for part in row:
            numbers += [len(part), *(number for item in sorted(part.items()) for number in item)]
    return np.array(numbers, dtype=np.float64)


def coefficients(each: int = 1) -> dict[str, np.ndarray]:
    """Of every table on every path, one array for each table and grid, on `each` of the three grids in turn.

    A table sees a grid only as times, so that one grid is enough to see a change; the file has all three.
    """
    pinned = {}
    for k, name in enumerate(TABLEAUX):
        for grid in (GRIDS[(k + i) % len(GRIDS)] for i in range(each)):
            tables = [flattened(solvers.get(name).tableau(sde, grids.get(grid)(sde, STEPS))) for sde in SDES.values()]
            pinned[f"table {name} {grid}"] = np.concatenate(tables)
    return pinned


def network(sde: ss.SDE, prediction: str = "noise") -> ss.ScoreModel:
    """A float64 network with weights that are a formula, so that no random number generator of torch is pinned."""
    net = networks.MLP(features=2, width=16).double()
    with torch.no_grad():
        for k, weight in enumerate(net.parameters()):
            weight.copy_((torch.arange(weight.numel(), dtype=torch.float64) * 0.7 + k).sin().reshape(weight.shape) * 0.3)
    return ss.ScoreModel(net, sde, prediction)


SAMPLERS = (
    "ancestral", "ddim", "heun", "dpm3", "dpm++2s", "dpm++3m", "unipc3", "deis3", "ipndm4", "plms", "vab3", "circle-vab2",
    "euler-maruyama", "sde-dpm++2m", "sa-solver", "seeds3", "er-sde3", "edm", "restart", "pc",
)  # fmt: skip


def samples() -> dict[str, np.ndarray]:
    """Twenty solvers from the same seeds, on a network and on an exact model, and the adaptive loops."""
    chain, flow = ss.VPSDE.from_betas(linear_betas(20)), ss.RectifiedFlow()
    pinned = {}
    for k, name in enumerate(SAMPLERS):
        model = network(chain) if k % 2 else network(ss.VPSDE(), "velocity")
        x = ss.sample(model, (3, 2), name, steps=7, seeds=range(3), dtype=torch.float64)
        pinned[f"sample {name}"] = x.numpy()
    for name in ("adaptive", "gotta-go-fast"):
        x = ss.sample(mixture().model(ss.VPSDE()), (3, 2), name, seeds=range(3), dtype=torch.float64)
        pinned[f"sample {name}"] = x.numpy()
    pinned["sample default"] = ss.sample(
        mixture().model(flow), (3, 2), "ipndm3", nfe=8, grid="trailing", seeds=range(3), dtype=torch.float64
    ).numpy()
    return pinned


def densities() -> dict[str, np.ndarray]:
    """Losses by weighting and kind, bounds and likelihoods, of the same network."""
    chain = ss.VPSDE.from_betas(linear_betas(20))
    model, x = network(chain), torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    noise = torch.linspace(1, -1, 8, dtype=torch.float64).reshape(4, 2).sin()
    pinned = {
        f"loss {name}": losses.denoising(model, x, name, t=t, noise=noise)
        for name in ("noise", "data", "velocity", "sigma2", "likelihood", "elbo", "min_snr", "p2", "edm", "debiased")
    }
    pinned |= {
        "loss implicit": losses.implicit(model, x, t),
        "loss sliced": losses.sliced(model, x, t, directions=noise[None]),
        "loss finite difference": losses.finite_difference(model, x, t, directions=noise[None]),
        "loss explicit": losses.explicit(model, x, noise),
        "prior mismatch": ss.prior_mismatch(chain, x),
    }
    # An exact score: adaptive steps on a rough network carry a change of 1e-15 in x to 1e-4 in the end.
    smooth = mixture().model(ss.VPSDE())
    with torch.no_grad():
        pinned["bound"] = losses.elbo(model, x, generator=generator()).prior
        pinned["likelihood exact"] = ss.log_likelihood(smooth, x).nats
        out = ss.log_likelihood(smooth, x, divergence="hutchinson", seeds=range(4))
        pinned |= {"likelihood hutchinson": out.nats, "encoded": ss.encode(smooth, x), "decoded": ss.decode(smooth, x)}
    return {name: value.detach().numpy() for name, value in pinned.items()}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **coefficients(len(GRIDS)), **samples(), **densities())
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB")
