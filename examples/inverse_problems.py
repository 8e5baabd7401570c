"""Inpainted and deblurred digits: posterior samples, their mean and their standard deviation, beside the truth.

    python examples/inverse_problems.py [--short] [--run runs/mnist] [--out inverse.png]

One unconditional network is the prior of both problems. An observation y = A(x) + n needs the operator A and the standard deviation of n, and
no training: the posterior is a model like any other.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import scoresde as ss
from scoresde import data, guidance, inverse, networks
from scoresde.cli import report
from scoresde.inverse import operators
from scoresde.train import Recipe, Trainer
from scoresde.train.experiment import Experiment

STD = 0.1


def trained(iterations: int) -> tuple[ss.Model, Tensor]:
    """A model of the 8 x 8 digits, and digits that it has not seen."""
    training, held_out = data.load("digits").split(held_out=200)
    torch.manual_seed(0)  # for the initial weights
    model = ss.ScoreModel(networks.UNet(channels=1, width=32, multipliers=(1, 2)), ss.VPSDE.cosine(), prediction="velocity")
    recipe = Recipe(iterations=iterations, batch_size=64, weighting="velocity")
    return Trainer(model, training.x, recipe).run(progress=False).requires_grad_(False), held_out.x


def loaded(folder: Path) -> tuple[ss.Model, Tensor]:
    """The model of a run without its labels, and digits that it has not seen."""
    experiment = Experiment.read(folder)
    model = experiment.load_model(folder, torch.device("cpu")).requires_grad_(False)
    bare = guidance.conditioned(model, label=-1) if experiment.conditional else model
    return bare, experiment.load_data()[1].x


def main() -> None:
    """Train or load a network, sample both posteriors, and save a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("inverse.png"), help="picture of the posteriors")
    parser.add_argument("--run", type=Path, help="folder of a training run on images")
    parser.add_argument("--short", action="store_true", help="30 iterations: too few to see digits")
    options = parser.parse_args()

    model, x = trained(30 if options.short else 1500) if options.run is None else loaded(options.run)
    x, draws, steps = x[:8], 4 if options.short else 16, 5 if options.short else 60
    size = x.shape[-1]
    seen = torch.ones(size, size)
    seen[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 0
    problems = {"inpainting": operators.mask(seen), "deblurring": operators.blur(size / 14)}
    rows = {"truth": x}
    for name, operator in problems.items():
        noise = STD * torch.randn(operator(x).shape, generator=torch.Generator().manual_seed(0))
        y = operator(x) + noise
        posterior = inverse.pigdm(model, inverse.Gaussian(operator, STD))
        # `draws` samples for each of eight observations, one row of the batch each.
        run = ss.sample(
            posterior, (len(x) * draws, *x.shape[1:]), "sde-dpm++2m", steps=steps, seeds=range(len(x) * draws),
            y=y.repeat_interleave(draws, 0), trajectory=True,
        )  # fmt: skip
        samples = run.x.reshape(len(x), draws, *x.shape[1:])
        mean, std = samples.mean(1), samples.std(1)
        rows |= {name: y, f"{name}: a sample": samples[:, 0], "another": samples[:, 1], "mean": mean, "std": 4 * std - 1}
        rows = {(f"{name}: {key}" if key in ("another", "mean", "std") else key): value for key, value in rows.items()}
        inside = float(((mean - x).abs() < 2 * std + 0.05).double().mean())
        print(
            f"{name}: rms error of the mean {float((mean - x).square().mean().sqrt()):.3f}, of a sample "
            f"{float((samples[:, 0] - x).square().mean().sqrt()):.3f}; pixels within two standard deviations {inside:.0%}; a sample takes "
            f"{run.network_calls:g} evaluations and {run.vjps:g} backward passes"
        )
    report.save_rows(rows, options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
