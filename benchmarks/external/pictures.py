"""The same starts on the images that others' networks make: fine solve, default, best peer in hindsight and fit, at 5, 8 and 10 network calls.

    SCORESDE_EXTERNAL=FOLDER python benchmarks/external/pictures.py [NETWORK ...] [--measured runs/external] [--out runs/external]

Needs what `measure.py` wrote; shows the fits that it kept. Writes OUT/external-NETWORK.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import scoresde as ss
from external import flows
from external.catalogue import MODELS
from external.measure import load
from external.summary import read
from scoresde.cli.report import save_rows

CALLS = (5, 8, 10)
COLUMNS = 10


@torch.no_grad()
def picture(name: str, measured: Path, out: Path) -> None:
    """Save the rows of one network."""
    (model, event), network = load(name), read(measured / f"{name}.npz", name, "external")
    z = torch.randn(network.starts, *event, generator=torch.Generator().manual_seed(1))[:COLUMNS] * model.sde.prior_std
    # To the range of the data, about (-1, 1), for the eye.
    scale = 0.5 / MODELS[name].scale
    rows = {"fine solve": torch.from_numpy(np.load(measured / f"{name}.npz")["reference"])[:COLUMNS] * scale}
    for calls in CALLS:
        peer = min(network.methods(calls, ours=False), key=lambda m: network.value(m, calls, "rms"))
        rows[f"default, {calls}"] = ss.sample(model, z.shape, nfe=calls, z=z) * scale
        rows[f"{peer}, {calls}"] = flows.deterministic(model.sde)[peer](model, z, calls)[0] * scale
        fit = measured / f"{name}-fit-{calls}.safetensors"
        if fit.exists():
            rows[f"fit, {calls}"] = ss.sample(model, z.shape, str(fit), z=z) * scale
    save_rows(rows, out / f"external-{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="by default all on images that were measured")
    parser.add_argument("--measured", type=Path, default=Path("runs/external"))
    parser.add_argument("--out", type=Path, default=Path("runs/external"))
    options = parser.parse_args()
    there = [n for n, e in MODELS.items() if len(e.event) == 3 and (options.measured / f"{n}.npz").exists()]
    for name in options.networks or there:
        picture(name, options.measured, options.out)
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main()
