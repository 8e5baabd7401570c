"""Data without indices: one sequence of rows, read from its beginning to its end in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from torch import Tensor

from ..numerics.files import digest
from ..numerics.random import global_seed
from .items import Columns, Key
from .source import DataError, hashed, named

START = {"epoch": 0, "rows": 0}


class Stream:
    """An iterable of rows, such as an `IterableDataset` of Hugging Face's `datasets`.

    Every process reads the one sequence, and rank r of W keeps the rows r::W of a global batch: the batches are the same for every W. A stream
    that was split by rank before gives every rank another sequence, which `require_one_stream` finds. An epoch drops what its last global batch
    lacks. `iterable.set_epoch(epoch)` is called before each epoch where it exists: so that a shuffled data set is shuffled anew.

    Args:
        iterable: of tuples or dicts, a new pass for every `iter`; or a function without arguments that makes an iterator.
        image, cond, size: as for `items.Columns`.

    Raises:
        TypeError: no iterable, or one that ends for good after one pass.
        DataError: there is no row, or the first cannot be read.
    """

    def __init__(self, iterable: Any, *, image: Key, cond: Mapping[str, Key] | None = None, size: int | None = None) -> None:
        if isinstance(iterable, Iterator) or not (callable(iterable) or isinstance(iterable, Iterable)):
            raise TypeError(
                f"a {type(iterable).__name__} gives at most one epoch: give a function that makes it, or a list or a data set"
            )
        self.iterable, self.columns = iterable, Columns(image, cond, size)
        self._state: dict[str, Any] = START
        # A transform that draws from torch's global state draws the same on every rank.
        with global_seed(0):
            first = list(islice(self._sequence(), 1))
            if not first:
                raise DataError("the stream has no row")
            x, conditions = self.columns.batch(first, ["row 0"])
        self.shape = tuple(x.shape[1:])
        self._digest = hashed(digest(named(x, conditions)))

    def first_row_digest(self) -> str:
        """A hash of the first row, which was read when the stream was made: the same on every rank that reads the one sequence."""
        return self._digest

    def fingerprint(self) -> str:
        """The shape of a sample and the hash of the first row."""
        return f"stream of {self.shape} {self._digest}"

    def state(self) -> dict[str, Any]:
        """Where the next global batch begins, as JSON can hold it: the same for every rank and every W.

        `epoch`; `rows`, the number that was read in it; and `dataset`, the `state_dict()` of a data set that has one.
        """
        return dict(self._state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`: by `load_state_dict` or `skip` of the data set, where it has them, else by reading past.

        Rows that Hugging Face's `datasets` holds back to shuffle them are lost: it goes on behind them.

        Raises:
            ValueError: it is no state of a stream of this kind.
        """
        counted = all(isinstance(state.get(name), int) for name in START)
        if not counted or ("dataset" in state and not hasattr(self.iterable, "load_state_dict")):
            raise ValueError(f"{dict(state)} is no state of a stream of {type(self.iterable).__name__}")
        self._state = dict(state)

    def batches(self, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The rows `rank::world` of each global batch, without end, from `state` on.

        Raises:
            DataError: a row cannot be read or differs from the first, or an epoch has not one batch.
        """
        while True:
            epoch = self._state["epoch"]
            sequence = self._sequence()
            while True:
                first, count, kept = self._state["rows"], 0, {}
                for count, item in enumerate(islice(sequence, batch_size), 1):
                    if (count - 1) % world == rank:
                        kept[f"row {first + count - 1} of epoch {epoch}"] = item
                if count < batch_size:
                    break
                self._state = self._position(epoch, first + count)
                yield self.columns.batch(list(kept.values()), list(kept))
            if first == 0:
                raise DataError(f"an epoch of the stream has {count} rows, fewer than a batch of {batch_size}")
            self._state = {"epoch": epoch + 1, "rows": 0}

    def _position(self, epoch: int, count: int) -> dict[str, Any]:
        state = {"epoch": epoch, "rows": count}
        return state | {"dataset": self.iterable.state_dict()} if hasattr(self.iterable, "state_dict") else state

    def _sequence(self) -> Iterator[Any]:
        """The rows of the epoch from the state on."""
        data, count = self.iterable, self._state["rows"]
        if hasattr(data, "set_epoch"):
            data.set_epoch(self._state["epoch"])
        if "dataset" in self._state:
            data.load_state_dict(self._state["dataset"])
            return iter(data)
        if count and hasattr(data, "skip"):
            return iter(data.skip(count))
        return islice(iter(data) if isinstance(data, Iterable) else data(), count, None)


def require_one_stream(digests: Sequence[str]) -> None:
    """Raise unless all ranks read the same sequence.

    Args:
        digests: `first_row_digest()` of each rank.

    Raises:
        ValueError: names the ranks that read another one than rank 0.
    """
    others = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if others:
        raise ValueError(
            f"the stream of rank {', '.join(map(str, others))} begins with another row than that of rank 0: give every rank the whole stream,"
            " which training splits by rows; not split_dataset_by_node, and no shards by rank"
        )
