"""The coefficients of any linear sampler, by what it makes of impulses.

A sampler is linear where every state that it asks the network about, and its result, is

    x_j = a_j x_start + sum_i B_ji D_i + sum_k C_jk xi_k,     i < j,

with coefficients that do not depend on the values. So one run over a batch reads all of them: item 0 has x_start = 1, one item for each call i
has D_i = 1, one for each draw k has xi_k = 1. Everything else in an item is 0. Two more items hold random numbers, and one of them is three
times the other: what they give is compared with the coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tableau.tableau import Tableau
from .draws import Draws
from .levels import Levels
from .sampler import Sampler

EVENT = (1, 2, 2)
# Of a coefficient, in units of float64's and float32's rounding: hosts keep their tables in float32.
LINEAR = 1e-4

# Calls and draws of a run, each of which is an item of the batch. A Brownian tree makes many draws in each step.
MOST_INPUTS = 1500


class NotLinearError(ValueError):
    """The sampler is not linear in the start, the network's outputs and the noise; says where."""


@dataclass(frozen=True)
class Coefficients:
    """A linear sampler over one run.

    Attributes:
        sigmas: the levels that the network was told, `(J,)`, then that of the result: `(J + 1,)` float64.
        start: a, `(J + 1,)`: of the start in the states that the network saw, then in the result.
        data: B, `(J + 1, J)`.
        noise: C, `(J + 1, K)`.
        first: the level of the start.
    """

    sigmas: Tensor
    start: Tensor
    data: Tensor
    noise: Tensor
    first: float

    @property
    def calls(self) -> int:
        """Network calls."""
        return self.data.shape[1]

    @property
    def stochastic(self) -> bool:
        """Whether noise reaches any state."""
        return bool((self.noise.abs() > LINEAR * self.first).any())


def probe(sampler: Sampler, levels: Levels, steps: int) -> Coefficients:
    """The coefficients of a run.

    Raises:
        NotLinearError: it is none, or its calls and draws depend on the values.
    """
    calls, draws = count(sampler, levels, steps)
    if calls + draws > MOST_INPUTS:
        raise NotLinearError(f"{calls} calls and {draws} draws are too many to probe")
    size = 1 + calls + draws
    item = torch.arange(size, dtype=torch.float64)
    random = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

    def inputs(k: int) -> Tensor:
        """Input number k in every item of the batch, `(B, *event)`."""
        column = torch.cat([(item == k).double(), random[k : k + 1], 3 * random[k : k + 1]])
        return column.reshape(-1, *(1,) * len(EVENT)).expand(-1, *EVENT).clone()

    seen, told = list[Tensor](), list[float]()

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        if len(seen) >= calls:
            raise NotLinearError(f"{calls} network calls on zeros, and more on other values")
        if bool((sigma != sigma.reshape(-1)[0]).any()):
            raise NotLinearError("the levels of a call differ over the batch")
        seen.append(x.detach().double().clone())
        told.append(float(sigma.reshape(-1)[0]))
        return inputs(len(seen)).to(x.dtype)

    def noise(k: int, draw: Tensor) -> Tensor:
        if k >= draws:
            raise NotLinearError(f"{draws} draws on zeros, and more on other values")
        return inputs(1 + calls + k)

    try:
        with torch.no_grad(), Draws(noise) as mode:
            seen.append(sampler.run(denoiser, inputs(0), levels, steps).double())
    except NotLinearError:
        raise
    except (ValueError, RuntimeError) as error:
        raise NotLinearError(str(error).splitlines()[0]) from error
    if (len(told), mode.count) != (calls, draws) or mode.other:
        raise NotLinearError("calls or draws depend on the values, or noise is not normal")
    values = torch.stack(seen).flatten(2)
    if not bool(values.isfinite().all()):
        raise NotLinearError("a state is not finite")
    table, checks = values[:, :size, 0], values[:, size:, 0]
    scale = (table.abs() @ random.abs() + 1e-300)[:, None]
    errors = (checks - (table @ random)[:, None] * torch.tensor([1.0, 3.0], dtype=torch.float64)).abs() / (3 * scale)
    spread = (values - values[..., :1]).abs().amax()
    if float(errors.max()) > LINEAR or float(spread) > LINEAR * float(values.abs().max()):
        raise NotLinearError(f"superposition fails by {max(float(errors.max()), float(spread)):.1e}")
    sigmas = torch.tensor([*told, levels.low], dtype=torch.float64)
    return Coefficients(sigmas, table[:, 0], table[:, 1 : 1 + calls], table[:, 1 + calls :], levels.high)


def count(sampler: Sampler, levels: Levels, steps: int) -> tuple[int, int]:
    """Network calls and normal draws of a run on data 0."""
    calls = 0

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x)

    with torch.no_grad(), Draws() as draws:
        sampler.run(denoiser, torch.zeros(2, *EVENT, dtype=torch.float64), levels, steps)
    return calls, draws.count


def of_tableau(tableau: Tableau) -> Coefficients:
    """The same coefficients from a table itself: x = z/alpha, and every state is written in the start, the outputs and the noises."""
    times = torch.tensor(tableau.times, dtype=torch.float64)
    alpha, sigma = tableau.sde.alpha(times), tableau.sde.sigma(times)
    call = {j: i for i, j in enumerate(tableau.evaluated)}
    draw = {j: i for i, j in enumerate(sorted({j for row in tableau.rows for j in row.xi}))}
    size = 1 + len(call) + len(draw)
    z = torch.zeros(len(times), size, dtype=torch.float64)
    z[0, 0] = alpha[0]
    for k, row in enumerate(tableau.rows):
        for j, a in row.z.items():
            z[k + 1] += a * z[j]
        for j, b in row.data.items():
            z[k + 1, 1 + call[j]] += b
        for j, c in row.xi.items():
            z[k + 1, 1 + len(call) + draw[j]] += c
    at = [*tableau.evaluated, len(times) - 1]
    x = (z / alpha[:, None])[at]
    levels = (sigma / alpha)[at]
    return Coefficients(levels, x[:, 0], x[:, 1 : 1 + len(call)], x[:, 1 + len(call) :], float(sigma[0] / alpha[0]))
