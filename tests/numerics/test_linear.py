"""Solves of many systems at once against dense solves."""

import pytest
import torch

from scoresde.numerics.linear import conjugate_gradient, gmres

from ..conftest import generator


def systems(batch=5, m=8, symmetric=True, seed=0):
    a = torch.randn(batch, m, m, dtype=torch.float64, generator=generator(seed))
    a = a @ a.mT + 0.1 * torch.eye(m, dtype=torch.float64) if symmetric else a + 4 * torch.eye(m, dtype=torch.float64)
    return a, torch.randn(batch, m, dtype=torch.float64, generator=generator(seed + 1))


@pytest.mark.parametrize(("solver", "symmetric"), [(conjugate_gradient, True), (gmres, True), (gmres, False)])
def test_solutions_are_those_of_a_dense_solve(solver, symmetric):
    a, b = systems(symmetric=symmetric)
    solution = solver(lambda u: torch.einsum("bij,bj->bi", a, u), b, 40, 1e-12)
    torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=0, atol=1e-8)
    assert solution.products <= 40


@pytest.mark.parametrize("solver", [conjugate_gradient, gmres])
def test_every_system_ends_by_itself(solver):
    a, b = systems()
    a[1] = torch.eye(8, dtype=torch.float64)  # after one product
    b[2] = 0
    b[3] = torch.nan
    products = []

    def apply(u):
        products.append(u)
        return torch.einsum("bij,bj->bi", a, u)

    solution = solver(apply, b, 40, 1e-10)
    good = [0, 1, 2, 4]
    torch.testing.assert_close(solution.x[good], torch.linalg.solve(a[good], b[good]), rtol=0, atol=1e-7)
    alone = solver(lambda u: torch.einsum("bij,bj->bi", a[:1], u), b[:1], 40, 1e-10)
    torch.testing.assert_close(alone.x[0], solution.x[0], rtol=0, atol=1e-12)
    assert len(products) == solution.products


def test_the_number_of_products_is_a_bound():
    a, b = systems()
    calls = []

    def apply(u):
        calls.append(1)
        return torch.einsum("bij,bj->bi", a, u)

    one = conjugate_gradient(apply, b, 1, 0.0)
    assert len(calls) == 1
    # The first step of steepest descent.
    ab = torch.einsum("bij,bj->bi", a, b)
    torch.testing.assert_close(one.x, ((b * b).sum(1) / (b * ab).sum(1))[:, None] * b)
    assert gmres(apply, b, 3, 0.0).products == 3


def test_a_negative_curvature_falls_back_to_the_floor():
    a = -torch.eye(3, dtype=torch.float64)[None]
    b = torch.ones(1, 3, dtype=torch.float64)
    solution = conjugate_gradient(lambda u: torch.einsum("bij,bj->bi", a, u), b, 10, 1e-8, lambda u: 2 * u)
    assert bool(solution.indefinite)
    torch.testing.assert_close(solution.x, b / 2)
