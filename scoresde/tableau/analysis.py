"""What a table does to Gaussian data, exactly and without sampling.

On data N(m, s^2) the prediction D is affine in z, so every state is an affine function of independent unit normals: the start and the noises.
Following their coefficients through the rows gives the law of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..numerics.coefficients import Coefficient, root
from ..numerics.inputs import as_numbers
from ..sde.linear import LinearSDE
from ..sde.prediction import conversion

if TYPE_CHECKING:
    from .tableau import Tableau


def moments(
    tableau: Tableau, mean: Tensor, std: Tensor, start: tuple[float, float | Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the result for data N(mean, std^2), of any one shape.

    Args:
        start: mean and standard deviation of the first state, the latter a number or of the shape of `std`; by default those of the path's
            prior.
    """
    start_mean, start_std = start if start is not None else (0.0, tableau.sde.prior_std)
    noises = sorted({j for row in tableau.rows for j in row.xi})
    column = {j: i + 1 for i, j in enumerate(noises)}
    first = torch.zeros(*std.shape, 1 + len(noises), dtype=torch.float64, device="cpu")
    first[..., 0] = start_std
    states = {0: (torch.full_like(mean, start_mean), first)}
    last_use = {j: k for k, row in enumerate(tableau.rows) for j in (*row.z, *row.data)}
    for k, row in enumerate(tableau.rows):
        state_mean, loadings = torch.zeros_like(mean), torch.zeros_like(first)
        for j, a in row.z.items():
            state_mean += a * states[j][0]
            loadings += a * states[j][1]
        for j, b in row.data.items():
            constant, slope = gaussian_output(tableau, tableau.times[j], mean, std)
            state_mean += b * (constant + slope * states[j][0])
            loadings += b * slope[..., None] * states[j][1]
        for j, c in row.xi.items():
            loadings[..., column[j]] += c
        states[k + 1] = (state_mean, loadings)
        for j in (*row.z, *row.data):
            if last_use[j] == k:
                states.pop(j, None)
    result_mean, loadings = states[len(tableau.rows)]
    return result_mean, loadings.norm(dim=-1)


