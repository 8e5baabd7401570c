"""Score matching without a noised pair: how far a model's score s(z, t) is from that of the distribution of z.

    explicit            J = 1/2 |s - grad log q|^2                            Hyvarinen 2005, eq. 2; Bishop, section 20.3.1
    implicit            1/2 |s|^2 + div s                                     Hyvarinen 2005, theorem 1
    sliced              1/2 (v . s)^2 + v . (ds/dz) v                         Song et al. 2019, arXiv 1905.07088, eq. 8
      variance reduced  1/2 |s|^2 + v . (ds/dz) v                             eq. 9: E (v . s)^2 = |s|^2 is known
    finite difference   sliced, with s at z + h v and z - h v                 Pang et al. 2020, arXiv 2007.03317

with directions v of zero mean and unit covariance. On average over z ~ q all of them, and `denoising_at`, differ from J by the same constant,
1/2 E|grad log q|^2. Their gradients are therefore equal. Every loss is divided by the event's size d, as in `denoising`.

Derivatives by the state are v^T (ds/dz) in reverse mode, with a graph where gradients are enabled. Forward mode would be cheaper, but its own
gradient is silently wrong through layer normalisation (torch 2.13, pytorch issue 196700).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..models.base import Model, require_model
from ..numerics.arrays import Time, event_mean, event_sum, expand
from ..numerics.inputs import as_count, as_number, as_state, as_state_like
from ..numerics.jacobian import differentiable_attention, random_signs, vector_jacobian_products
from ..numerics.random import as_generator


def explicit(
    model: Model, x: Tensor, /, target_score: Tensor | Callable[[Tensor], Tensor], *, t: Time | None = None, **cond: Any
) -> Tensor:
    """1/2 |s(x, t) - target_score|^2 / d, of shape `(B,)`, for distributions with a known score.

    Args:
        model: anything with the calls of a `ScoreModel`.
        x: states, `(B, *event)`.
        target_score: the true score at `x`, of the shape of `x`, or a function of `x`.
        t: the time of the model, a number or `(B,)`; by default `sde.t_min`, where states are nearly data.
        **cond: passed to the network.

    Raises:
        TypeError: `x` or the target holds no real numbers.
        ValueError: the target has another shape than `x`.
    """
    require_model(model, "score")
    x = as_state("x", x)
    target = as_state_like("target_score", target_score(x) if callable(target_score) else target_score, x, "x")
    score = model.score(x, model.sde.t_min if t is None else t, **cond)
    return 0.5 * event_mean((score - target) ** 2)


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
    """(1/2 |s|^2 + div s)/d at `z`, of shape `(B,)`. Under `torch.no_grad()` no graph is kept.

    Args:
        model: anything with the calls of a `ScoreModel`, whose network can be differentiated twice by its input.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        divergence: "exact": the trace of ds/dz, for d backward passes; "hutchinson": v . (ds/dz) v with random signs v, unbiased. The second
            is `sliced` with variance reduction.
        projections: the number of v, for "hutchinson".
        chunk: coordinates of the exact trace that are computed at once. Memory grows with `chunk`, and with d only where a graph is kept.
        generator: the source of v.
        **cond: passed to the network.

    Raises:
        TypeError: `z` holds no real numbers.
        ValueError: an unknown divergence, no projection, or a chunk below 1.
    """
    if divergence == "hutchinson":
        return sliced(model, z, t, projections, generator=generator, **cond)
    if divergence != "exact":
        raise ValueError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    chunk = as_count("chunk", chunk)
    z, s = _score(model, z, t, cond)
    d = z.shape[1:].numel()
    trace = torch.zeros(len(z), dtype=s.dtype, device=s.device)
    for i in torch.arange(d, device=z.device).split(chunk):
        units = torch.nn.functional.one_hot(i, d).to(s.dtype).reshape(-1, 1, *z.shape[1:]).expand(-1, *z.shape)
        trace = trace + (_vector_jacobian(s, z, units) * units).reshape(len(i), len(z), d).sum((0, 2))
    return _loss(s, trace)


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
    """Sliced score matching at `z`, divided by d, of shape `(B,)`: one network call, and one derivative per projection.

    Args:
        model: anything with the calls of a `ScoreModel`, whose network can be differentiated twice by its input.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        projections: number of random directions, whose losses are averaged; random signs (Rademacher).
        variance_reduced: with |s|^2 (eq. 9) in place of (v . s)^2 (eq. 8).
        directions: `(projections, *z.shape)` in place of random ones; zero mean and unit covariance over the draws.
        generator: the source of the directions.
        **cond: passed to the network.

    Raises:
        TypeError: `z` or `directions` holds no real numbers.
        ValueError: no projection, or directions of another shape.
    """
    z, s = _score(model, z, t, cond)

    def one(v: Tensor) -> Tensor:
        slope = event_sum(_vector_jacobian(s, z, v[None])[0] * v)
        return _loss(s, slope) if variance_reduced else (0.5 * event_sum(v * s) ** 2 + slope) / z.shape[1:].numel()

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
    """Sliced score matching by central differences, divided by d, of shape `(B,)`: two network calls per projection, no derivative by `z`.

    With s+ and s- at z + h v and z - h v, h = step sigma(t),

        1/2 ( v . (s+ + s-)/2 )^2 + v . (s+ - s-)/(2 h),

    which is `sliced` without variance reduction up to O(h^2).

    Args:
        model: anything with the calls of a `ScoreModel`.
        z: states of time t, `(B, *event)`.
        t: a number or `(B,)`.
        projections: number of random directions, whose losses are averaged; random signs.
        step: displacement of each coordinate in units of sigma(t), the length over which a score at t varies. Rounding adds a
            relative error of about 1e-7/step in float32.
        directions: `(projections, *z.shape)` in place of random ones.
        generator: the source of the directions.
        **cond: passed to the network.

    Raises:
        TypeError: `z` or `directions` holds no real numbers.
        ValueError: a step that is not positive, no projection, or directions of another shape.
    """
    require_model(model, "score")
    z, step = as_state("z", z), as_number("step", step, above=0.0)
    h = step * model.sde.sigma(t)

    def one(v: Tensor) -> Tensor:
        shift = expand(h, z) * v
        after, before = model.score(z + shift, t, **cond), model.score(z - shift, t, **cond)
        slope = event_sum(v * (after - before))
        return (0.5 * (0.5 * event_sum(v * (after + before))) ** 2 + slope / expand(2 * h, slope)) / z.shape[1:].numel()

    return torch.stack([one(v) for v in _directions(z, projections, directions, generator)]).mean(0)


def _score(model: Model, z: Tensor, t: Time, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A leaf of the graph with the values of `z`, or `z` itself if it requires gradients, and the score there."""
    require_model(model, "score")
    z = as_state("z", z)
    z = z if z.requires_grad else z.detach().requires_grad_()
    with torch.enable_grad(), differentiable_attention():
        return z, model.score(z, t, **cond)


def _vector_jacobian(s: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """v^T (ds/dz) for directions `(k, *z.shape)`, of their shape, with a graph where gradients are enabled."""
    grad = torch.is_grad_enabled()
    # With a graph one by one: vmap over a differentiable backward pass fails in some layers (interpolation).
    return vector_jacobian_products(s, z, v, 1 if grad else len(v), grad)


def _loss(s: Tensor, divergence: Tensor) -> Tensor:
    """(1/2 |s|^2 + divergence)/d, `(B,)`."""
    return (0.5 * event_sum(s * s) + divergence) / s.shape[1:].numel()


def _directions(z: Tensor, projections: int, directions: Tensor | None, generator: Generator | None) -> Iterator[Tensor]:
    """The directions, or random signs, of the shape of `z`."""
    if directions is not None:
        directions = as_state("directions", directions)
        if directions.shape[1:] != z.shape or len(directions) == 0:
            raise ValueError(
                f"directions must have shape (projections, {', '.join(map(str, z.shape))}), got {tuple(directions.shape)}"
            )
        yield from directions
        return
    generator = as_generator(generator)
    for _ in range(as_count("projections", projections)):
        yield random_signs(z, generator)
