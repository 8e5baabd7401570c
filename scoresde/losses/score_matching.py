"""Score matching without a noised pair: how far a model's score s(z, t) is from that of the distribution of z.

    explicit            J = 1/2 |s - grad log q|^2                            Hyvarinen 2005, eq. 2; Bishop, section 20.3.1
    implicit            1/2 |s|^2 + div s                                     Hyvarinen 2005, theorem 1
    sliced              1/2 (v . s)^2 + v . (ds/dz) v                         Song et al. 2019, arXiv 1905.07088, eq. 8
      variance reduced  1/2 |s|^2 + v . (ds/dz) v                             eq. 9: E (v . s)^2 = |s|^2 is known
    finite difference   sliced, with s at z + h v and z - h v                 Pang et al. 2020, arXiv 2007.03317

with directions v of zero mean and unit covariance. Averaged over z ~ q all differ from J by the same constant, 1/2 E|grad log q|^2, and so does
`denoising_at`; their gradients are equal. Every loss is divided by the event's size d, as in `denoising`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..prediction import Model
from ..random import fresh_generator
from ..sde import Time, expand


def explicit(
    model: Model, x: Tensor, target_score: Tensor | Callable[[Tensor], Tensor], *, t: Time | None = None, **cond: Any
) -> Tensor:
    """1/2 |s(x, t) - target_score|^2 / d, of shape `(B,)`: for distributions whose score is known.

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: states, `(B, *event)`.
        target_score: the true score at `x`, of its shape, or a function of `x`.
        t: the time that the model is asked at, a number or `(B,)`; by default `sde.t_min`, where states are nearly data.
        **cond: reaches the network untouched.

    Raises:
        ValueError: the target has another shape than `x`.
    """
    target = target_score if isinstance(target_score, Tensor) else target_score(x)
    if target.shape != x.shape:
        raise ValueError(f"target_score has shape {tuple(target.shape)}, x has {tuple(x.shape)}")
    score = model.score(x, model.sde.t_min if t is None else t, **cond)
    return 0.5 * _mean((score - target) ** 2)


def implicit(
    model: Model,
    z: Tensor,
    t: Time,
    divergence: Literal["exact", "hutchinson"] = "exact",
    *,
    projections: int = 1,
    chunk: int = 16,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    """(1/2 |s|^2 + div s)/d at `z`, of shape `(B,)`.

    Args:
        model: anything with the calls of a `ScoreModel`, whose network must have forward-mode derivatives.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        divergence: "exact": the trace of ds/dz, as expensive as d calls; "hutchinson": v . (ds/dz) v with random signs v, unbiased, which is
            `sliced` with variance reduction.
        projections: number of v, for "hutchinson".
        chunk: how many coordinates of the exact trace are done at once; memory grows with it and, without a graph to keep, not with d.
        generator: where v comes from.
        **cond: reaches the network untouched.
    """
    if divergence == "hutchinson":
        return sliced(model, z, t, projections, generator=generator, **cond)
    if divergence != "exact":
        raise ValueError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")

    def diagonal(i: Tensor) -> tuple[Tensor, Tensor]:
        """s, and ds_i/dz_i for coordinate i of the flattened event."""
        unit = torch.nn.functional.one_hot(i, d).to(z.dtype).reshape(1, *z.shape[1:]).expand_as(z)
        s, column = _score_and_slope(model, z, t, unit, cond)
        return s, _dot(unit, column)

    d = z[0].numel()
    out_dims: Any = (None, 0)  # s is the same for all i
    # Layers that draw (dropout) draw the same for all coordinates.
    several = torch.func.vmap(diagonal, out_dims=out_dims, randomness="same")
    scores, slopes = zip(*(several(i) for i in torch.arange(d, device=z.device).split(chunk)), strict=True)
    return (0.5 * _dot(scores[0], scores[0]) + torch.cat(slopes).sum(0)) / d


def sliced(
    model: Model,
    z: Tensor,
    t: Time,
    projections: int = 1,
    variance_reduced: bool = True,
    *,
    directions: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    """Sliced score matching at `z`, over d, of shape `(B,)`: one forward-mode derivative a projection.

    Args:
        model: anything with the calls of a `ScoreModel`, whose network must have forward-mode derivatives.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        projections: number of random directions that are averaged; random signs (Rademacher).
        variance_reduced: with |s|^2 (eq. 9) in place of (v . s)^2 (eq. 8).
        directions: `(projections, *z.shape)` in place of random ones; zero mean and unit covariance over the draws.
        generator: where the directions come from.
        **cond: reaches the network untouched.

    Raises:
        ValueError: no projection, or directions of another shape.
    """

    def one(v: Tensor) -> Tensor:
        s, slope = _score_and_slope(model, z, t, v, cond)
        square = _dot(s, s) if variance_reduced else _dot(v, s) ** 2
        return (0.5 * square + _dot(v, slope)) / z[0].numel()

    return torch.stack([one(v) for v in _directions(z, projections, directions, generator)]).mean(0)


def finite_difference(
    model: Model,
    z: Tensor,
    t: Time,
    projections: int = 1,
    step: float = 0.03,
    *,
    directions: Tensor | None = None,
    generator: Generator | None = None,
    **cond: Any,
) -> Tensor:
    """Sliced score matching by central differences, two calls a projection and no derivative by `z`; over d, of shape `(B,)`.

    With s+ and s- at z + h v and z - h v, h = step sigma(t),

        1/2 ( v . (s+ + s-)/2 )^2 + v . (s+ - s-)/(2 h),

    which is `sliced` without variance reduction up to O(h^2).

    Args:
        model: anything with the calls of a `ScoreModel`.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        projections: number of random directions that are averaged; random signs.
        step: displacement of each coordinate in units of sigma(t), the length over which a score at t varies. In float32 rounding adds an
            error of about 1e-7/step^2 of the loss.
        directions: `(projections, *z.shape)` in place of random ones.
        generator: where the directions come from.
        **cond: reaches the network untouched.

    Raises:
        ValueError: a step that is not positive, no projection, or directions of another shape.
    """
    if not step > 0:
        raise ValueError(f"step must be positive, got {step}")
    h = step * model.sde.sigma(t)

    def one(v: Tensor) -> Tensor:
        shift = expand(h, z) * v
        after, before = model.score(z + shift, t, **cond), model.score(z - shift, t, **cond)
        slope = _dot(v, after - before)
        return (0.5 * (0.5 * _dot(v, after + before)) ** 2 + slope / expand(2 * h, slope)) / z[0].numel()

    return torch.stack([one(v) for v in _directions(z, projections, directions, generator)]).mean(0)


def _score_and_slope(model: Model, z: Tensor, t: Time, v: Tensor, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """s and (ds/dz) v."""
    out: Any = torch.func.jvp(lambda at: model.score(at, t, **cond), (z,), (v,))
    return out[0], out[1]


def _mean(a: Tensor) -> Tensor:
    """Mean over the coordinates of each event, `(B,)`."""
    return a.reshape(len(a), -1).mean(1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each event, `(B,)`."""
    return (a * b).reshape(len(a), -1).sum(1)


def _directions(z: Tensor, projections: int, given: Tensor | None, generator: Generator | None) -> Iterator[Tensor]:
    """Directions of the shape of `z`, one after the other."""
    if given is not None:
        if given.shape[1:] != z.shape or len(given) == 0:
            raise ValueError(f"directions must have shape (projections, {', '.join(map(str, z.shape))}), got {tuple(given.shape)}")
        yield from given
        return
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    generator = generator or fresh_generator()
    for _ in range(projections):
        signs = torch.randint(0, 2, z.shape, generator=generator, device=generator.device)
        yield (2 * signs - 1).to(z.device, z.dtype)
