"""The forward process of every family of linear SDEs on a photograph, and samples of one of them at the end.

    python examples/linear_sdes.py [--short] [--out processes.png]

A row is a process and a column a time. With several channels the position is shown. The last row is a bridge, which ends at a blurred
photograph in place of noise.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import scoresde as ss
from scoresde import analytic
from scoresde.inverse import operators
from scoresde.sde import DCT

TIMES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)


def photograph(size: int) -> torch.Tensor:
    """A flower, `(1, 3, size, size)` in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).movedim(-1, 0).float() / 127.5 - 1
    return torch.nn.functional.interpolate(image[None, :, 20:400, 130:510], (size, size), mode="area")


def families(shape: tuple[int, ...]) -> dict[str, ss.SDE]:
    """One process of each family."""
    height, width = shape[1:]
    frequencies = (DCT(2).frequencies(shape) ** 2).sum(0).sqrt()
    return {
        "VP": ss.VPSDE(),
        "blurring": ss.BlurringSDE(shape, blur=width / 8),
        "pink noise": ss.ColouredSDE.power_law(shape, 1.5),
        "blue noise": ss.ColouredSDE.power_law(shape, -1.5),
        "OU, slow to fast": ss.OUSDE(torch.ones(height * width), 0.3 + frequencies, basis=DCT(2)),
        "forcing": ss.TimesSDE.forcing(width),
        "CLD": ss.CLD(),
        "HOLD, order 3": ss.HOLD(3),
    }


def main() -> None:
    """Save the picture, and sample from a Gaussian mixture with one call for every family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("processes.png"), help="picture of the processes")
    parser.add_argument("--short", action="store_true", help="a small photograph")
    options = parser.parse_args()
    x = photograph(32 if options.short else 64)
    noise = torch.Generator().manual_seed(0)
    rows = {}
    for name, sde in families(tuple(x.shape[1:])).items():
        states = [sde.perturb(x, t, noise)[0] for t in TIMES]
        rows[name] = [z[:, 0] if isinstance(sde, ss.LinearSDE) and sde.channels > 1 else z for z in states]
    bridge, y = ss.Bridge.interpolant(0.6), operators.blur(3.0)(x)
    rows["bridge"] = [bridge.with_end(bridge.perturb(x, t, noise)[0], y, t) for t in TIMES]
    figure = Figure(figsize=(1.1 * (len(TIMES) + 1), 1.1 * len(rows)), layout="constrained")
    for axes, (name, states) in zip(figure.subplots(len(rows), len(TIMES) + 1), rows.items(), strict=True):
        for axis, z, title in zip(axes, [x, *states], ["x", *(f"t = {t:g}" for t in TIMES)], strict=True):
            # States have other scales than images: by their own deviation where it is above 1/2.
            scale = max(1.0, 2 * float(z.std()))
            axis.imshow((z[0] / scale * 0.5 + 0.5).clamp(0, 1).movedim(0, -1).numpy())
            axis.set(xticks=[], yticks=[])
            if name == next(iter(rows)):
                axis.set_title(title, fontsize=10)
        axes[0].set_ylabel(name.replace(", ", ",\n"), fontsize=10)
    figure.savefig(options.out, dpi=62)
    print(f"{options.out}: {len(rows)} processes")
    mixture = analytic.GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), torch.tensor([0.05, 0.1]))
    for sde in (ss.VPSDE(), ss.ColouredSDE(torch.tensor([1.0, 4.0])), ss.CLD(), ss.HOLD(3)):
        samples = ss.sample(mixture.model(sde), (4000, 2), nfe=20, seeds=range(4000))
        print(f"{sde}: mean {samples.mean(0).tolist()}, of the data {mixture.means.mean(0).tolist()}")


if __name__ == "__main__":
    main()