def gaussian_output(tableau: Tableau, t: float, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """(constant, slope) of E[out | z] = constant + slope z for data N(mean, std^2), where out is what the B coefficients multiply."""
    alpha, sigma = float(tableau.sde.alpha(t)), float(tableau.sde.sigma(t))
    gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    constant, slope = mean * (1 - gain * alpha), gain
    if tableau.prediction != "data":
        c_z, c_out = (float(c) for c in conversion(tableau.sde, t, "data", tableau.prediction))
        constant, slope = c_out * constant, c_z + c_out * slope
    return constant, slope


def gaussian_w2(tableau: Tableau, spectrum: Tensor) -> float:
    """W_2 between the result and data N(0, C), where C has the eigenvalues `spectrum` `(d,)`.

    In the eigenbasis of C every coordinate is solved alone: W_2^2 = sum_i m_i^2 + (s_i - c_i)^2 (arXiv 2405.14250).
    """
    c = as_numbers("spectrum", spectrum).sqrt()
    m, s = moments(tableau, torch.zeros_like(c), c)
    return float((m**2 + (s - c) ** 2).sum().sqrt())


def gaussian_kl(tableau: Tableau, spectrum: Tensor) -> float:
    """KL(result || data) in nats for data N(0, C), where C has the positive eigenvalues `spectrum` `(d,)`.

    The sum over the eigenbasis of (q - 1 - log q + m^2/c^2)/2 with q = s^2/c^2.
    """
    c = as_numbers("spectrum", spectrum).sqrt()
    m, s = moments(tableau, torch.zeros_like(c), c)
    q = (s / c) ** 2
    return float(0.5 * (q - 1 - q.log() + (m / c) ** 2).sum())


def block_moments(tableau: Tableau, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the result in each block of a `LinearSDE`, for data N(mean, std^2) there.

    Args:
        mean, std: of the data in the basis, numbers or `(K,)`.

    Returns:
        `(K, r)` and `(K, r, r)` float64, with r = 1 for data and m for a table that ends above t = 0.

    Raises:
        TypeError: the table is of a path of numbers, which has `Tableau.moments`.
    """
    sde = tableau.sde
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"block_moments is for a LinearSDE, and {sde!r} has one coefficient: Tableau.moments")
    mean, std = torch.broadcast_tensors(as_numbers("mean", mean), as_numbers("std", std))
    mean, std = mean.reshape(-1), std.reshape(-1)
    times = torch.tensor(tableau.times, dtype=torch.float64, device="cpu")
    signal, covariance = (_as_matrix(c) for c in (sde.signal(times), sde.covariance(times)))
    # The gain s^2 A^T (s^2 A A^T + Sigma)^{-1} of E[x | z] = mean + gain (z - A mean).
    prior = (std**2)[:, None, None]
    gain = torch.linalg.solve(prior * signal @ signal.mT + covariance, prior * signal).mT
    m = sde.channels
    noises = {j: 1 + i for i, j in enumerate(sorted({j for row in tableau.rows for j in row.xi}))}
    first = root(sde.covariance(times[:1]))[0]
    k = max(len(mean), signal.shape[1])
    loadings = torch.zeros(k, m, m * (1 + len(noises)), dtype=torch.float64, device="cpu")
    loadings[:, :, :m] = _as_matrix(first[None])[0]
    states = {0: (torch.zeros(k, m, 1, dtype=torch.float64, device="cpu"), loadings)}
    for n, row in enumerate(tableau.rows):
        terms = list[tuple[Tensor, Tensor]]()
        for j, c in row.z.items():
            state_mean, state_loadings = states[j]
            a = _matrix_of(c, m)
            terms.append((a @ state_mean, a @ state_loadings))
        for j, c in row.data.items():
            state_mean, state_loadings = states[j]
            b = _matrix_of(c, 1)
            data_mean = mean[:, None, None] + gain[j] @ (state_mean - signal[j] * mean[:, None, None])
            terms.append((b @ data_mean, b @ gain[j] @ state_loadings))
        for j, c in row.xi.items():
            own = torch.zeros_like(loadings)
            own[:, :, m * noises[j] : m * (noises[j] + 1)] = _matrix_of(c, m)
            terms.append((torch.zeros(k, m, 1, dtype=torch.float64, device="cpu"), own))
        means, roots = zip(*terms, strict=True)
        states[n + 1] = torch.stack(torch.broadcast_tensors(*means)).sum(0), torch.stack(torch.broadcast_tensors(*roots)).sum(0)
    result_mean, result = states[len(tableau.rows)]
    return result_mean[..., 0], result @ result.mT


def block_w2(tableau: Tableau, spectrum: Tensor) -> float:
    """W_2 between the result of a table on a `LinearSDE` and data N(0, C), where C has the eigenvalues `spectrum` `(K,)` in the basis."""
    c = as_numbers("spectrum", spectrum).reshape(-1)
    mean, covariance = block_moments(tableau, torch.zeros_like(c), c.sqrt())
    return float((mean[:, 0] ** 2 + (covariance[:, 0, 0].sqrt() - c.sqrt()) ** 2).sum().sqrt())


def _as_matrix(c: Tensor) -> Tensor:
    """A coefficient `(n, K)` or `(n, K, m', m)` as the second."""
    return c if c.ndim == 4 else c[..., None, None]


def _matrix_of(c: Coefficient, columns: int) -> Tensor:
    """The coefficient of a row as `(K, m', columns)`."""
    if not isinstance(c, Tensor):
        return c * torch.eye(columns, dtype=torch.float64, device="cpu")[None]
    return c if c.ndim == 3 else c[:, None, None]
