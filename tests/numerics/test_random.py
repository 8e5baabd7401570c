"""Noise that is a function of seed, draw and position."""

import math

import pytest
import torch

from scoresde.numerics.random import BatchNoise, SeededNoise, normals, philox, seeded_words

from ..conftest import generator

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, words, device):
    """The known answers of Random123's philox4x32-10."""
    counter, key = ([torch.tensor([v], device=device) for v in values] for values in (counter, key))
    assert tuple(int(word) for word in philox(counter, key)) == words


def test_words_are_the_same_on_every_device(device):
    seeds, draws = torch.tensor([0, 7, -1, 2**62]), torch.tensor([0, 5, 2**40])
    assert torch.equal(seeded_words(seeds.to(device), draws.to(device), 10).cpu(), seeded_words(seeds, draws, 10))


def test_words_of_other_seeds_draws_and_positions_are_unrelated():
    """20,000 words of neighbouring keys: none twice beyond chance, and each bit set half the time."""
    words = seeded_words(torch.arange(-50, 50), torch.arange(20), 10)
    n = words.numel()
    # Of n^2/2 pairs 2^-32 coincide: 0.05 are expected.
    assert len(words.unique()) >= n - 2
    for bit in range(32):
        # 5 standard errors of a mean of n fair coins.
        assert float((words >> bit & 1).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_seeded_noise_is_standard_normal(dtype):
    n = 200_000
    noise = SeededNoise(range(n))
    x, y = (noise.draw((n, 3), dtype, CPU).double() for _ in range(2))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        # 5 standard errors: the variance of x^p over the number of draws.
        assert float((x**power).mean()) == pytest.approx(moment, abs=5 * math.sqrt(variance / (3 * n)))
    for a, b in ((x[:, 0], x[:, 1]), (x[:, 1], x[:, 2]), (x, y), (x[1:], x[:-1])):
        assert float((a * b).mean()) == pytest.approx(0, abs=5 / math.sqrt(a.numel()))


def test_the_ends_of_the_words_give_finite_normals():
    ends = torch.tensor([0, 0xFFFFFFFF])
    for dtype in (torch.float32, torch.float64):
        values = normals(torch.cartesian_prod(ends, ends), dtype)
        assert bool(values.isfinite().all())
        # sqrt(2 log 2^33): the largest value there is.
        assert float(values.abs().max()) <= math.sqrt(2 * 33 * math.log(2)) + 1e-6


@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 2), (300, 301)])
def test_a_row_depends_on_its_seed_alone(shape):
    """Small and large events, in any company and however many draws are made ahead."""
    together, alone = SeededNoise([3, -8, 2**63 + 1]), SeededNoise([-8])
    for _ in range(12):
        assert torch.equal(together.draw((3, *shape), torch.float32, CPU)[1:2], alone.draw((1, *shape), torch.float32, CPU))
    assert len({float(row.flatten()[0]) for row in together.draw((3, *shape), torch.float32, CPU)}) == 3


def test_draws_differ_and_rewind():
    noise = SeededNoise([1, 2])
    first = [noise.draw((2, 3), torch.float64, CPU) for _ in range(9)]
    assert len({float(x[0, 0]) for x in first}) == 9
    noise.rewind()
    # A draw of another shape in between changes nothing about later draws of the first.
    again = [noise.draw((2, 3), torch.float64, CPU) if k != 4 else noise.draw((2, 5), torch.float64, CPU) for k in range(9)]
    assert all(torch.equal(a, b) for k, (a, b) in enumerate(zip(first, again, strict=True)) if k != 4)


@pytest.mark.parametrize("make", [lambda: BatchNoise(generator(3)), BatchNoise, lambda: SeededNoise(range(5))])
def test_parts_are_rows_of_the_whole(make):
    noise = make()
    whole = [noise.draw((5, 2), torch.float64, CPU) for _ in range(3)]
    for first, last in ((0, 2), (2, 4), (4, 5)):
        part = noise.part(first, last, 5)
        for x in whole:
            assert torch.equal(part.draw((last - first, 2), torch.float64, CPU), x[first:last])
