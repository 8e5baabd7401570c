"""Integrals of polynomials under exponential weights."""

import math

import pytest

from scoresde.numerics.quadrature import adams_weights, exponential_moments


@pytest.mark.parametrize("h", [1e-8, 1e-5, 1e-3, 0.1, 0.499, 0.501, 2.0, 20.0])
def test_exponential_moments_against_many_digits(h):
    """M_p/h^p = int_0^h e^{u-h} (u/h)^p du by its recurrence in 60 digits, where it does not cancel."""
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    d = Decimal(h)
    exact = [1 - (-d).exp()]
    for p in range(1, 4):
        exact.append(1 - p / d * exact[-1])
    assert exponential_moments(h, 4) == pytest.approx([float(v) for v in exact], rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_weights_integrate_polynomials(order):
    """sum_j c_j d_j^p must be int_0^h e^{u-h} u^p du, here by a Gauss-Legendre rule of scipy."""
    from scipy.integrate import fixed_quad

    h, offsets = 0.7, [0.0, -0.4, -1.1][:order]
    weights = adams_weights(h, offsets)
    for p in range(order):
        exact, _ = fixed_quad(lambda u, p=p: math.e ** (u - h) * u**p, 0, h, n=20)
        assert sum(c * d**p for c, d in zip(weights, offsets, strict=True)) == pytest.approx(exact, abs=1e-13)
