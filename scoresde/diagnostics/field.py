"""Two necessary conditions on a field s(z, t) that is the score of a diffused distribution. Both are checked without the exact score.

First, S = grad log q(z_t) is a gradient, so that its Jacobian J = dS/dz is symmetric (Chao et al. 2022, arXiv 2209.12753). With
A = (J - J^T)/2,

    |A|_F / |J|_F = 0.        For any field the ratio is between 0 and 1 (a pure rotation), as |J|_F^2 = |A|_F^2 + |J - A|_F^2.

Second, log q obeys the Fokker-Planck equation of dz = f z dt + g dw, whose gradient is (Lai et al. 2023, arXiv 2210.04296, section 3)

    dS/dt = grad[ g^2/2 (div S + |S|^2) - f z . S - f d ].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from ..losses.score_matching import implicit
from ..models.base import Model, require_model
from ..numerics.arrays import Time, event_sum, expand
from ..numerics.brief import line, shown
from ..numerics.inputs import as_count, as_number, as_state
from ..numerics.jacobian import differentiable_attention, random_signs
from ..numerics.random import as_generator
from ..sde.base import as_time


class FokkerPlanck(NamedTuple):
    """The residual of the equation, and ds/dt as its scale.

    Attributes:
        residual: `(B, *event)` ds/dt less the right-hand side; 0 for a score.
        time_derivative: `(B, *event)` ds/dt.
    """

    residual: Tensor
    time_derivative: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))


class DivergenceFreePart(NamedTuple):
    """Squared Frobenius norms of the Jacobian of each sample.

    Attributes:
        antisymmetric: `(B,)` |A|_F^2.
        total: `(B,)` |J|_F^2.
    """

    antisymmetric: Tensor
    total: Tensor

    def __repr__(self) -> str:
        return line(type(self).__name__, *(f"{name}={shown(value)}" for name, value in self._asdict().items()))

    @property
    def share(self) -> Tensor:
        """|A|_F/|J|_F over all samples, a number from 0 (a gradient) to 1 (a rotation)."""
        return (self.antisymmetric.sum() / self.total.sum()).sqrt()


def fokker_planck_residual(
    model: Model,
    z: Tensor,
    t: Time,
    divergence: Literal["exact", "hutchinson"] = "exact",
    *,
    projections: int = 1,
    step: float = 1e-4,
    generator: Generator | None = None,
    **cond: Any,
) -> FokkerPlanck:
    """The residual of the Fokker-Planck equation of the score at `z`. Derivatives by z are exact; that by t is a central difference.

    On a chain the rate jumps at the times i/T, so that ds/dt exists only between them: take t = (i - 1/2)/T and `step` below 1/(2T).

    Args:
        model: anything with the calls of a `ScoreModel`, whose network can be differentiated twice by its input; best in float64.
        z: states, `(B, *event)`.
        t: a number or `(B,)`.
        divergence: "exact": 2d backward passes; "hutchinson": two per projection. With "hutchinson" the residual is unbiased, and its square is
            too large by its variance.
        projections: for "hutchinson".
        step: h of (s(t + h) - s(t - h))/(2h), whose error is O(h^2).
        generator: the source of the projections.
        **cond: passed to the network.

    Raises:
        ValueError: t - h or t + h outside [0, 1], or an unknown divergence.
    """
    require_model(model, "score")
    z, t, sde, step = as_state("z", z), as_time(t), model.sde, as_number("step", step, above=0.0)
    d = z.shape[1:].numel()
    if bool(((t - step < 0) | (t + step > 1)).any()):
        raise ValueError(f"t - step and t + step must lie in [0, 1], got step={step} at t={t.tolist()}")
    half_g2, f = 0.5 * sde.diffusion(t) ** 2, sde.drift_rate(t)
    with torch.enable_grad(), differentiable_attention():
        z = z.detach().requires_grad_()
        s = model.score(z, t, **cond)
        loss = implicit(model, z, t, divergence, projections=projections, generator=generator, **cond)
        # implicit is (div s + |s|^2/2)/d
        potential = expand(half_g2, loss) * (d * loss + 0.5 * event_sum(s * s)) - expand(f, loss) * event_sum(z * s)
        (right,) = torch.autograd.grad(potential.sum(), z)
    with torch.no_grad():
        change = model.score(z, t + step, **cond) - model.score(z, t - step, **cond)
    time_derivative = change / (2 * step)
    return FokkerPlanck(time_derivative - right, time_derivative)


def divergence_free_part(
    model: Model,
    z: Tensor,
    t: Time,
    probes: int | None = None,
    *,
    generator: Generator | None = None,
    **cond: Any,
) -> DivergenceFreePart:
    """The norms of A and J at `z`, from products with vectors v of covariance I,

        |A|_F^2 = E | (J v - J^T v)/2 |^2,        |J|_F^2 = E | J^T v |^2.

    The sum over the d unit vectors is exact, and the mean over random signs is unbiased. |A|_F^2 is 0 for a score.

    Args:
        model: anything with the calls of a `ScoreModel`, whose network can be differentiated twice by its input.
        z: states, `(B, *event)`.
        t: a number or `(B,)`.
        probes: number of random v, for three backward passes each; by default all d unit vectors.
        generator: the source of the probes.
        **cond: passed to the network.

    Raises:
        ValueError: no probe.
    """
    require_model(model, "score")
    z, probes = as_state("z", z), None if probes is None else as_count("probes", probes)
    with torch.enable_grad(), differentiable_attention():
        z = z.detach().requires_grad_()
        s = model.score(z, t, **cond)
        # J^T u is linear in u, so that its own backward pass by u is J v.
        u = torch.zeros_like(s, requires_grad=True)
        (pulled,) = torch.autograd.grad(s, z, u, create_graph=True)
    antisymmetric, total = s.new_zeros(len(z)), s.new_zeros(len(z))
    for v in _vectors(z, probes, generator):
        (left,) = torch.autograd.grad(s, z, v, retain_graph=True)
        (right,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
        antisymmetric += 0.25 * event_sum((right - left) * (right - left))
        total += event_sum(left * left)
    return DivergenceFreePart(antisymmetric / (probes or 1), total / (probes or 1))


def _vectors(z: Tensor, probes: int | None, generator: Generator | None) -> Iterator[Tensor]:
    """All unit vectors, or `probes` random signs, of the shape of `z`."""
    if probes is None:
        for unit in torch.eye(z.shape[1:].numel(), dtype=z.dtype, device=z.device):
            yield unit.reshape(1, *z.shape[1:]).expand_as(z)
        return
    generator = as_generator(generator)
    for _ in range(probes):
        yield random_signs(z, generator)
