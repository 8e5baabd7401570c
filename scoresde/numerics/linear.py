"""Linear systems K u = b of many samples at once, by products with K alone. Every sample has its own step sizes and its own end.

`conjugate_gradient` (Hestenes and Stiefel 1952) is for symmetric positive definite K, `gmres` (Saad and Schultz 1986, algorithm 3) for any.
Both are exact after m products in m dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class Solution(NamedTuple):
    """The solution `(B, m)`, the products that were made, and whether K was found indefinite, `(B,)`."""

    x: Tensor
    products: int
    indefinite: Tensor


def conjugate_gradient(apply: Product, b: Tensor, iterations: int, tolerance: float, floor: Product | None = None) -> Solution:
    """K u = b for symmetric K, until the residual is `tolerance` |b| or `iterations` products are made.

    Args:
        apply: u -> K u, both `(B, m)`.
        b: `(B, m)`.
        iterations: the most products.
        tolerance: relative to |b|, for each sample.
        floor: u -> F u of a positive definite part F of K. Where a rounded or untrained K - F has a negative curvature along a direction, that
            of F takes its place.
    """
    x, r = torch.zeros_like(b), b
    p, rr = r, _dot(r, r)
    enough = tolerance**2 * rr
    indefinite = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    done = 0
    while done < iterations:
        active = rr > enough  # False for NaN: that sample has no solution
        if not bool(active.any()):
            break
        kp = apply(p)
        done += 1
        curvature = _dot(p, kp)
        least = torch.zeros_like(curvature) if floor is None else _dot(p, floor(p))
        below = active & (curvature < least)
        indefinite = indefinite | below
        curvature = torch.maximum(curvature, least)
        step = torch.where(active & (curvature > 0), rr / torch.where(curvature > 0, curvature, 1.0), 0.0)[:, None]
        x, r = x + step * p, r - step * kp
        new = _dot(r, r)
        # A direction without curvature, or one whose curvature was replaced, ends the search: the recursion holds no more.
        new = torch.where(active & ~below & (curvature > 0), new, 0.0)
        p = r + torch.where(active, new / torch.where(rr > 0, rr, 1.0), 0.0)[:, None] * p
        rr = torch.where(active, new, rr.clamp(max=0.0) if tolerance == 0 else torch.minimum(rr, enough))
    return Solution(x, done, indefinite)


def gmres(apply: Product, b: Tensor, iterations: int, tolerance: float) -> Solution:
    """K u = b for any K: the smallest residual over the span of b, K b, ..., by Gram-Schmidt and Givens rotations.

    Args:
        apply, b, iterations, tolerance: as in `conjugate_gradient`.
    """
    batch, most = len(b), min(iterations, b.shape[1])
    size = b.norm(dim=1)
    basis = [b / torch.where(size > 0, size, 1.0)[:, None]]
    upper = b.new_zeros(batch, most, most)
    rhs = [size]
    rotations: list[tuple[Tensor, Tensor]] = []
    residual, done = size, 0
    lengths = torch.zeros(batch, dtype=torch.int64, device=b.device)
    while done < most:
        active = residual > tolerance * size
        if not bool(active.any()):
            break
        w = apply(basis[done])
        column = []
        for v in basis:
            h = _dot(v, w)
            w = w - h[:, None] * v
            column.append(h)
        beta = w.norm(dim=1)
        basis.append(w / torch.where(beta > 0, beta, 1.0)[:, None])
        for i, (c, s) in enumerate(rotations):
            column[i], column[i + 1] = c * column[i] + s * column[i + 1], -s * column[i] + c * column[i + 1]
        length = torch.hypot(column[done], beta)
        c, s = (torch.where(length > 0, a / torch.where(length > 0, length, 1.0), o) for a, o in ((column[done], 1.0), (beta, 0.0)))
        rotations.append((c, s))
        column[done] = length
        upper[:, : done + 1, done] = torch.stack(column, 1)
        rhs[done], after = c * rhs[done], -s * rhs[done]
        rhs.append(after)
        done += 1
        lengths = torch.where(active, done, lengths)
        residual = torch.where(active, after.abs(), residual)
    # Back substitution, with the columns beyond a sample's own end left out.
    y: list[Tensor] = []
    for i in reversed(range(done)):
        total = rhs[i] - sum((upper[:, i, j] * y[done - 1 - j] for j in range(i + 1, done)), torch.zeros_like(size))
        pivot = upper[:, i, i]
        y.append(torch.where((i < lengths) & (pivot != 0), total / torch.where(pivot != 0, pivot, 1.0), 0.0))
    x = sum((coefficient[:, None] * v for coefficient, v in zip(reversed(y), basis, strict=False)), torch.zeros_like(b))
    return Solution(x, done, torch.zeros(batch, dtype=torch.bool, device=b.device))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)
