"""Linear matrix equations by Magnus's method of order 4, and processes whose Psi is their solution.

Psi' = P Psi with P = F + (1 + eta^2)/2 G G^T Sigma^{-1} is solved in log t, where P t is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .linear import LinearSDE

# Times (n,) -> coefficients (n, K) or (n, K, m, m).
Rates = Callable[[Tensor], Tensor]

# Magnus steps for a factor e in t.
STEPS_PER_E = 128


def propagators(rates: Rates, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """e^{...} of C' = rates(u) C from `start` to `end`, entry by entry, `(n, K, m, m)`, by `steps` steps of Magnus's method of order 4.

    With the Gauss nodes u_1 and u_2 of a step of length h and A_i = rates(u_i) (Blanes et al. 2009, Physics Reports 470, eq. 253),

        C  ->  exp( h/2 (A_1 + A_2) + sqrt(3)/12 h^2 (A_2 A_1 - A_1 A_2) ) C.

    Args:
        rates: times `(n,)` -> `(n, K, m, m)`, or `(n, K)` for blocks of one channel.
    """
    h = (end - start) / steps
    left = start[:, None] + h[:, None] * torch.arange(steps, dtype=torch.float64, device=start.device)
    node = math.sqrt(3) / 6
    one, two = (rates((left + (0.5 + sign * node) * h[:, None]).reshape(-1)) for sign in (-1, 1))
    scale = h.repeat_interleave(steps).reshape(-1, *(1,) * (one.ndim - 1))
    exponent = 0.5 * scale * (one + two)
    if one.ndim == 2:
        return exponent.reshape(len(start), steps, -1).sum(1).exp()
    exponent = exponent + math.sqrt(3) / 12 * scale**2 * (two @ one - one @ two)
    parts = torch.linalg.matrix_exp(exponent).reshape(len(start), steps, *one.shape[1:])
    product = parts[:, 0]
    for k in range(1, steps):
        product = parts[:, k] @ product
    return product


class BackwardByMagnus(LinearSDE):
    """A path whose Psi is solved for."""

    def backward(self, s: Tensor, t: Tensor, eta: float = 0.0) -> Tensor:
        def rates(u: Tensor) -> Tensor:
            at = u.exp()
            p = self.reverse_rates(at, eta)
            return at.reshape(-1, *(1,) * (p.ndim - 1)) * p

        start, end = s.log(), t.log()
        steps = max(2, math.ceil(STEPS_PER_E * float((start - end).max())))
        return propagators(rates, start, end, steps)
