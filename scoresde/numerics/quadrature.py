"""Weights of quadrature rules: exponential moments, Adams, Lagrange and Gauss-Legendre."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def interpolation_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights c with sum_j c_j d_j^p = M_p for p < K: of the values at the `nodes` d in the integral of their interpolant.

    M_p is the same integral of u^p. The system of Vandermonde is solved by the algorithm of Bjorck and Pereyra (1970), in K^2 operations.
    """
    c, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            c[i] -= nodes[k] * c[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            c[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            c[i] -= c[i + 1]
    return c


def exponential_moments(h: float, order: int, rate: float = 1.0) -> list[float]:
    """M_p / h^p for p < order, with A = rate.

    The recurrence cancels for small A h (float64 has no digit of M_2 left at 1e-5), so there the highest moment is the series
    M_p = A h^{p+1} sum_k (-A h)^k p!/(p+k+1)! and the others follow downwards, where errors shrink by A h/p at a time.
    """
    x = rate * h
    if abs(x) < 0.5:
        # term_k = x (-x)^k p!/(p+k+1)!, until it no longer changes the sum.
        term, total, k = x / order, 0.0, order
        while total + term != total:
            total += term
            k += 1
            term *= -x / k
        moments = [total]
        for p in range(order - 1, 0, -1):
            moments.append(x * (1 - moments[-1]) / p)
        return moments[::-1]
    moments = [-math.expm1(-x)]
    for p in range(1, order):
        moments.append(1 - p / x * moments[-1])
    return moments


def adams_weights(h: float, offsets: Sequence[float], rate: float = 1.0, compat: str | None = None) -> list[float]:
    """The weights c_j that integrate the interpolant through the offsets d_j exactly; K = len(offsets) is the order.

    `compat` replaces a moment by what published code has in its place: "midpoint" M_1 by h M_0/2 where K = 2 (DPM-Solver++ 2M and UniPC's
    B_2), "dpm++3m" M_2 by M_2/2 where K = 3.
    """
    moments = exponential_moments(h, len(offsets), rate)
    if compat is not None and len(offsets) == 2:
        moments[1] = 0.5 * moments[0]
    if compat == "dpm++3m" and len(offsets) == 3:
        moments[2] *= 0.5
    return interpolation_weights([d / h for d in offsets], moments)


@cache
def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the rule on [0, 1], float64."""
    # The eigenvalue method of Golub and Welsch (1969), for Legendre polynomials.
    k = torch.arange(1, count, dtype=torch.float64, device="cpu")
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """The Lagrange polynomials of `nodes` `(K,)` at the points `at` `(n,)`, `(K, n)`."""
    values = []
    for j in range(len(nodes)):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        values.append(((at - others[:, None]) / (nodes[j] - others[:, None])).prod(0))
    return torch.stack(values)


def lagrange_slopes(nodes: Tensor, at: Tensor) -> Tensor:
    """The derivatives of the Lagrange polynomials of `nodes` `(K,)` at the points `at` `(n,)`, `(K, n)`."""
    slopes = []
    for j in range(len(nodes)):
        others = [i for i in range(len(nodes)) if i != j]
        total = torch.zeros_like(at)
        for i in others:
            rest = [(at - nodes[k]) / (nodes[j] - nodes[k]) for k in others if k != i]
            total = total + torch.stack([torch.ones_like(at), *rest]).prod(0) / (nodes[j] - nodes[i])
        slopes.append(total)
    return torch.stack(slopes)


# Adams-Bashforth weights of a uniform grid, newest value first.
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def x_phi1(x: float) -> float:
    """e^x - 1."""
    return math.expm1(x)


def x_phi2(x: float) -> float:
    """(e^x - 1 - x)/x, by its series where it cancels."""
    if abs(x) < 0.5:
        # sum_{k >= 1} x^k/(k+1)!; 16 terms leave 0.5^17/18! < 1e-20.
        return sum(x**k / math.factorial(k + 1) for k in range(1, 17))
    return x_phi1(x) / x - 1
