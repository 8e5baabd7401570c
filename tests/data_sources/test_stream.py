"""Streams: one sequence for all ranks, which goes on where it stopped."""

import json

import pytest
import torch

from scoresde import data

N, SIZE = 22, 6


def items():
    return ({"x": torch.tensor([float(i)]), "label": i % 3} for i in range(N))


class Skipping:
    """A stream with epochs of its own and a `skip`, that counts the rows it reads."""

    def __init__(self, first=0):
        self.first, self.epoch, self.read = first, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def skip(self, count):
        self.skipping = Skipping(count)
        self.skipping.epoch = self.epoch
        return self.skipping

    def __iter__(self):
        for i in range(self.first, N):
            self.read += 1
            yield {"x": torch.tensor([100.0 * self.epoch + i]), "label": 0}


def hugging_face(shards=1):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": [[float(i)] for i in range(N)], "label": [i % 3 for i in range(N)]})
    return table.to_iterable_dataset(num_shards=shards).with_format("torch")


KINDS = {"list": lambda: list(items()), "function": lambda: items, "skip": Skipping, "datasets": hugging_face}


@pytest.fixture(params=KINDS)
def iterable(request):
    return KINDS[request.param]()


def stream(iterable):
    return data.Stream(iterable, image="x", cond={"label": "label"})


def rows(loader):
    return [x.flatten().int().tolist() for x, _ in loader]


def test_ranks_interleave_to_the_order_of_one_process(iterable):
    whole = rows(data.Loader(stream(iterable), SIZE, 0, stop=7))
    # Three batches an epoch, and four rows are left over.
    assert [row % 100 for batch in whole for row in batch] == [*range(18), *range(18), *range(6)]
    parts = [rows(data.Loader(stream(iterable), SIZE, 0, rank=rank, world=3, stop=7)) for rank in range(3)]
    assert [[row for third in zip(*all_, strict=True) for row in third] for all_ in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stream_goes_on_without_a_repeat(iterable, stop):
    """Also where an epoch ends, and from a state that another rank of another number of processes stored."""
    whole = rows(data.Loader(stream(iterable), SIZE, 0, stop=9))
    stored = []
    for rank, world in ((0, 1), (1, 2)):
        before = stream(iterable)
        rows(data.Loader(before, SIZE, 0, rank=rank, world=world, stop=stop))
        stored.append(json.loads(json.dumps(before.state())))
    assert stored[0] == stored[1]
    assert ("dataset" in stored[0]) == hasattr(iterable, "state_dict")
    after = stream(iterable)
    after.restore(stored[0])
    assert rows(data.Loader(after, SIZE, 0, start=stop, stop=9)) == whole[stop:]


def test_conditions_belong_to_their_rows(iterable):
    for x, cond in data.Loader(stream(iterable), SIZE, 0, stop=2):
        assert cond["label"].dtype == torch.int64
        expected = torch.zeros(SIZE) if isinstance(iterable, Skipping) else x.flatten() % 3
        assert torch.equal(cond["label"].float(), expected)


def test_rows_before_the_state_are_not_read_where_the_stream_can_skip():
    skipping = Skipping()
    after = stream(skipping)
    skipping.read = 0
    after.restore({"epoch": 1, "rows": 12})
    assert rows(data.Loader(after, SIZE, 0, stop=1)) == [[100 + i for i in range(12, 18)]]
    assert (skipping.read, skipping.skipping.read) == (0, SIZE)


@pytest.mark.parametrize("shards", [1, 2])
def test_streams_that_were_split_by_rank_are_refused(shards):
    split_by_node = pytest.importorskip("datasets.distributed").split_dataset_by_node
    whole = hugging_face(shards)
    data.require_one_stream([stream(whole).first_row_digest() for _ in range(2)])
    parts = [stream(split_by_node(whole, rank, 2)) for rank in range(2)]
    with pytest.raises(
        ValueError, match="the stream of rank 1 begins with another row than that of rank 0: give every rank the whole"
    ):
        data.require_one_stream([part.first_row_digest() for part in parts])


def test_a_random_transform_does_not_look_like_a_split():
    state = torch.get_rng_state()
    data.require_one_stream([data.Stream(lambda: iter([{"x": torch.rand(2)}]), image="x").first_row_digest() for _ in range(2)])
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_stream_is_refused():
    for wrong in (iter([1]), items(), 5):
        with pytest.raises(TypeError, match="gives at most one epoch"):
            stream(wrong)
    with pytest.raises(data.DataError, match="no row"):
        stream([])
    with pytest.raises(data.DataError, match=r"row 0 cannot be read: .* no entry 'x', but y, label"):
        stream([{"y": 1, "label": 0}])
    with pytest.raises(data.DataError, match="22 rows, fewer than a batch of 23"):
        rows(data.Loader(stream(items), 23, 0))
    odd = [*items(), {"x": torch.zeros(2), "label": 0}]
    with pytest.raises(data.DataError, match=r"row 22 of epoch 0 has a sample of \(2,\) torch.float32, row 0 of \(1,\)"):
        rows(data.Loader(stream(odd), 23, 0, stop=1))
    for state in ({}, {"epoch": 0}, {"epoch": 0, "rows": 1, "dataset": {}}):
        with pytest.raises(ValueError, match="no state of a stream of list"):
            stream(list(items())).restore(state)
