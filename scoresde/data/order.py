"""The order of the samples in an epoch, as a function of (n, seed).

Up to `TABLE` samples it is torch's permutation, a table in memory. Above, position p goes through a Feistel network on Z_a x Z_a, a^2 >= n:

    (l, r) = divmod(p, a),    (l, r) <- (r, (l + F_k(r)) mod a) for k = 0..5,    p' = a l + r.

Each round is a bijection of 0..a^2-1 for any function F, here a word of Philox keyed by the seed. Where p' >= n it goes through once more,
until it lies below n. This walk follows a cycle of the bijection, so that it comes back to 0..n-1 and is a bijection there (Black and Rogaway
2002, "Ciphers with arbitrary finite domains"). Nobody can tell six rounds of random functions from a random permutation with far fewer than a
queries (Patarin 2004, "Security of random Feistel schemes with 5 or more rounds").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..numerics.random import WORD, cpu_generator, derive_seed, philox

# Largest number of samples whose order is a table.
TABLE = 2**20
ROUNDS = 6


class Feistel:
    """A keyed permutation of 0..n-1 without a table: `permutation[positions]` gives the indices at these positions, in memory O(positions).

    Args:
        n: number of samples, below 2^62.
        seed: the key, modulo 2^64.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed % 2**64
        self.a = math.isqrt(n - 1) + 1

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: Tensor) -> Tensor:
        p = self._through(positions)
        while bool((outside := p >= self.n).any()):
            p[outside] = self._through(p[outside])
        return p

    def _through(self, p: Tensor) -> Tensor:
        """p' for each p of `(B,)`, int64."""
        a, zero = self.a, torch.zeros_like(p)
        key = zero + (self.seed & WORD), zero + (self.seed >> 32)
        l, r = p // a, p % a  # noqa: E741
        for k in range(ROUNDS):
            high, low, _, _ = philox((r & WORD, r >> 32, zero + k, zero), key)
            # 62 random bits: modulo a they are uniform to a / 2^62.
            l, r = r, (l + ((high >> 2) << 32 | low) % a) % a  # noqa: E741
        return a * l + r

    def __repr__(self) -> str:
        return f"Feistel({self.n}, {self.seed})"


def permutation(n: int, seed: int) -> Tensor | Feistel:
    """A permutation of 0..n-1, indexed by a tensor of positions: torch's own up to `TABLE` samples, a `Feistel` above."""
    return Feistel(n, seed) if n > TABLE else torch.randperm(n, generator=cpu_generator(seed), device="cpu")


class Batches:
    """The global batch of every iteration. An epoch cuts one permutation into consecutive batches and drops the remainder.

    Args:
        n: number of samples.
        batch_size: size of a batch; of all samples where there are fewer.
        seed: of the training run; the order of an epoch has the seed (seed, "epoch", number of the epoch).
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.size, self.seed = n, min(batch_size, n), seed
        self._epoch, self._order = -1, permutation(1, 0)

    def __getitem__(self, iteration: int) -> Tensor:
        """The indices `(size,)` of a batch, int64."""
        epoch, part = divmod(iteration, self.n // self.size)
        if epoch != self._epoch:
            # The latest epoch is kept: to make its order takes time O(n) where it is a table.
            self._epoch, self._order = epoch, permutation(self.n, derive_seed(self.seed, "epoch", epoch))
        return self._order[torch.arange(part * self.size, (part + 1) * self.size, device="cpu")]


def batch_indices(n: int, batch_size: int, seed: int, iteration: int) -> Tensor:
    """The indices of the global batch of one iteration, `(min(batch_size, n),)` int64, as `Batches` has them."""
    return Batches(n, batch_size, seed)[iteration]
