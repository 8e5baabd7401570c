"""One small network, trained with every form of score matching on a mixture in two dimensions.

    python examples/score_matching_family.py [--short] [--out score_matching.png]

All forms have the same expected gradient, so that all lead to the exact score, which is known for a mixture of Gaussians. They differ in the
variance of the gradient of a batch and in its cost. Each form trains the same network from the same weights, at one noise level, for the same
number of steps. The table also shows the variance of each gradient at equal cost.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import scoresde as ss
from scoresde import analytic, diagnostics, networks

T = 0.12  # sigma = 0.38: the modes are still apart
SDE = ss.VPSDE()
RING = torch.tensor([[1.2, 0.0], [-0.6, 1.04], [-0.6, -1.04]])
MIXTURE = analytic.GaussianMixture(RING, torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0.3, 0.4, 0.3]))
EXACT = MIXTURE.model(SDE)


def train(form: diagnostics.Estimator, iterations: int) -> ss.ScoreModel:
    """The network after `iterations` steps, each on new data."""
    torch.manual_seed(0)  # the same initial weights for all forms
    model = ss.ScoreModel(networks.MLP(features=2, width=48, layers=2), SDE, prediction="noise")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=iterations)
    generator = torch.Generator().manual_seed(1)
    for _ in range(iterations):
        x = MIXTURE.sample(256, generator, torch.float32)
        optimizer.zero_grad()
        form.loss(model, x, generator).mean().backward()
        optimizer.step()
        schedule.step()
    return model


def main() -> None:
    """Train with every form, print the table, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("score_matching.png"), help="picture of the score fields and their errors")
    parser.add_argument("--short", action="store_true", help="a few iterations: too few to see a difference")
    options = parser.parse_args()
    iterations, repetitions = (20, 10) if options.short else (800, 100)

    forms = diagnostics.forms(T, event_size=2, exact=EXACT)
    held_out = MIXTURE.sample(4096, torch.Generator().manual_seed(2), torch.float32)
    models = {name: train(form, iterations) for name, form in forms.items()}
    errors = {
        name: diagnostics.score_error(model, EXACT, held_out, [T], generator=torch.Generator().manual_seed(3))
        for name, model in models.items()
    }
    variances = diagnostics.estimator_variance(
        forms, models["explicit"], held_out, budget=240, repetitions=repetitions, generator=torch.Generator().manual_seed(4)
    )
    print(f"{'loss':26s} {'score error':>17s} {'passes':>7s} {'variance':>9s}")
    for name, (_, passes) in forms.items():
        error = errors[name]
        print(f"{name:26s} {float(error.mean):8.4f} +- {float(error.stderr):.4f} {passes:7d} {variances[name].gradient:9.4f}")
    print(
        "score error: sigma^2 E|s - S|^2 per coordinate on held-out data; passes: through the network for one value;\n"
        "variance: of the gradient of a batch that costs 240 passes, at the weights of the first row"
    )
    draw(models, errors, options.out)
    print(f"written: {options.out}")


@torch.no_grad()
def draw(models: dict[str, ss.ScoreModel], errors: dict[str, diagnostics.Curve], path: Path) -> None:
    """Save the score field of the mixture and of each model, over the norm of its error in units of 1/sigma."""
    axis = torch.linspace(-2.2, 2.2, 61)
    z = torch.cartesian_prod(axis, axis)
    arrows = torch.cartesian_prod(axis[::5], axis[::5])
    sigma, exact = float(SDE.sigma(T)), EXACT.score(z, T)
    density = MIXTURE.log_prob(z, T, SDE).exp().reshape(61, 61).T
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 4, sharex=True, sharey=True).flat
    for panel, (name, model) in zip(panels, {"the truth": EXACT, **models}.items(), strict=True):
        error = sigma * (model.score(z, T) - exact).norm(dim=1).reshape(61, 61).T
        shown = panel.pcolormesh(
            axis.numpy(), axis.numpy(), error.numpy(), cmap="Reds", vmin=0, vmax=1, shading="nearest", rasterized=True
        )
        panel.contour(axis.numpy(), axis.numpy(), density.numpy(), levels=4, colors="0.6", linewidths=0.7)
        s = model.score(arrows, T)
        panel.quiver(*arrows.T.numpy(), *s.T.numpy(), scale=90, width=0.004)
        panel.set(title=name if name == "the truth" else f"{name}: {float(errors[name].mean):.4f}", aspect="equal")
    figure.colorbar(shown, ax=list(figure.axes), shrink=0.6, label="error of the noise prediction, sigma |s - S|")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
