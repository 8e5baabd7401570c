"""Pictures of samples and plots of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import inf
from pathlib import Path
from statistics import median_low
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from .diagnosis import Diagnosis

# Pixels between two tiles.
LINE = 3

# Characters of a label.
LONGEST_LABEL = 32

# How far the axis of errors goes above the largest error of a typical curve.
CLIP = 5

TO_FINE_SOLVE = "rms distance to a fine solve, same start"


def _figure(width: float, height: float) -> Any:
    # Without pyplot: it keeps global state and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _short(name: str) -> str:
    """The end of a long name, such as the path of a file, which would take the place of the picture."""
    return name if len(name) <= LONGEST_LABEL else "..." + name[3 - LONGEST_LABEL :]


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


def picture(x: Tensor) -> Tensor:
    """Images as a square of tiles, `(H, W, 3)` bytes."""
    columns = max(1, round(len(x) ** 0.5))
    return (tiles(x, columns) * 255).round().to(torch.uint8).expand(-1, -1, 3).contiguous()


def save_samples(x: Tensor, path: Path) -> None:
    """Save images as a square of tiles, other data as a scatter plot of two coordinates or as a histogram of a single one."""
    if is_image(x):
        from PIL import Image

        Image.fromarray(picture(x).numpy()).save(path)
        return
    scatter_figure(x).savefig(path, dpi=120, bbox_inches="tight")


def scatter_figure(x: Tensor, like: Tensor | None = None) -> Any:
    """A scatter plot of two coordinates, or a histogram of a single one. The axes are those of `like`, so that outliers are outside."""
    figure = _figure(5, 5)
    axis = figure.subplots()
    _scatter(axis, x)
    if like is not None:
        flat = like.detach().cpu().reshape(len(like), -1)
        low, high = flat.amin(0) - 0.1 * flat.std(0), flat.amax(0) + 0.1 * flat.std(0)
        axis.set_xlim(float(low[0]), float(high[0]))
        if flat.shape[1] > 1:
            axis.set_ylim(float(low[1]), float(high[1]))
    return figure


def strip(x: Tensor) -> Any:
    """Images `(N, channels, h, w)` in [-1, 1] as one row, enlarged, with gaps that let the page through: a picture of PIL."""
    from PIL import Image

    scale, gap = max(1, round(64 / max(x.shape[2:]))), 8
    shown = ((x.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
    opaque = torch.cat([shown, torch.full_like(shown[:, :1], 255)], 1)
    enlarged = repeat(opaque, "n c h w -> n c (h a) (w b)", a=scale, b=scale)
    row = rearrange(torch.nn.functional.pad(enlarged, (0, gap)), "n c h w -> h (n w) c")[:, :-gap]
    return Image.fromarray(row.contiguous().numpy(), "RGBA")


def save_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Save the losses of a training run over its iterations, one point for each row of the history."""
    figure = _figure(6, 4)
    axes = figure.subplots()
    names = {"loss": "training", "validation": "held-out", "zero": "predicting zero"}
    for name, label in names.items():
        rows = [row for row in history if name in row]
        if rows:
            axes.plot(
                [row["iteration"] for row in rows], [row[name] for row in rows], "--" if name == "zero" else ".-", label=label
            )
    axes.set(xlabel="iteration", ylabel="loss", yscale="log" if all(row["loss"] > 0 for row in history) else "linear")
    axes.legend()
    figure.savefig(path, dpi=120)


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
            axis.set_ylabel(_short(name), rotation=0, ha="right", va="center")
            axis.set(xticks=[], yticks=[])
    else:
        columns = min(4, len(rows))
        lines = -(-len(rows) // columns)
        figure = _figure(3 * columns, 3 * lines)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
        for axis, (name, x) in zip(axes, rows.items(), strict=False):
            _scatter(axis, x)
            axis.set_title(_short(name))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def save_error_plot(curves: Mapping[str, Sequence[tuple[int, float]]], path: Path, error: str = TO_FINE_SOLVE) -> None:
    """Save `error_figure`."""
    error_figure(curves, error).savefig(path, dpi=120, bbox_inches="tight")


def error_figure(
    curves: Mapping[str, Sequence[tuple[int, float]]], error: str = TO_FINE_SOLVE, size: tuple[float, float] = (6, 4.2)
) -> Any:
    """A plot of error against network calls, both logarithmic. `curves` maps the name of a solver to its `(nfe, error)` pairs.

    The axis ends at `CLIP` times the largest error of a typical curve, so that one that explodes leaves room for the others. Errors above are
    triangles at the upper edge.

    Args:
        curves: by the name of the solver.
        error: what the error is, for the axis.
        size: of the figure, in inches.
    """
    figure = _figure(*size)
    axis = figure.subplots()
    bottom, top = _limits(curves)
    for (name, pairs), marker in zip(curves.items(), cycle("osDv<>Pp*"), strict=False):
        (line,) = axis.loglog(
            *zip(*pairs, strict=True), marker=marker, label=_short(name), linestyle="-" if len(pairs) > 1 else "none"
        )
        above = [nfe for nfe, error in pairs if error > top]
        if above:
            axis.set_ylim(bottom, top)
            axis.plot(
                above, [top] * len(above), marker="^", color=line.get_color(), linestyle="none", ms=9, clip_on=False, zorder=3
            )
    if any(error > top for pairs in curves.values() for _, error in pairs):
        axis.plot([], [], marker="^", color="gray", linestyle="none", ms=9, label="larger error")
    axis.set(xlabel="network calls per sample", ylabel=error)
    ticks = _ticks(curves)
    axis.set_xticks(ticks, [str(nfe) for nfe in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    # Below the plot, where it hides no curve.
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def bound_figure(bound: Tensor, error: Tensor) -> Any:
    """The errors of samples against their bounds, with the line where they are equal."""
    figure = _figure(4.8, 3.9)
    axis = figure.subplots()
    holds = error <= bound
    axis.plot(bound[holds], error[holds], "o", ms=4, alpha=0.6, label=f"within the bound: {int(holds.sum())}")
    axis.plot(bound[~holds], error[~holds], "s", ms=5, label=f"beyond it: {int((~holds).sum())}")
    end = float(bound.max())
    axis.plot([0, end], [0, end], "k--", lw=1, label="error = bound")
    axis.set(xlabel="bound", ylabel="rms error against the fine solve", xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _ticks(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[int]:
    """The calls of the curve with the most points, and of what lies far to the right of it."""
    # Of one curve only: a solver of two calls a step has odd numbers between those of the others.
    finest = max(curves.values(), key=lambda pairs: (len(pairs), pairs[0][0] + pairs[-1][0]))
    ticks = [nfe for nfe, _ in finest]
    return ticks + sorted({nfe for pairs in curves.values() for nfe, _ in pairs if nfe > 1.2 * ticks[-1]})


def _limits(curves: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[float, float]:
    """The ends of the axis of errors. Above, `CLIP` times the median over curves of their largest error; single points count where there is no
    curve.
    """
    shown = [[error for _, error in pairs if 0 < error < inf] for pairs in curves.values()]
    largest = [max(errors) for errors in shown if len(errors) > 1] or [max(errors) for errors in shown if errors]
    if not largest:
        return 0.0, inf
    return min(min(errors) for errors in shown if errors) / 1.5, CLIP * median_low(largest)


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
    residual.set(title="Fokker-Planck residual", ylabel="relative to ds/dt or f s, rms")
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
