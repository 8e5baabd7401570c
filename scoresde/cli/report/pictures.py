"""Pictures of samples and plots of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from .diagnosis import Diagnosis

# Pixels between two tiles.
LINE = 3


def _figure(width: float, height: float) -> Any:
    # Without pyplot: it keeps global state and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def is_image(x: Tensor) -> bool:
    """Whether `x` is a batch of grey or colour images."""
    return x.ndim == 4 and x.shape[1] in (1, 3)


def tiles(x: Tensor, columns: int) -> Tensor:
    """Images `(N, channels, h, w)` in [-1, 1] as one image `(H, W, channels)` in [0, 1] of `columns` columns, enlarged, with lines between."""
    scale = max(1, round(64 / max(x.shape[2:])))
    x = (x.float().cpu().clamp(-1, 1) + 1) / 2
    x = repeat(x, "n c h w -> n c (h a) (w b)", a=scale, b=scale)
    x = torch.nn.functional.pad(x, (0, LINE, 0, LINE), value=0.35)
    blank = x.new_full((-len(x) % columns, *x.shape[1:]), 0.35)
    return rearrange(torch.cat([x, blank]), "(r k) c h w -> (r h) (k w) c", k=columns)[:-LINE, :-LINE]


def save_samples(x: Tensor, path: Path) -> None:
    """Save images as a square of tiles, other data as a scatter plot of two coordinates or as a histogram of a single one."""
    if is_image(x):
        from PIL import Image

        columns = max(1, round(len(x) ** 0.5))
        picture = (tiles(x, columns) * 255).round().to(torch.uint8)
        Image.fromarray(picture.expand(-1, -1, 3).contiguous().numpy()).save(path)
        return
    figure = _figure(5, 5)
    _scatter(figure.subplots(), x)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def save_rows(rows: Mapping[str, Tensor], path: Path) -> None:
    """Save one row of samples for each name, so that a column shows one seed. Data that are no images become scatter plots."""
    first = next(iter(rows.values()))
    if is_image(first):
        figure = _figure(0.62 * len(first) + 2.2, 0.68 * len(rows) + 0.2)
        for axis, (name, x) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
            picture = tiles(x, len(x)).numpy()
            axis.imshow(
                picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axis.set_ylabel(name, rotation=0, ha="right", va="center")
            axis.set(xticks=[], yticks=[])
    else:
        columns = min(4, len(rows))
        lines = -(-len(rows) // columns)
        figure = _figure(3 * columns, 3 * lines)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
        for axis, (name, x) in zip(axes, rows.items(), strict=False):
            _scatter(axis, x)
            axis.set_title(name)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def save_error_plot(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Save a plot of error against network calls, both logarithmic. `curves` maps the name of a solver to its `(nfe, error)` pairs."""
    figure = _figure(6, 4.2)
    axis = figure.subplots()
    for (name, pairs), marker in zip(curves.items(), "osD^v<>Pp*", strict=False):
        axis.loglog(*zip(*pairs, strict=True), marker=marker, label=name)
    axis.set(xlabel="network calls per sample", ylabel="rms distance to a fine solve, same start")
    # Ticks at the calls of one solver only: a solver of two calls a step has odd numbers between them.
    finest = max(curves.values(), key=lambda pairs: pairs[0][0] + pairs[-1][0])
    axis.set_xticks([nfe for nfe, _ in finest], [str(nfe) for nfe, _ in finest])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def save_diagnosis(diagnosis: Diagnosis, path: Path) -> None:
    """Save three panels against t: the losses, the residual of the Fokker-Planck equation and the asymmetry of the Jacobian."""
    figure = _figure(13, 4)
    loss, residual, asymmetry = figure.subplots(1, 3)
    for name, marker in (("training", "o"), ("held-out", "s")):
        curve = diagnosis.losses[name].loss
        loss.errorbar(curve.t, curve.mean, 2 * curve.stderr, marker=marker, ms=4, lw=1.2, capsize=2, label=name)
    zero = diagnosis.losses["held-out"].zero
    loss.plot(zero.t, zero.mean, "k--", lw=1, label="a network that returns 0")
    loss.set(title="Denoising loss", ylabel="mean and 2 standard errors")
    loss.legend()
    t = [point.t for point in diagnosis.field]
    residual.plot(t, [point.residual for point in diagnosis.field], "o-", ms=4)
    residual.set(title="Fokker-Planck residual", ylabel="relative to ds/dt, rms")
    asymmetry.plot(t, [point.asymmetry for point in diagnosis.field], "o-", ms=4)
    asymmetry.set(title="Asymmetry of the Jacobian", ylabel="|J - J^T| / (2 |J|)")
    for axis in (loss, residual, asymmetry):
        axis.set(xlabel="t", xscale="log", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _scatter(axis: Any, x: Tensor) -> None:
    flat = x.detach().cpu().reshape(len(x), -1).numpy()
    if flat.shape[1] == 1:
        axis.hist(flat[:, 0], bins=60)
    else:
        axis.scatter(flat[:, 0], flat[:, 1], s=2, alpha=0.5)
        axis.set_aspect("equal")
