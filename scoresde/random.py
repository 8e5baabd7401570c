"""Where noise comes from. The global random state of torch is neither read nor changed.

Three sources, chosen by the caller: a `generator` (one stream for the whole batch), `seeds` (one stream per sample, so that
sample i does not depend on its batch mates), or neither (a fresh stream seeded by the operating system).
Noise is drawn on the device of its generator and then moved: a CPU generator gives the same noise on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Generator, Tensor


def fresh_generator() -> Generator:
    """A CPU generator with a seed from the operating system."""
    generator = Generator()
    generator.seed()
    return generator


def randn(shape: Sequence[int], generator: Generator | None, *, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    """Standard normal noise of the given shape from `generator` (None: a fresh one)."""
    generator = generator or fresh_generator()
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=generator.device).to(device)


def rand(n: int, generator: Generator | None) -> Tensor:
    """`n` float64 uniforms on [0, 1), on the generator's device (on the CPU where the device has no float64)."""
    generator = generator or fresh_generator()
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


class NoiseSource(Protocol):
    """What a solver draws its noise from."""

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The next standard normal noise of shape `(B, *event)`."""
        ...

    def rewind(self) -> None:
        """Go back to the first draw."""
        ...


class BatchNoise:
    """One stream for the batch. `rewind` restores the state that the generator had here."""

    def __init__(self, generator: Generator | None = None) -> None:
        self.generator = generator or fresh_generator()
        self._start = self.generator.get_state()

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return randn(shape, self.generator, dtype=dtype, device=device)

    def rewind(self) -> None:
        self.generator.set_state(self._start)


class SeededNoise:
    """One stream per sample: row i of every draw depends on `seeds[i]` alone."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.rewind()

    def __len__(self) -> int:
        return len(self.seeds)

    def draw(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if shape[0] != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds were given for a batch of shape {tuple(shape)}")
        rows = [torch.randn(tuple(shape[1:]), generator=generator, dtype=dtype) for generator in self._generators]
        return torch.stack(rows).to(device)

    def rewind(self) -> None:
        self._generators = [Generator().manual_seed(seed) for seed in self.seeds]
