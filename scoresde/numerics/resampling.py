"""Weights of particles in groups of K: their effective number, and systematic resampling (Kitagawa 1996; Douc et al. 2005).

Log-weights are `(G, K)`. Nothing crosses groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normalised(log_weights: Tensor) -> Tensor:
    """Log-weights with the sum of weights 1 in each group."""
    return log_weights - log_weights.logsumexp(1, keepdim=True)


def effective_number(log_weights: Tensor) -> Tensor:
    """1/sum_k w_k^2 of the normalised weights, `(G,)`, from 1 to K."""
    return (-(2 * normalised(log_weights)).logsumexp(1)).exp()


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """The particles that stay, indices `(G, K)`: particle k comes floor(K w_k) or ceil(K w_k) times.

    Args:
        log_weights: `(G, K)`.
        u: uniform numbers in [0, 1), one for each group, `(G,)`.
    """
    k = log_weights.shape[1]
    places = (torch.arange(k, device=u.device) + u[:, None]) / k
    ends = normalised(log_weights).exp().cumsum(1)
    # Rounding may leave the last end below 1.
    ends[:, -1] = 1.0
    return torch.searchsorted(ends, places.to(ends.dtype)).clamp(max=k - 1)


def uniforms(normals: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) from standard normal ones."""
    return (0.5 * (1 + torch.erf(normals.double() / math.sqrt(2)))).clamp(max=1 - 1e-12)
