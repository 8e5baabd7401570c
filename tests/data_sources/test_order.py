"""The order of an epoch: that of the trainer for small data, and a permutation without a table for large data."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoresde.data import batch_indices, order
from scoresde.numerics.random import cpu_generator, derive_seed


class Allocated(TorchDispatchMode):
    """The bytes of all tensors that operations make: at least the memory that any of them need at a time."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
        return made


def test_batches_are_cut_from_the_permutation_of_torch():
    n, size, seed = 10, 4, 7
    for iteration in range(7):
        epoch, part = divmod(iteration, 2)
        whole = torch.randperm(n, generator=cpu_generator(derive_seed(seed, "epoch", epoch)))
        assert torch.equal(batch_indices(n, size, seed, iteration), whole[part * size : (part + 1) * size])
    assert sorted(batch_indices(5, 100, 0, 3).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n", [1, 2, 3, 15, 17, 101, 1009, 4095])
def test_the_network_is_a_bijection(n):
    permuted = order.Feistel(n, seed=n)[torch.arange(n)]
    assert torch.equal(permuted.sort().values, torch.arange(n))


def test_an_epoch_above_the_table_is_a_permutation(monkeypatch):
    monkeypatch.setattr(order, "TABLE", 10)
    n, size = 101, 25
    for epoch in range(2):
        rows = torch.cat([batch_indices(n, size, 3, 4 * epoch + part) for part in range(4)])
        assert len(rows.unique()) == 100
        assert not torch.equal(rows, rows.sort().values)


def chi_square(values, n, bins=256):
    """The statistic of equally likely bins of 0..n-1, less its mean and over its standard deviation."""
    counts = torch.bincount(values * bins // n, minlength=bins).double()
    expected = len(values) / bins
    return (float((counts - expected).square().sum() / expected) - (bins - 1)) / (2 * (bins - 1)) ** 0.5


def test_the_network_is_uniform():
    """The indices, their steps, their last digits and their distance to those of another seed, within five standard deviations."""
    n, first = 10**9, torch.arange(2**16)
    p, q = order.Feistel(n, 0)[first], order.Feistel(n, 1)[first]
    for values, size in ((p, n), (p.diff() % n, n), (p % 1000, 1000), ((p - q) % n, n)):
        assert abs(chi_square(values, size, bins=250)) < 5


def test_a_batch_of_a_billion_samples_needs_no_table():
    with Allocated() as allocated:
        indices = batch_indices(10**9, 256, 0, 10**6)
    assert len(indices.unique()) == 256
    assert 256 * 8 < allocated.bytes < 10 * 2**20
