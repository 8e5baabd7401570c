"""Train a score model on real handwritten digits and sample it with two solvers.

    python examples/train_digits.py [--short] [--out digits.png]

The U-Net learns the velocity alpha eps - sigma x on the linear chain of DDPM (T = 1000). The trained model is then sampled twice
from the same starting noise: ancestral sampling in 1000 network calls, and a multistep solver of the probability-flow ODE in 20.
"""

import argparse
import time
from pathlib import Path

import torch

import scoresde as ss
from scoresde import data, networks
from scoresde.cli import report
from scoresde.train import Recipe, Trainer


def main() -> None:
    """Load the digits, train, sample, and save a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("digits.png"), help="picture of the samples")
    parser.add_argument("--short", action="store_true", help="30 iterations: too few to see digits")
    options = parser.parse_args()

    training, held_out = data.load("digits").split(held_out=200)  # 1,797 images of 8 x 8 in [-1, 1]
    chain = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))

    torch.manual_seed(0)  # for the initial weights; the trainer and the samples have seeds of their own
    network = networks.UNet(channels=1, width=32, multipliers=(1, 2))
    model = ss.ScoreModel(network, chain, prediction="velocity")
    recipe = Recipe(iterations=30 if options.short else 1000, batch_size=64, weighting="velocity")
    trained = Trainer(model, training.x, recipe, held_out=held_out.x).run()

    seeds, rows = range(16), {}
    for solver, steps in (("ancestral", 1000), ("dpm++2m", 20)):
        began = time.perf_counter()
        x = ss.sample(trained, (len(seeds), 1, 8, 8), solver, steps=steps, seeds=seeds)
        print(f"{solver}: {steps} steps, {time.perf_counter() - began:.1f} s")
        rows[f"{solver}, {steps} steps"] = x
    rows["real"] = held_out.x[: len(seeds)]
    report.save_rows(rows, options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
