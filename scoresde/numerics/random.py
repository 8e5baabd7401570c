"""Where noise comes from. The global random state of torch is neither read nor changed.

The caller chooses the source: a `generator` (one stream for the whole batch), a list of generators (one a sample), `seeds` (one stream a
sample, so that sample i does not depend on its batch mates), or none of them (a fresh stream seeded by the operating system).
A generator draws on its own device and the noise is then moved: a CPU generator gives the same noise on every device.
Seeded noise is a function of (seed, number of the draw, position in the event), `philox`, computed for the whole batch at once where the
state is: its random bits are the same on every device.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Generator, Tensor

WORD = 0xFFFFFFFF


def fresh_generator(device: torch.device | str = "cpu") -> Generator:
    """A generator with a seed from the operating system."""
    generator = Generator(device)
    generator.seed()
    return generator


def cpu_generator(seed: int) -> Generator:
    """A generator on the CPU with this seed, which is taken modulo 2^64 as those of `SeededNoise` are."""
    return Generator("cpu").manual_seed(seed % 2**64)


def as_generator(generator: Generator | None) -> Generator:
    """`generator` itself, or a fresh one for None.

    Raises:
        TypeError: another type.
    """
    if generator is not None and not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    return fresh_generator() if generator is None else generator


def randn(shape: Sequence[int], generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    """Standard normal noise of the given shape from `generator` (None: a fresh one)."""
    generator = as_generator(generator)
    noise = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=generator.device)
    return noise if noise.device == device else noise.to(device)


def rand(n: int, generator: Generator | None) -> Tensor:
    """`n` float64 uniforms on [0, 1), on the generator's device (on the CPU where the device has no float64)."""
    generator = as_generator(generator)
    if generator.device.type == "mps":
        return torch.rand(n, generator=generator, device=generator.device).cpu().double()
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)


