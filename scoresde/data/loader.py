"""The batches of a training run, read in this process or in worker processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..numerics.inputs import as_count, as_device
from ..numerics.random import cpu_generator
from .order import Batches
from .source import DataError, Source
from .stream import Stream

Batch = tuple[Tensor, dict[str, Tensor]]


class Loader:
    """This rank's rows of the global batch of every iteration.

    The batch of an iteration is a function of (seed, iteration): it does not depend on the number of workers, and to start at a later iteration
    costs nothing. Of a `Stream` the batches are the next ones from its `state` on, and `seed` has no effect. Workers are new processes, one
    thread each: a script that uses them needs `if __name__ == "__main__":`. They end with the pass, with `close`, or with the `with` block.

    Args:
        source: the samples.
        batch_size: of the global batch; of all samples where there are fewer.
        seed: of the training run.
        rank, world: rank r of W processes gets the rows r::W.
        workers: number of processes that read ahead; 0: batches are read when they are asked for.
        start, stop: iterations start..stop-1; without end where `stop` is None.
        device: of the batches; None: where the source has them.

    Raises:
        TypeError: an argument of another type.
        ValueError: a batch that W does not divide, a rank outside 0..W-1, or workers for a `Stream`.
    """

    def __init__(
        self,
        source: Source | Stream,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        start: int = 0,
        stop: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.source, self.seed = source, seed
        self.rank, self.world, self.workers = as_count("rank", rank, 0), as_count("world", world), as_count("workers", workers, 0)
        self.batch_size = as_count("batch_size", batch_size)
        if not isinstance(source, Stream):
            self.batch_size = min(self.batch_size, len(source))
        elif workers:
            raise ValueError(f"a Stream is read in order, in one process: workers must be 0, got {workers}")
        if self.rank >= self.world:
            raise ValueError(f"rank must lie in 0..{self.world - 1}, got {rank}")
        if self.batch_size % self.world:
            raise ValueError(f"{self.world} processes cannot share a batch of {self.batch_size} equally")
        self.start = as_count("start", start, 0)
        self.stop = sys.maxsize if stop is None else as_count("stop", stop, self.start)
        self.device = as_device("device", device)
        self._pass: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """A pass from `start` to `stop`; a pass that is still running ends.

        Raises:
            DataError: a sample cannot be read, here or in a worker; names the file or the row.
        """
        self.close()
        self._pass = self._batches()
        return self._pass

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the pass and its workers."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None

    def _batches(self) -> Generator[Batch, None, None]:
        for x, cond in self._read():
            if self.device is None:
                yield x, cond
            else:
                # Out of pinned memory this is a copy that the host does not wait for.
                moved = {name: value.to(self.device, non_blocking=True) for name, value in cond.items()}
                yield x.to(self.device, non_blocking=True), moved

    def _read(self) -> Iterator[Batch]:
        iterations = range(self.start, self.stop)
        if isinstance(self.source, Stream):
            return islice(self.source.batches(self.batch_size, self.rank, self.world), len(iterations))
        read = _Iterations(self.source, Batches(len(self.source), self.batch_size, self.seed), self.rank, self.world)
        return self._from_workers(read, iterations) if self.workers else map(read.batch, iterations)

    def _from_workers(self, read: _Iterations, iterations: range) -> Iterator[Batch]:
        loaded = torch.utils.data.DataLoader(
            read,
            batch_size=None,
            sampler=iterations,
            num_workers=self.workers,
            # A fork of a process with threads, such as those of a GPU, may hang.
            multiprocessing_context="spawn",
            pin_memory=self.device is not None and self.device.type == "cuda",
            # For the seeds of the workers, which would come from the global state.
            generator=cpu_generator(self.seed),
            worker_init_fn=_ignore_ctrl_c,
        )
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield batch


def _ignore_ctrl_c(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal. It is for the one that trains, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Iterations(torch.utils.data.Dataset[Any]):
    """The rank's batch of an iteration, as an item. torch's loader gives its workers one thread each."""

    def __init__(self, source: Source, order: Batches, rank: int, world: int) -> None:
        self.source, self.order, self.rank, self.world = source, order, rank, world

    def batch(self, iteration: int) -> Batch:
        return self.source.batch(self.order[iteration][self.rank :: self.world])

    def __getitem__(self, iteration: int) -> Batch | DataError:
        # torch would raise an error of a worker with the text of its traceback in the message.
        try:
            return self.batch(iteration)
        except DataError as error:
            return error
