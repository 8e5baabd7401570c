"""The density along a path of the reverse SDE, without a divergence (Skreta et al. 2024, arXiv 2412.17762, theorem 1).

Along dz = (-f z + g^2 s) dtau + g dW, with tau = 1 - t and the exact score s,

    d log q(z, t) = s . dz + ( f d + f z . s - g^2/2 |s|^2 ) dtau.

Its error falls as the root of the number of steps: 200 steps leave about a nat on a mixture in two dimensions. `log_likelihood` is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..models.base import Model
from ..numerics.arrays import event_sum, expand, flatten_events
from ..numerics.inputs import as_numbers, as_state
from ..numerics.random import as_generator, randn


@torch.no_grad()
def path_log_density(
    model: Model, z: Tensor, times: Tensor | Sequence[float], generator: Generator | None = None, **cond: Any
) -> tuple[Tensor, Tensor]:
    """Follow the reverse SDE from `z` by Euler-Maruyama and sum up d log q.

    Args:
        model: whose score is followed.
        z: states at the first time, `(B, *event)`.
        times: falling, `(N+1,)`.
        generator: the source of the noise.
        **cond: passed to the model.

    Returns:
        The states at the last time, of the shape of `z`, and log q there minus log q at the start, `(B,)` float64 in nats.

    Raises:
        TypeError: `z` holds no real numbers.
    """
    z, generator, sde = as_state("z", z), as_generator(generator), model.sde
    d = flatten_events(z).shape[1]
    change = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    at = as_numbers("times", times).tolist()
    for t, s in itertools.pairwise(at):
        score = model.score(z, t, **cond)
        f, g2, h = sde.drift_rate(t), sde.diffusion(t) ** 2, t - s
        noise = randn(z.shape, generator, dtype=z.dtype, device=z.device)
        dz = h * (expand(g2, z) * score - expand(f, z) * z) + expand((g2 * h).sqrt(), z) * noise
        rate = float(f) * (d + event_sum((z * score).double())) - 0.5 * float(g2) * event_sum(score.double() ** 2)
        change = change + event_sum((score * dz).double()) + h * rate
        z = z + dz
    return z, change
