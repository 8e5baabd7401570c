"""Order conditions of a whole run, checked on its coefficients alone.

The probability-flow ODE in y = x/sigma and the clock r = 1/sigma is dy/dr = D(y, r) (exponential integrators of the data prediction are
quadratures of it). A linear sampler without noise makes y_j = y_0 + sum_i A_ji D_i: a whole run, with its history, is one explicit Runge-Kutta
method of as many stages as it makes calls. Its order conditions are Butcher's (2016, section 301) over all rooted trees tau,

    sum_i b_i Phi_i(tau) = 1/gamma(tau),   Phi_j([tau_1 .. tau_m]) = prod_k sum_i A_ji Phi_i(tau_k),

and the run has order p where the largest residual falls as N^-p. The conditions with the clock itself, sum_i b_i c_i^k = 1/(k+1), find a
sampler that tells the network another level than that of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..numerics.quadrature import gauss_legendre
from .laws import start_error
from .probe import Coefficients

Tree = tuple["Tree", ...]
# Trees of more vertices say nothing about an order of 4 or less.
LARGEST_TREE = 4


class Condition(NamedTuple):
    """One order condition by name, and its residual."""

    name: str
    residual: float


def conditions(run: Coefficients, given: int = 0) -> list[Condition]:
    """The residuals of all conditions of trees up to `LARGEST_TREE` vertices, and those of the clock.

    Args:
        run: without noise, to a last level above 0.
        given: the states up to this call count as exact: the conditions are then those of the steps after it, without the steps that a
            method starts with while it has no history.

    Raises:
        ValueError: the run draws noise, or ends at sigma = 0, where r has no end.
    """
    if float(run.sigmas[-1]) <= 0 or run.stochastic:
        raise ValueError("order conditions are for runs without noise that end at sigma > 0")
    r = 1 / run.sigmas
    span = float(r[-1]) - 1 / run.first
    c = (r - 1 / run.first) / span
    a = run.data * r[:, None] / span
    # Every state holds y_0 once where D = 0 is solved exactly.
    found = [Condition("start", start_error(run))]
    for k in range(1, LARGEST_TREE):
        clock = c[given] ** (k + 1) / (k + 1) + (a[-1] - a[given]) @ c[:-1] ** k
        found.append(Condition(f"b c^{k}", abs(float(clock) - 1 / (k + 1))))
    known: dict[Tree, Tensor] = {}

    def integral(tree: Tree) -> Tensor:
        """sum_i A_ji Phi_i(tree) at every call j and at the end, `(J + 1,)`; c_j^v/gamma up to the given states."""
        if tree not in known:
            phi = torch.ones_like(c)
            for child in tree:
                phi = phi * integral(child)
            exact = c ** vertices_of(tree) / density(tree)
            after = exact[given] + (a - a[given]) @ phi[:-1]
            after[: given + 1] = exact[: given + 1]
            known[tree] = after
        return known[tree]

    for vertices in range(1, LARGEST_TREE + 1):
        found += [Condition(named(tree), abs(float(integral(tree)[-1]) - 1 / density(tree))) for tree in trees(vertices)]
    return found


def worst(run: Coefficients, given: int = 0) -> Condition:
    """The condition with the largest residual."""
    return max(conditions(run, given), key=lambda condition: condition.residual)


def step_at(run: Coefficients, share: float) -> int:
    """The last call at the level that the network was told after this share of the calls: a state where a step starts, and no stage."""
    level = run.sigmas[int(share * run.calls)]
    return int((run.sigmas[:-1] - level).abs().le(1e-9 * level).nonzero()[-1])


@cache
def trees(vertices: int) -> tuple[Tree, ...]:
    """All rooted trees with this many vertices, each as the sorted tuple of the trees at its root."""
    if vertices == 1:
        return ((),)
    return tuple(sorted({grown for tree in trees(vertices - 1) for grown in grown_by_one(tree)}))


def grown_by_one(tree: Tree) -> Iterator[Tree]:
    """The tree with one more leaf, at each vertex in turn."""
    yield tuple(sorted((*tree, ())))
    for k, child in enumerate(tree):
        for grown in grown_by_one(child):
            yield tuple(sorted((*tree[:k], grown, *tree[k + 1 :])))


def vertices_of(tree: Tree) -> int:
    """The number of vertices."""
    return 1 + sum(vertices_of(child) for child in tree)


def density(tree: Tree) -> int:
    """gamma(tau): the product over all vertices of the sizes of the trees that they are the roots of."""
    return vertices_of(tree) * math.prod(density(child) for child in tree)


def named(tree: Tree) -> str:
    """Butcher's name of a tree: t for one vertex, [t t] for a root with two."""
    return "t" if not tree else f"[{' '.join(named(child) for child in tree)}]"


def exact_degree(run: Coefficients, form: str, clock: str, tolerance: float) -> int:
    """The highest degree of polynomials in a clock that the last step integrates exactly; -1 for none.

    The last step is that from the state of the last call, of a method with one call a step. The solution is y_end = y + int D dr for y =
    x/sigma in the form "data", and x_end = x + int E[eps | x] dsigma in the form "noise". A method that is exact to degree K - 1 in
    "lambda" = -log sigma is an exponential Adams method of order K; one in the clock of its own integral is a classical one.

    Args:
        run: to a last level above 0.
        form: "data" or "noise".
        clock: a key of `CLOCKS`.
        tolerance: of the integral, relative to the terms of the sum.
    """
    sigma, of_sigma = run.sigmas, CLOCKS[clock]
    if form == "data":
        measure, weights = 1 / sigma, run.data / sigma[:, None]
    else:
        measure, weights = sigma, noise_form(run)
    w = weights[-1] - weights[-2]
    nodes, gauss = gauss_legendre(24)
    length = measure[-1] - measure[-2]
    inside = measure[-2] + length * nodes
    inside = 1 / inside if form == "data" else inside
    low, width = of_sigma(sigma[-2]), of_sigma(sigma[-1]) - of_sigma(sigma[-2])
    for k in range(LARGEST_TREE):
        at, powers = (((of_sigma(x) - low) / width) ** k for x in (inside, sigma[:-1]))
        exact = length * (gauss * at).sum()
        if abs(w @ powers - exact) > tolerance * (w.abs() @ powers.abs() + exact.abs()):
            return k - 1
    return LARGEST_TREE - 1


def noise_form(run: Coefficients) -> Tensor:
    """E with x_j = x_start + sum_i E_ji eps_i, `(J + 1, J)`, by D_i = x_i - sigma_i eps_i in the rows of `run`."""
    form = torch.zeros_like(run.data)
    for j, row in enumerate(run.data):
        # Row j uses earlier calls only.
        form[j] = row @ form[:-1] - row * run.sigmas[:-1]
    return form


CLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "lambda": lambda sigma: -torch.log(sigma),
    "sigma": lambda sigma: sigma,
    "1/sigma": torch.reciprocal,
}
