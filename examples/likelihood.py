"""The density of held-out points, from an exact score and from a learned one.

    python examples/likelihood.py [--short] [--out likelihood.png]

A score model has a density: the probability-flow ODE carries a point to noise, whose density is known, and the divergence along the path is
the change of volume. For a mixture of Gaussians the true density has a closed form. Part 1 takes the exact score: the error that is left comes
from the solver, the prior and the probes. Part 2 trains a small network on draws from the mixture and compares its density point by point.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import scoresde as ss
from scoresde import analytic, networks
from scoresde.train import Recipe, Trainer


def show(name: str, out: ss.Likelihood, truth: torch.Tensor) -> None:
    """Print one row: the mean log density with its standard error, and the mean and the rms of the error."""
    error = out.nats - truth
    spread = float(out.nats.std()) / math.sqrt(len(truth))
    print(
        f"{name:34s} {float(out.nats.mean()):8.4f} +- {spread:.4f}   {float(error.mean()):+.5f}   "
        f"{float(error.square().mean().sqrt()):.5f}   {float(out.nfe.double().mean()):5.0f}"
    )


def save_panels(panels: dict[str, ss.Likelihood], truth: torch.Tensor, path: Path) -> None:
    """The density of every point against the true one."""
    figure = Figure(figsize=(4 * len(panels), 3.8), layout="constrained")
    ends = [float(truth.min()) - 1, float(truth.max()) + 1]
    for axis, (title, out) in zip(figure.subplots(1, len(panels), sharex=True, sharey=True), panels.items(), strict=True):
        axis.plot(ends, ends, color="grey", linewidth=0.8)
        axis.scatter(truth, out.nats, s=6, alpha=0.6, linewidths=0)
        axis.set_title(title, fontsize=11)
        axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel="true log density in nats")
    figure.axes[0].set_ylabel("log density of the model in nats")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("likelihood.png"), help="picture of estimated against true densities")
    parser.add_argument("--short", action="store_true", help="fewer points and less training")
    options = parser.parse_args()
    points, iterations = (128, 100) if options.short else (512, 2500)

    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.0]])
    mixture = analytic.GaussianMixture(means, torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0.3, 0.5, 0.2]))
    sde = ss.VPSDE(beta_min=0.1, beta_max=20.0)
    generator = torch.Generator().manual_seed(0)
    x = mixture.sample(points, generator)
    truth = mixture.log_prob(x)

    print(f"log densities of {points} points in nats      mean                 error: mean     rms       network calls")
    print(f"{'closed form':34s} {float(truth.mean()):8.4f} +- {float(truth.std()) / math.sqrt(points):.4f}")
    exact = mixture.model(sde)
    solved = ss.log_likelihood(exact, x, t_end=1e-5)
    show("exact score, exact divergence", solved, truth)
    show("exact score, to t = 1e-3 only", ss.log_likelihood(exact, x), truth)
    one = ss.log_likelihood(exact, x, divergence="hutchinson", t_end=1e-5, generator=generator)
    show("exact score, one probe", one, truth)
    many = ss.log_likelihood(exact, x, divergence="hutchinson", probes=16, t_end=1e-5, generator=generator)
    show("exact score, sixteen probes", many, truth)
    print(f"{'  their standard error, rms':34s} {float(many.stderr.square().mean().sqrt()):.4f}")

    torch.manual_seed(0)  # for the initial weights; the trainer has a seed of its own
    model = ss.ScoreModel(networks.MLP(features=2, width=64), sde, prediction="velocity", time="half_log_snr")
    recipe = Recipe(iterations=iterations, batch_size=256, learning_rate=2e-3, warmup=50, weighting="velocity")
    trained = Trainer(model, mixture.sample(20_000, generator, torch.float32), recipe).run(progress=False)
    learned = ss.log_likelihood(trained, x.float(), rtol=1e-4, atol=1e-4)
    show("learned score, exact divergence", learned, truth)

    z = ss.encode(trained, x[:8].float())
    print(f"encoded and decoded again: off by {float((ss.decode(trained, z) - x[:8]).abs().max()):.1e} at most")
    save_panels({"exact score": solved, "exact score, one probe": one, "learned score": learned}, truth, options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
