"""What multiplies a state: one number for all coordinates, a number for each block of them, or a matrix for each block.

A state `(B, *event)` has K blocks, the last coordinates of its event: the trailing axes whose sizes have the product K. Axes before them repeat
the blocks. With m channels in a block, such as position and velocity, a state is `(B, m, *event)`. Data have one channel and no axis for it.

    float                            c z
    (K,)       or (n, K)             c_k z_k
    (K, m', m) or (n, K, m', m)      sum_j c_kij z_kj, from m to m' channels

The axis n, 1 or the batch, is that of the times. K is 1 where all blocks have one coefficient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Coefficient = float | Tensor


def is_matrix(c: Coefficient) -> bool:
    """Whether the coefficient mixes the channels of a block."""
    return isinstance(c, Tensor) and c.ndim > 2


def is_zero(c: Coefficient) -> bool:
    """Whether the coefficient takes every state to 0."""
    return not bool(c.any()) if isinstance(c, Tensor) else c == 0


def is_finite(c: Coefficient) -> bool:
    """Whether all of its numbers are finite."""
    return bool(c.isfinite().all()) if isinstance(c, Tensor) else math.isfinite(c)


def apply(c: Coefficient, z: Tensor) -> Tensor:
    """The coefficient times a state, in the dtype of the state where both are of one precision.

    Raises:
        ValueError: no trailing axes of the event hold K coordinates.
    """
    if not isinstance(c, Tensor):
        return c * z
    if not is_matrix(c):
        return c.reshape(*c.shape[:-1], *_block_axes(c.shape[-1], z.shape[1:])) * z
    c = c if c.ndim == 4 else c[None]
    n, k, rows, columns = c.shape
    if columns == 1:
        z = z[:, None]
    _block_axes(k, z.shape[2:])
    # (1 or B, K, m', m) times (B, m, repeats, K)
    flat = z.reshape(z.shape[0], columns, -1, k)
    out = torch.einsum("nkij,bjlk->bilk" if n == 1 else "bkij,bjlk->bilk", c, flat)
    shape = z.shape[2:] if rows == 1 else (rows, *z.shape[2:])
    return out.reshape(z.shape[0], *shape)


def _block_axes(k: int, event: torch.Size) -> tuple[int, ...]:
    """The shape in which K coefficients multiply an event: 1 for the axes that repeat them.

    Raises:
        ValueError: no trailing axes of the event have the product K.
    """
    size, axis = 1, len(event)
    while size < k and axis > 0:
        axis -= 1
        size *= event[axis]
    if size != k:
        raise ValueError(f"an event of shape {tuple(event)} does not end in {k} coordinates, one for each block")
    return (*(1,) * axis, *event[axis:])


def compose(a: Coefficient, b: Coefficient) -> Coefficient:
    """The coefficient of a (b z)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and is_matrix(a) and is_matrix(b):
        return a @ b
    return _lifted(a, b) * _lifted(b, a)


def add(a: Coefficient, b: Coefficient) -> Coefficient:
    """The coefficient of a z + b z. A number added to matrices stands for a multiple of the unit matrix."""
    for one, other in ((a, b), (b, a)):
        if is_matrix(other) and not isinstance(one, Tensor):
            assert isinstance(other, Tensor)
            return other + one * torch.eye(other.shape[-1], dtype=other.dtype, device=other.device) if one else other
    return a + b


def _lifted(c: Coefficient, other: Coefficient) -> Coefficient:
    """Numbers of blocks with axes for the channels of `other`."""
    return c[..., None, None] if isinstance(c, Tensor) and is_matrix(other) and not is_matrix(c) else c


# The rest is for tensors with an axis of times, (n, K) or (n, K, m, m): 1 x 1 matrices have no axes of their own.


def product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two coefficients of one kind."""
    return a @ b if is_matrix(a) else a * b


def transposed(a: Tensor) -> Tensor:
    """The transpose of each block."""
    return a.mT if is_matrix(a) else a


def inverse(a: Tensor) -> Tensor:
    """The inverse of each block."""
    return torch.linalg.inv(a) if is_matrix(a) else 1 / a


def root(covariance: Tensor) -> Tensor:
    """The lower triangular R with R R^T = covariance. Where rounding left a block without full rank, its root is that of the nearest one.

    Numbers below 0, by rounding, count as 0.
    """
    if not is_matrix(covariance):
        return covariance.clamp(min=0).sqrt()
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        values, vectors = torch.linalg.eigh(covariance)
        # Q of the QR decomposition of the transpose makes the symmetric root triangular.
        upper = torch.linalg.qr((vectors * values.clamp(min=0).sqrt()[..., None, :]).mT).R
        upper = upper * torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None]
        factor = torch.where((failed > 0)[..., None, None], upper.mT, factor)
    return factor


def log_det(a: Tensor) -> Tensor:
    """log |det| of each block, `(n, K)`."""
    return torch.linalg.slogdet(a).logabsdet if is_matrix(a) else a.abs().log()


def congruent(a: Tensor, covariance: Tensor) -> Tensor:
    """a C a^T, the covariance of a z."""
    return product(product(a, covariance), transposed(a))
