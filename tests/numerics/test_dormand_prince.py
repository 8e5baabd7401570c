"""The adaptive integrator: its coefficients, and the pendulum of scipy."""

import math

import pytest
import torch

from scoresde.numerics import dormand_prince as adaptive_ode


def test_integrate_agrees_with_scipy_both_ways():
    """Per-sample steps on a nonlinear pendulum, there and back, against scipy's DOP853."""
    from scipy.integrate import solve_ivp

    def f(u, y, active):
        return torch.stack([y[:, 1], -torch.sin(y[:, 0]) * (1 + u)], 1)

    y = torch.tensor([[0.1, 0.0], [2.5, 0.3]], dtype=torch.float64)
    there, slope, calls = adaptive_ode.integrate(f, 0.0, 3.0, y, adaptive_ode.StepControl(1e-9, 1e-9))
    for i in range(2):
        exact = solve_ivp(
            lambda u, v: [v[1], -math.sin(v[0]) * (1 + u)], (0, 3), y[i].tolist(), method="DOP853", rtol=1e-13, atol=1e-13
        ).y[:, -1]
        torch.testing.assert_close(there[i], torch.from_numpy(exact), rtol=0, atol=1e-8)
    torch.testing.assert_close(slope, f(torch.full((2,), 3.0, dtype=torch.float64), there, None))
    back, _, _ = adaptive_ode.integrate(f, 3.0, 0.0, there, adaptive_ode.StepControl(1e-9, 1e-9))
    torch.testing.assert_close(back, y, rtol=0, atol=1e-7)
    assert calls[0] != calls[1]


def test_embedded_pair_has_orders_5_and_4():
    """The order conditions of quadrature, sum_i b_i c_i^p = 1/(p+1), and every stage consistent: sum_j a_ij = c_i."""
    nodes, high = adaptive_ode.NODES, (*adaptive_ode.STAGES[-1], 0.0)
    low = [b - e for b, e in zip(high, adaptive_ode.ERROR, strict=True)]
    for weights, order in ((high, 5), (low, 4)):
        for p in range(order):
            assert sum(b * c**p for b, c in zip(weights, nodes, strict=True)) == pytest.approx(1 / (p + 1), abs=1e-14)
    for node, stage in zip(nodes[1:], adaptive_ode.STAGES, strict=True):
        assert sum(stage) == pytest.approx(node, abs=1e-14)
    # One step of y' = y is e^h to order h^6: halving h divides the error by 64.
    f = lambda u, y, active: y  # noqa: E731
    errors = []
    for h in (0.4, 0.2):
        y = torch.ones(1, 1, dtype=torch.float64)
        k = [y]
        for stage in adaptive_ode.STAGES:
            k.append(f(0, y + h * sum(a * s for a, s in zip(stage, k, strict=True)), None))
        errors.append(abs(float(k[-1]) - math.exp(h)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.3)