def derive_seed(*keys: int | str) -> int:
    """A seed from several keys; other keys give an unrelated stream."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=7).digest(), "big")


@contextmanager
def global_seed(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within, code that draws from torch's global state (initialisers, dropout) sees this seed; afterwards the state is as before."""
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        # torch.manual_seed would seed every GPU, not only those that are restored.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four random 32-bit words for every counter of four words and key of two, as int64 tensors of values below 2^32.

    Ten rounds of (c_0, c_1, c_2, c_3) <- (hi(M_1 c_2) ^ c_1 ^ k_0, lo(M_1 c_2), hi(M_0 c_0) ^ c_3 ^ k_1, lo(M_0 c_0)), the key raised by the
    Weyl constants before each but the first (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). int64 holds the product of
    two words up to its sign, so that shifting and masking give both halves exactly, on any device.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32 & WORD) ^ c1 ^ k0, p1 & WORD, (p0 >> 32 & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def seeded_words(seeds: Tensor, draws: Tensor, count: int) -> Tensor:
    """Random 32-bit words, `(draws, B, count)` int64: a function of the seed `(B,)`, the number of the draw and the position alone."""
    quads = torch.arange(-(-count // 4), device=seeds.device)
    key = (seeds & WORD)[:, None], (seeds >> 32 & WORD)[:, None]
    draws = draws[:, None, None]
    zero = torch.zeros_like(seeds)[:, None]
    words = philox((quads + zero, draws & WORD, draws >> 32, zero), key)
    return torch.stack(words, -1).flatten(-2)[..., :count]


def normals(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normals from an even number of words in the last dimension, pair by pair (Box and Muller 1958)."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    # Half a unit off both ends: the logarithm never sees 0.
    u = ((words.to(work) + 0.5) * 2.0**-32).unflatten(-1, (-1, 2))
    radius, angle = (-2 * u[..., 0].log()).sqrt(), 2 * math.pi * u[..., 1]
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(-2).to(dtype)


class NoiseSource(Protocol):
    """What a solver draws its noise from."""

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        """The next normal noise of shape `(B, *event)`, `std` times a standard one; the caller may change it in place."""
        ...

    def rewind(self) -> None:
        """Go back to the first draw."""
        ...

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        """From the first draw on, the noise of the samples start..stop-1 of a batch of `size`. One part is used at a time."""
        ...


class BatchNoise:
    """One stream for the batch. `rewind` restores the state that the generator had here.

    Without a generator the stream is a fresh one, on the device of the first draw.
    """

    def __init__(self, generator: Generator | None = None) -> None:
        self.generator = generator
        self._start = None if generator is None else generator.get_state()

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        generator = self.generator
        if generator is None:
            generator = self.generator = fresh_generator(device)
            self._start = generator.get_state()
        # One operation draws and scales.
        noise = torch.empty(shape, dtype=dtype, device=generator.device).normal_(0.0, std, generator=generator)
        return noise if noise.device == device else noise.to(device)

    def rewind(self) -> None:
        if self.generator is not None and self._start is not None:
            self.generator.set_state(self._start)

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        return _PartOfBatch(self, start, stop, size)


class _PartOfBatch:
    """Some rows of a `BatchNoise`: the stream is one for the batch, so all rows are drawn."""

    def __init__(self, whole: BatchNoise, start: int, stop: int, size: int) -> None:
        self._whole, self._rows, self._size = whole, slice(start, stop), size
        whole.rewind()

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        return self._whole.draw((self._size, *shape[1:]), dtype, device, std)[self._rows]

    def rewind(self) -> None:
        self._whole.rewind()

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        return _PartOfBatch(self._whole, self._rows.start + start, self._rows.start + stop, self._size)


class SeededNoise:
    """One stream per sample: row i of every draw depends on `seeds[i]` alone, an integer that is taken modulo 2^64."""

    # Numbers drawn at a time. Philox takes 100 operations, whose cost on a small state is all overhead: many draws share them.
    AHEAD = 1 << 16

    def __init__(self, seeds: Iterable[int]) -> None:
        try:
            self.seeds = [operator.index(seed) for seed in seeds]
        except TypeError:
            hint = f": seeds=range({seeds}, {seeds} + n) for n samples" if isinstance(seeds, int) else ""
            raise TypeError(f"seeds must be integers, one a sample, got {seeds!r}{hint}") from None
        signed = [((seed & (1 << 64) - 1) ^ 1 << 63) - (1 << 63) for seed in self.seeds]
        self._keys = torch.tensor(signed, dtype=torch.int64, device="cpu")
        self._next, self._drawn = 0, list[Tensor]()

    def __len__(self) -> int:
        return len(self.seeds)

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        shape = tuple(shape)
        if shape[0] != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds were given for a batch of shape {shape}")
        if not self._drawn or self._drawn[-1].shape != shape or self._drawn[-1].dtype != dtype or self._drawn[-1].device != device:
            ahead = min(max(1, self._next), max(1, self.AHEAD // max(1, math.prod(shape))))
            draws = torch.arange(self._next, self._next + ahead, device=device)
            count = math.prod(shape[1:])
            words = seeded_words(self._keys.to(device), draws, count + count % 2)
            self._drawn = [*normals(words, dtype)[..., :count].reshape(ahead, *shape)][::-1]
        self._next += 1
        noise = self._drawn.pop()
        if torch.is_grad_enabled():
            # The draws are views of one tensor, which gradients keep the caller from changing.
            noise = noise.clone()
        return noise if std == 1 else noise.mul_(std)

    def rewind(self) -> None:
        self._next, self._drawn = 0, []

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        return SeededNoise(self.seeds[start:stop])


class GeneratorsNoise:
    """One generator a sample; sample i depends on `generators[i]` alone."""

    def __init__(self, generators: Sequence[Generator]) -> None:
        self.generators = list(generators)
        self._starts = [generator.get_state() for generator in self.generators]

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, std: float = 1.0) -> Tensor:
        if shape[0] != len(self.generators):
            raise ValueError(f"{len(self.generators)} generators were given for a batch of shape {tuple(shape)}")
        rows = [
            torch.empty(tuple(shape[1:]), dtype=dtype, device=generator.device).normal_(0.0, std, generator=generator).to(device)
            for generator in self.generators
        ]
        return torch.stack(rows) if rows else torch.empty(tuple(shape), dtype=dtype, device=device)

    def rewind(self) -> None:
        for generator, state in zip(self.generators, self._starts, strict=True):
            generator.set_state(state)

    def part(self, start: int, stop: int, size: int) -> NoiseSource:
        part = GeneratorsNoise(self.generators[start:stop])
        part._starts = self._starts[start:stop]
        part.rewind()
        return part


def noise_source(generator: Generator | Sequence[Generator] | None, seeds: Iterable[int] | None, batch: int) -> NoiseSource:
    """One stream for the batch, or one for each sample.

    Raises:
        TypeError: the seeds are no integers, or the generator is none.
        ValueError: both are given, or there is not one for each sample.
    """
    if generator is not None and seeds is not None:
        raise ValueError("give generator= (one stream) or seeds= (one per sample), not both")
    if isinstance(generator, list | tuple) and all(isinstance(each, Generator) for each in generator):
        if len(generator) != batch:
            raise ValueError(f"{len(generator)} generators were given for a batch of {batch}")
        return GeneratorsNoise(generator)
    if seeds is None:
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(f"generator must be a torch.Generator or a list of them, one a sample, got {generator!r}")
        return BatchNoise(generator)
    noise = SeededNoise(seeds)
    if len(noise) != batch:
        raise ValueError(f"{len(noise)} seeds were given for a batch of {batch}")
    return noise
