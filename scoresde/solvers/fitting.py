"""A solver fitted to one model: closed-form coefficients, on the solver's own states, and searched times.

Every deterministic method with one network call a step has the form

    z_{n+1} = a_n z_n + sum_{j<=n} b_nj D_j,        n = 0..N-1.

The fit keeps what theory says for the current times and adds, step by step, the correction c that brings M starts closest to their fine
solutions Z,

    minimise over c    sum_i w_i |Z_i(t_{n+1}) - theory_i - c . F_i|^2 + rho |S c|^2,     F = (z_n, D_n, D_n - D_{n-1}, ...),

where z_n and D_n are those of the corrected steps before: what an early step gets wrong a later one sees. The problem is linear
in c, so nothing is differentiated through the network. The form is that of Wang et al. 2025 (arXiv 2502.17423, "GS") and Shaul et al. 2024
(arXiv 2403.01329, "BNS"), which train it by gradient; the regression along the own path is that of Duan et al. 2023 (arXiv 2305.14677, "OLSS").
New here are the ridge towards theory and the search of the times on starts that the coefficients have not seen.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..prediction import Model
from ..sde import SDE
from .base import Solver
from .bound import BoundSolver, scales
from .executor import combine
from .selection import Ranked, Selected, rank, require, solve, summary
from .tableau import Row, Tableau
from .teacher import Cond, Teacher, distance, given, parts, predict, starts, teach

FeatureMap = Callable[[Tensor], Tensor]
RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
MOVES = (0.4, 0.2, 0.1, 0.05)


@dataclass(frozen=True)
class Multistep:
    """The coefficients of the form above.

    Attributes:
        times: t_0 > ... > t_N = 0.
        a: `(N,)` float64.
        b: `(N, N)` float64, zero above the diagonal.
    """

    times: Tensor
    a: Tensor
    b: Tensor

    def table(self, sde: SDE) -> Tableau:
        """As a tableau."""
        rows = []
        for n, (a, b) in enumerate(zip(self.a.tolist(), self.b.tolist(), strict=True)):
            rows.append(Row({n: a} if a else {}, {j: c for j, c in enumerate(b[: n + 1]) if c}))
        marks = tuple(range(len(self.times)))
        return Tableau(sde, tuple(self.times.tolist()), tuple(rows), marks, marks[:-1])


def multistep(tableau: Tableau) -> Multistep:
    """A deterministic table in the form above: the same results up to rounding.

    Every state is a combination of the first and of the outputs; with that of state n one eliminates the first from that of state n + 1.

    Raises:
        ValueError: the table draws noise.
    """
    if any(row.noise for row in tableau.rows):
        raise ValueError("a solver that draws noise has no deterministic form")
    called = tableau.evaluated
    column = {state: i + 1 for i, state in enumerate(called)}
    unit = torch.eye(len(called) + 1, dtype=torch.float64)
    states = [unit[0]]
    for row in tableau.rows:
        state = torch.zeros_like(unit[0])
        for j, c in row.z.items():
            state = state + c * states[j]
        for j, c in row.data.items():
            state = state + c * unit[column[j]]
        states.append(state)
    points = torch.stack([*(states[j] for j in called), states[-1]])
    a = points[1:, 0] / points[:-1, 0]
    b = (points[1:] - a[:, None] * points[:-1])[:, 1:]
    times = torch.tensor([*(tableau.times[j] for j in called), tableau.times[-1]], dtype=torch.float64)
    return Multistep(times, a, b.tril())
