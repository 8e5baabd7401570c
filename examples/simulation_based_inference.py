"""The posterior of a simulator from its simulations alone: two moons, checked by calibration and against exact samples.

    python examples/simulation_based_inference.py [--short] [--out two_moons.png]

A conditional network learns p(theta | x) from pairs of a prior and a simulator (Greenberg et al. 2019, arXiv 1905.07488, section B.3). Its
samples at one observation stand beside exact ones, ranks say whether it is calibrated over all of them, and five observations at once need no
training.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import scoresde as ss
from scoresde import diagnostics, networks, sbi
from scoresde.train import Recipe, Trainer


class Network(nn.Module):
    """`network(z, t, x)`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = networks.MLP(4, width=64)

    def declare_time(self, name: str) -> None:
        """The convention of t."""
        self.inner.declare_time(name)

    def forward(self, z: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Parameters `(B, 2)` and observations `(B, 2)` in, a prediction `(B, 2)` out."""
        return self.inner(torch.cat([z, x], 1), t)[:, :2]


def prior(n: int, generator: torch.Generator) -> Tensor:
    """Uniform on [-1, 1]^2."""
    return 2 * torch.rand(n, 2, generator=generator) - 1


def crescent(n: int, generator: torch.Generator) -> Tensor:
    """The noise of the simulator."""
    angle = math.pi * (torch.rand(n, generator=generator) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(n, generator=generator)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)


def simulate(theta: Tensor, generator: torch.Generator) -> Tensor:
    """x, a crescent shifted by theta."""
    shift = torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)
    return crescent(len(theta), generator) + shift


def exact(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Samples of p(theta | x): x minus a crescent is the shift, which two values of theta give; those outside the prior are left out."""
    kept = torch.empty(0, 2)
    while len(kept) < n:
        q = (x - crescent(4 * n, generator)) * math.sqrt(2)
        sign = torch.where(torch.rand(len(q), generator=generator) < 0.5, -1.0, 1.0)
        total, difference = sign * -q[:, 0], q[:, 1]
        theta = torch.stack([(total - difference) / 2, (total + difference) / 2], 1)
        kept = torch.cat([kept, theta[(q[:, 0] <= 0) & (theta.abs() <= 1).all(1)]])
    return kept[:n]


def main() -> None:
    """Simulate, train, check, and save a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("two_moons.png"), help="picture of the posteriors")
    parser.add_argument("--short", action="store_true", help="100 iterations: too few to see two moons")
    options = parser.parse_args()
    iterations, pairs, n = (100, 50, 200) if options.short else (6000, 300, 2000)

    generator = torch.Generator().manual_seed(0)
    theta = prior(10_000, generator)
    x = simulate(theta, generator)
    torch.manual_seed(0)  # for the initial weights
    model = ss.ScoreModel(Network(), ss.VPSDE.cosine(), prediction="velocity", time="half_log_snr")
    recipe = Recipe(
        iterations=iterations, batch_size=256, learning_rate=2e-3, ema=0.999, weighting="velocity", time_sampler="stratified"
    )
    trained = Trainer(model, theta, recipe, cond={"x": x}).run(progress=False).requires_grad_(False)

    observed = torch.tensor([[0.0, 0.0]])
    truth = exact(observed, n, generator)
    draws = ss.sample(trained, (n, 2), nfe=20, generator=generator, x=observed.expand(n, 2))
    found, best = diagnostics.c2st(draws, truth), diagnostics.c2st(exact(observed, n, generator), truth)
    print(f"C2ST against exact samples, where 0.5 is perfect: {found}; of other exact ones: {best}")

    thetas = prior(pairs, generator)
    each = simulate(thetas, generator).repeat_interleave(100, 0)
    samples = ss.sample(trained, (100 * pairs, 2), nfe=20, generator=generator, x=each).reshape(pairs, 100, 2)
    ranks, balls = diagnostics.sbc_ranks(thetas, samples), diagnostics.tarp(thetas, samples)
    print(f"p-values of calibration: ranks {[round(p, 3) for p in ranks.p.tolist()]}, TARP {balls.p:.3f}")

    hidden = torch.tensor([[0.5, 0.2]])
    five = simulate(hidden.expand(5, 2), generator)
    precision = sbi.posterior_precision(trained, (2,), five, 500, nfe=20, generator=generator)
    many = sbi.composed(trained, sbi.uniform_prior([-1.0, -1.0], [1.0, 1.0], trained.sde), precision=precision)
    together = ss.sample(many, (n, 2), nfe=30, generator=generator, x=five)
    print(
        f"five observations of theta = (0.5, 0.2): mean {[round(m, 2) for m in together.mean(0).tolist()]}, standard deviation "
        f"{[round(s, 2) for s in together.std(0).tolist()]}"
    )

    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
    panels = {"exact, x = (0, 0)": truth, "20 network calls": draws, "five observations at once": together}
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.scatter(*points.T, s=2, alpha=0.5)
        axis.set(title=title, xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xlabel="theta 1")
    axes[2].plot(*hidden[0], "r+", markersize=12)
    axes[0].set_ylabel("theta 2")
    figure.savefig(options.out, dpi=110, bbox_inches="tight")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
