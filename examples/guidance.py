"""Guided digits by class and weight, with one conditional network.

    python examples/guidance.py [--short] [--run runs/mnist] [--out guidance.png]

The network is trained with labels left out at times, so that it predicts with and without one. Guidance adds a multiple of the difference. A
row is a weight and a column a class: 0 ignores the class, 1 is the conditional model, more pushes further.
"""

import argparse
from pathlib import Path

import torch

import scoresde as ss
from scoresde import data, networks
from scoresde.cli import report
from scoresde.guidance import Guided
from scoresde.train import Recipe, Trainer
from scoresde.train.experiment import Experiment

WEIGHTS = (0.0, 1.0, 2.0, 4.0)


def trained(iterations: int) -> ss.ScoreModel:
    """A conditional model of the 8 x 8 digits."""
    digits = data.load("digits")
    torch.manual_seed(0)  # for the initial weights
    network = networks.UNet(channels=1, width=32, multipliers=(1, 2), classes=digits.classes)
    model = ss.ScoreModel(network, ss.VPSDE.cosine(), prediction="velocity")
    recipe = Recipe(iterations=iterations, batch_size=64, weighting="velocity", label_dropout=0.15)
    return Trainer(model, digits.x, recipe, cond={"label": digits.labels}).run(progress=False)


def main() -> None:
    """Train or load a network, sample with every weight, and save a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("guidance.png"), help="picture of the samples")
    parser.add_argument("--run", type=Path, help="folder of `scoresde train ... --conditional --label-dropout 0.15`")
    parser.add_argument("--short", action="store_true", help="30 iterations: too few to see digits")
    options = parser.parse_args()

    if options.run is None:
        model, event = trained(30 if options.short else 1500), (1, 8, 8)
    else:
        experiment = Experiment.read(options.run)
        model, event = experiment.load_model(options.run, torch.device("cpu")), experiment.event
    label = torch.arange(20) % 10
    rows = {}
    for weight in WEIGHTS:
        # The same seeds in every row: only the weight changes.
        run = ss.sample(Guided(model, weight), (len(label), *event), nfe=20, seeds=range(20), label=label, trajectory=True)
        rows[f"weight {weight:g}"] = run.x
        print(f"weight {weight:g}: {run.nfe} solver calls, {run.network_calls:g} network evaluations a sample")
    report.save_rows(rows, options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
