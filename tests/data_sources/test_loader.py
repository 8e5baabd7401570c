"""The loader: the same batches for any number of workers and ranks, from any iteration on."""

import multiprocessing
import os

import numpy as np
import pytest
import torch

from scoresde import data

N, SIZE = 50, 12


class Probe:
    """The numbers 0..49 with what is known of the process that reads them."""

    def __len__(self):
        return N

    def batch(self, indices):
        here = torch.tensor([os.getpid(), torch.get_num_threads()])
        return indices[:, None].float(), {"process": here.expand(len(indices), 2)}

    def fingerprint(self):
        return "probe"


def rows(loader):
    return [x.flatten().int().tolist() for x, _ in loader]


def test_ranks_share_the_batches_of_one_process():
    source = data.Memory(torch.arange(N)[:, None].float(), {"square": torch.arange(N) ** 2})
    whole = rows(data.Loader(source, SIZE, 3, stop=41))
    for first in range(0, 40, 4):
        # Four batches of an epoch, and two samples are left over.
        assert len({row for batch in whole[first : first + 4] for row in batch}) == 48
    for x, cond in data.Loader(source, SIZE, 3, stop=2):
        assert torch.equal(cond["square"], x.flatten().int() ** 2)
    parts = [rows(data.Loader(source, SIZE, 3, rank=rank, world=2, stop=41)) for rank in range(2)]
    assert [[row for pair in zip(*both, strict=True) for row in pair] for both in zip(*parts, strict=True)] == whole
    assert rows(data.Loader(source, SIZE, 3, start=37, stop=41)) == whole[37:]
    assert rows(data.Loader(source, SIZE, 4, stop=41)) != whole


@pytest.mark.parametrize("world", [1, 2])
def test_workers_change_nothing(world):
    """Two workers, each with one thread; they end when the loader is closed, and torch's global state is left alone."""
    state = torch.get_rng_state()
    seen, processes = [], set()
    with data.Loader(Probe(), SIZE, 3, workers=2, rank=world - 1, world=world, start=37) as loader:
        # A name keeps the pass alive beyond the loop.
        batches = iter(loader)
        for x, cond in batches:
            seen.append(x.flatten().int().tolist())
            processes.add(int(cond["process"][0, 0]))
            assert int(cond["process"][0, 1]) == 1
            if len(seen) == 9:
                break
    assert seen == rows(data.Loader(Probe(), SIZE, 3, rank=world - 1, world=world, start=37, stop=46))
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not processes & {child.pid for child in multiprocessing.active_children()}
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_in_a_worker_names_the_file(tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(np.full((4, 4), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    source = data.ImageFolder(tmp_path)
    (tmp_path / "2.png").write_bytes(b"no image")
    for workers in (0, 1):
        with data.Loader(source, 3, 0, workers=workers) as loader, pytest.raises(data.DataError) as caught:
            next(iter(loader))
        assert str(caught.value).startswith(f"{tmp_path / '2.png'} cannot be read")


def test_a_second_pass_begins_again():
    loader = data.Loader(Probe(), SIZE, 3, stop=5)
    assert rows(loader) == rows(loader)


def test_batches_go_to_the_device(device):
    source = data.Memory(torch.arange(N)[:, None].float(), {"label": torch.arange(N)})
    x, cond = next(iter(data.Loader(source, SIZE, 0, device=device)))
    assert x.device.type == cond["label"].device.type == device.type
    assert x.flatten().int().tolist() == cond["label"].tolist() == data.batch_indices(N, SIZE, 0, 0).tolist()


def test_what_cannot_be_loaded_is_refused():
    stream = data.Stream([{"x": torch.zeros(2)}] * 4, image="x")
    for arguments, message in (
        ({"world": 5}, "5 processes cannot share a batch of 12 equally"),
        ({"world": 2, "rank": 2}, r"rank must lie in 0\.\.1"),
        ({"start": 5, "stop": 4}, "stop must be at least 5"),
    ):
        with pytest.raises(ValueError, match=message):
            data.Loader(Probe(), SIZE, 0, **arguments)
    with pytest.raises(ValueError, match="a Stream is read in order, in one process"):
        data.Loader(stream, 2, 0, workers=1)
