"""DDPM is an SDE, exactly, and a sampler of the SDE samples DDPM.

    python examples/ddpm_is_an_sde.py [--short] [--out ddpm_is_an_sde.png]

The chain z_i = sqrt(1 - beta_i) z_{i-1} + sqrt(beta_i) eps, i = 1..T, is the SDE

    dz = -beta(t)/2 z dt + sqrt(beta(t)) dw,      beta(t) = -T log(1 - beta_i) on ((i-1)/T, i/T],

at the times t = i/T. Part 1 checks this without the solution of the SDE: it integrates the moment equations of the SDE.
Part 2 samples one model, whose score is exact, with five solvers. The energy distance to exact draws is 0 only for equal distributions.
A mean log density above that of exact draws means samples that are too narrow, one below it samples that are too wide.
"""

import argparse
import math

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import scoresde as ss
from scoresde import analytic

SOLVERS = (("ancestral", 1000), ("euler-maruyama", 250), ("ddim", 50), ("heun", 25), ("dpm++2m", 20))


def ring(modes: int = 8) -> analytic.GaussianMixture:
    """A ring of narrow ellipses, each along its tangent, with unequal weights."""
    angle = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    radial = torch.stack([angle.cos(), angle.sin()], 1)
    tangent = torch.stack([-angle.sin(), angle.cos()], 1)
    covariances = 0.04**2 * torch.einsum("ki,kj->kij", radial, radial) + 0.2**2 * torch.einsum("ki,kj->kij", tangent, tangent)
    return analytic.GaussianMixture(1.3 * radial, covariances, weights=torch.arange(1, modes + 1))


def chain_moments(betas: torch.Tensor) -> torch.Tensor:
    """(a, v) after each step of the chain, where z_i | x ~ N(a x, v I): `(T, 2)`."""
    a, v, rows = 1.0, 0.0, []
    for beta in betas.tolist():
        a, v = math.sqrt(1 - beta) * a, (1 - beta) * v + beta
        rows.append((a, v))
    return torch.tensor(rows, dtype=torch.float64)


def sde_moments(sde: ss.SDE, steps: int, substeps: int = 4) -> torch.Tensor:
    """(a, v) of the SDE, from da/dt = f a and dv/dt = 2 f v + g^2 by the Runge-Kutta method of order 4: `(T, 2)`."""
    moments, rows = torch.tensor([1.0, 0.0], dtype=torch.float64), []
    h = 1 / (steps * substeps)
    for i in range(steps):
        t = (i + 0.5) / steps  # f and g are constant between the times of the chain
        f, g = sde.drift_rate(t), sde.diffusion(t)
        slope = torch.stack([f, 2 * f])
        push = torch.stack([0 * g, g**2])
        for _ in range(substeps):
            k1 = slope * moments + push
            k2 = slope * (moments + 0.5 * h * k1) + push
            k3 = slope * (moments + 0.5 * h * k2) + push
            k4 = slope * (moments + h * k3) + push
            moments = moments + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        rows.append(moments)
    return torch.stack(rows)


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """sqrt( 2 E|X - Y| - E|X - X'| - E|Y - Y'| ) of two sets of samples (Szekely and Rizzo 2013)."""

    def mean_distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(float(torch.cdist(part, b).sum()) for part in a.split(1000)) / (len(a) * len(b))

    return math.sqrt(2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y))


def save_panels(panels: dict[str, torch.Tensor], path: str) -> None:
    """One scatter plot for each set of samples."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, x) in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, panels.items(), strict=True):
        axis.scatter(*x[:4000].T, s=1.5, alpha=0.4, linewidths=0)
        axis.set_title(title, fontsize=10)
        axis.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="ddpm_is_an_sde.png", help="picture of the samples")
    parser.add_argument("--short", action="store_true", help="fewer samples")
    options = parser.parse_args()

    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    ddpm, classical = ss.VPSDE.from_betas(betas), ss.VPSDE(beta_min=0.1, beta_max=20.0)

    # Part 1. z_t | x is Gaussian, so equal moments at every t are equal marginals for any data.
    chain, sde = chain_moments(betas), sde_moments(ddpm, len(betas))
    print("z_t | x ~ N(a x, v I)    a, chain    a, SDE      v, chain    v, SDE")
    for i in (1, 250, 500, 750, 1000):
        (a, v), (b, w) = chain[i - 1].tolist(), sde[i - 1].tolist()
        print(f"t = {i:4d}/1000           {a:.8f}  {b:.8f}  {v:.8f}  {w:.8f}")
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    closed = torch.stack([ddpm.alpha(t), ddpm.sigma(t) ** 2], 1)
    linear = torch.stack([classical.alpha(t), classical.sigma(t) ** 2], 1)
    print("largest difference from the chain over the 1000 times:")
    print(f"  the SDE's moment equations, integrated   {float((sde - chain).abs().max()):.1e}")
    print(f"  alpha(t) and sigma(t)^2 of the library   {float((closed - chain).abs().max()):.1e}")
    print(f"  the classical VP SDE with a linear rate  {float((linear - chain).abs().max()):.1e}\n")

    # Part 2. The score is exact: samples differ from exact draws by the solver's error and by chance.
    n = 3000 if options.short else 10000
    mixture = ring()
    model = mixture.model(ddpm)
    generator = torch.Generator().manual_seed(0)
    exact = mixture.sample(n, generator)
    others = [mixture.sample(n, generator) for _ in range(5)]
    floor = sorted(energy_distance(x, exact) for x in others)
    panels = {f"exact draws: other sets {floor[0]:.3f} to {floor[-1]:.3f}": exact}
    print(f"{f'{n} samples each':20s}        NFE   energy distance     mean log density in nats")
    for name, steps in SOLVERS:
        nfe = ss.plan(ddpm, name, steps=steps).nfe
        x = ss.sample(model, (n, 2), name, steps=steps, generator=generator, dtype=torch.float64)
        distance = energy_distance(x, exact)
        panels[f"{name}, {nfe} calls: distance {distance:.3f}"] = x
        print(f"{name:20s} {nfe:10d}   {distance:.4f}              {float(mixture.log_prob(x).mean()):6.3f}")
    density = mixture.log_prob(torch.cat(others))
    error = float(density.std()) / math.sqrt(n)
    print(f"{'exact, 5 other sets':20s}          -   {floor[0]:.4f} to {floor[-1]:.4f}    {density.mean():6.3f} +- {error:.3f}")
    save_panels(panels, options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
