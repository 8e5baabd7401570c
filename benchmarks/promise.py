"""The picture of README's first screen: the same seeds by a fine solve, by a fitted solver and by the best peer of as many network calls.

    python benchmarks/promise.py [--network runs/mnist] [--calls 8] [--starts 64] [--trajectories 256] [--out docs/promise.png]

The network is that of `make demo-mnist`, 28 x 28 digits. Every row has its rms error per pixel to the fine solve, over all starts. The peer is
the one with the least error, in hindsight, of all deterministic configurations of diffusers, k-diffusion and azula for this process. The fit
sees other starts. Prints the errors of all. --network takes the folder of a run, or with SCORESDE_EXTERNAL a network of others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import peers
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from external import flows
from external.catalogue import MODELS
from external.measure import fine, load, peer

import scoresde as ss
from scoresde import tuning
from scoresde.cli.report import save_rows

COLUMNS = 12


def rms(x: Tensor, reference: Tensor) -> float:
    return float((x.double() - reference).square().mean().sqrt())


def drawn(run: peers.Run, model: ss.Model, z: Tensor, calls: int) -> Tensor | None:
    """The samples of a peer; None where it cannot make these calls."""
    try:
        return peer(run, model, z, calls)
    except (ValueError, IndexError, AssertionError, FloatingPointError):
        return None


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="runs/mnist")
    parser.add_argument("--calls", type=int, default=8)
    parser.add_argument("--starts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000, help="of the fine solve")
    parser.add_argument("--trajectories", type=int, default=256)
    parser.add_argument("--refine", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("docs/promise.png"))
    options = parser.parse_args()

    model, event = load(options.network)
    z = torch.randn(options.starts, *event, generator=torch.Generator().manual_seed(1)) * model.sde.prior_std
    reference, floor = fine(model, z, options.steps)
    print(f"fine solve of {options.steps} calls: {floor:.2g} from that of half as many, n = {len(z)}", flush=True)
    made = {name: drawn(run, model, z, options.calls) for name, run in flows.deterministic(model.sde).items()}
    found = {name: x for name, x in made.items() if x is not None}
    for name, x in sorted(found.items(), key=lambda pair: rms(pair[1], reference)):
        print(f"{name}: {rms(x, reference):.3g}", flush=True)
    best = min(found, key=lambda name: rms(found[name], reference))
    print(f"default: {rms(ss.sample(model, z.shape, nfe=options.calls, z=z), reference):.3g}", flush=True)
    fitted = tuning.fit(
        model, options.calls, shape=event, trajectories=options.trajectories, refine=options.refine, progress=False, batch_size=64
    )
    x = ss.sample(model, z.shape, fitted, z=z)
    print(f"{fitted}\nfitted, on these starts: {rms(x, reference):.3g}")

    rows = {
        f"fine solve\n{options.steps} calls": reference,
        f"fitted, {options.calls} calls\nrms {rms(x, reference):.2g}": x,
        f"{best.split(' shift')[0].split(' ', 1)[1]}, {options.calls} calls\nrms {rms(found[best], reference):.2g}": found[best],
    }
    # To the range of the data, about (-1, 1), for the eye.
    brightness = 0.62 / MODELS[options.network].scale if options.network in MODELS else 1.0
    save_rows({label: row[:COLUMNS] * brightness for label, row in rows.items()}, options.out)
    print(f"written: {options.out}, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
