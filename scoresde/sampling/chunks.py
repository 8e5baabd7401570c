"""Many samples in a folder, drawn by any number of processes that need not know each other.

    torchrun --nproc-per-node 8 draw.py        rank r of W draws the chunks r, r + W, r + 2 W, ...
    sbatch --array=0-31 draw.sh                so does each task of a job array
    python draw.py                             one process draws them all

Sample i depends on its seed alone, so that the set is the same for every number of processes. A chunk that is there is not drawn again: a job
that was killed is started once more. No process group is needed, as no process waits for another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.base import Model, as_model
from ..numerics.batching import cond_to_device, index_cond
from ..numerics.inputs import as_count, as_device, as_dtype, as_event, as_one_of
from ..numerics.progress import progress_bar
from .auto import NOISES
from .chunk_files import FORMATS, PARTIAL, Samples, remove
from .chunk_index import FORMAT, claim, conditions_digest, describe_model, describe_plan, read_index
from .planning import plan
from .registry import is_auto
from .request import GridLike
from .sample import SolverLike, sample

# Samples whose conditions the index keeps hashes of.
COMPARED = 16

Conditions = Mapping[str, object] | Callable[[Tensor], Mapping[str, object]]


class Drawn(NamedTuple):
    """What one call of `sample_to` did.

    Attributes:
        folder: where the samples are.
        drawn: samples that this process drew.
        found: samples of this process that were there before.
        missing: chunks of the whole set that are not there yet, as other processes still draw them.
    """

    folder: Path
    drawn: int
    found: int
    missing: int


def sample_to(
    folder: str | PathLike[str],
    model: Model,
    n: int,
    event: Sequence[int],
    solver: SolverLike | None = None,
    *,
    steps: int | None = None,
    nfe: int | None = None,
    grid: GridLike | None = None,
    tol: float | None = None,
    first_seed: int = 0,
    chunk: int = 256,
    batch_size: int | None = None,
    cond: Conditions | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    format: str = "safetensors",
    rank: int | None = None,
    world: int | None = None,
    progress: bool = False,
) -> Drawn:
    """Draw the samples of the seeds `first_seed`, ..., `first_seed + n - 1` into a folder, this process its share of the chunks.

    Chunk c holds `chunk` seeds from `first_seed + chunk c` on, the last chunk the rest. Process r of W draws the chunks c = r mod W that are
    not there. `index.json` holds the settings, which all processes must share; a larger `n` extends a set.

    Noise is equal to the bit whatever the chunks and the processes. A network's kernels may depend on the number of samples in a call: the
    shipped networks differ by rounding between batch sizes on a CPU. For equal bits at other values of `chunk`, and where `n` is raised and
    the last chunk was short, give `batch_size` and let it divide `chunk`: the network then sees whole batches of fixed mates.

    Args:
        folder: made where it is missing. Nothing but the samples of one setting should be in it.
        model: a `ScoreModel`, or anything with the same four calls, in evaluation mode.
        n: the number of samples of the whole set.
        event: the shape of one sample.
        solver, steps, nfe, grid, tol, dtype, device: as in `sample`. The pilot of "auto" has the conditions of the first samples.
        first_seed: the seed of the first sample, 0 or larger.
        chunk: samples in one file.
        batch_size: samples in one call of the network, `chunk` of them by default. Where it is given, the seeds of a chunk are filled up to
            whole batches; the samples of the seeds beyond are drawn and not kept.
        cond: conditions of the network. A function gets the seeds `(B,)` int64 and returns a dict with one row for each, such as
            `lambda seeds: {"label": seeds % 10}`. In a dict, tensors of `n` rows have one a sample and all else is passed as it is.
        format: "safetensors" or "npz", both exact and with the condition `label`, where it is one integer a sample; or "png", which rounds
            images in [-1, 1] to 8 bits.
        rank, world: r and W. By default `RANK` and `WORLD_SIZE`, which torchrun sets, times the tasks of a SLURM job array, or 0 and 1.
        progress: show a progress bar of the samples of this process.

    Returns:
        The folder and the numbers of samples, a `Drawn`.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: the folder holds samples of other settings, and what differs; or arguments as for `sample`; or no such rank.
        FloatingPointError, StepLimitError: as `sample`.
    """
    model = as_model(model)
    folder, event = Path(folder), as_event("event", event)
    n, first_seed, chunk = as_count("n", n, 1), as_count("first_seed", first_seed, 0), as_count("chunk", chunk, 1)
    batch = None if batch_size is None else as_count("batch_size", batch_size, 1)
    rank, world = _place(rank, world)
    files = FORMATS[as_one_of("format", format, FORMATS)]
    files.require(event)
    dtype, device = as_dtype("dtype", dtype) or model.dtype, as_device("device", device) or model.device
    pilot = cond_to_device(_rows(cond, _seeds(first_seed, NOISES), first_seed, n), device) if is_auto(solver) else None
    planned = plan(model, solver, steps=steps, nfe=nfe, grid=grid, tol=tol, event=event, cond=pilot)
    planned.check(model, event)

    def of_seeds(seeds: Tensor) -> dict[str, Any]:
        return cond_to_device(_rows(cond, seeds, first_seed, n), device)

    settings = {
        "format": FORMAT,
        "n": n,
        "first_seed": first_seed,
        "chunk": chunk,
        "batch_size": batch,
        "event": list(event),
        "files": format,
        "dtype": str(dtype),
        **describe_plan(planned),
        **describe_model(model),
        "conditions": [
            conditions_digest(_rows(cond, seed, first_seed, n)) for seed in _seeds(first_seed, min(n, COMPARED)).split(1)
        ],
    }
    claim(folder, settings)
    drawn = found = 0
    mine = range(rank * chunk, n, world * chunk)
    with progress_bar(progress, total=sum(min(chunk, n - k) for k in mine), unit=" samples") as bar:
        for k in mine:
            first, count = first_seed + k, min(chunk, n - k)
            if files.held(folder, first) >= count:
                found += count
            else:
                whole = batch or count
                seeds = _seeds(first, -(-count // whole) * whole)
                known = of_seeds(seeds)
                x = sample(
                    model, (len(seeds), *event), planned, seeds=seeds.tolist(), dtype=dtype, device=device, batch_size=batch, **known,
                )  # fmt: skip
                files.write(folder, Samples(x[:count], seeds[:count]), _labels(known, seeds, count))
                drawn += count
            bar.update(count)
    missing = len(_missing(folder, settings))
    if not missing:
        for left in folder.glob(f"*{PARTIAL}"):
            remove(left)
    return Drawn(folder, drawn, found, missing)


def read_samples(folder: str | PathLike[str]) -> Iterator[Samples]:
    """The chunks of a folder of `sample_to` in the order of their seeds.

    Returns:
        An iterator of pairs `(x, seeds)`, `(B, *event)` and `(B,)`, on the CPU.

    Raises:
        FileNotFoundError: the folder holds no samples.
        ValueError: chunks are missing, and how many; or a file cannot be read.
    """
    folder = Path(folder)
    index = read_index(folder)
    missing = _missing(folder, index)
    if missing:
        raise ValueError(
            f"{folder} misses {len(missing)} of {len(_chunks(index))} chunks, the first at seed {missing[0]}: run sample_to once more"
        )
    files = FORMATS[index["files"]]
    return (Samples(*(rows[:count] for rows in files.read(folder, first))) for first, count in _chunks(index))


def count_samples(folder: str | PathLike[str]) -> int:
    """The number of samples that a folder of `sample_to` is to hold.

    Raises:
        FileNotFoundError: it holds none.
    """
    return int(read_index(Path(folder))["n"])


def _chunks(index: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The first seed and the number of samples of each chunk."""
    n, chunk = index["n"], index["chunk"]
    return [(index["first_seed"] + k, min(chunk, n - k)) for k in range(0, n, chunk)]


def _missing(folder: Path, index: Mapping[str, Any]) -> list[int]:
    """The first seeds of the chunks that are not there or too short."""
    files = FORMATS[index["files"]]
    return [first for first, count in _chunks(index) if files.held(folder, first) < count]


def _seeds(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, device="cpu")


def _rows(cond: Conditions | None, seeds: Tensor, first_seed: int, n: int) -> dict[str, object]:
    """The conditions of the samples of these seeds. A dict has no rows beyond n: there the last one stands in."""
    if callable(cond):
        return dict(cond(seeds))
    return index_cond(dict(cond or {}), (seeds - first_seed).clamp(max=n - 1), n)


def _labels(cond: Mapping[str, object], seeds: Tensor, count: int) -> Tensor | None:
    """The classes of the first `count` samples, `(count,)` on the CPU; None where the samples have none."""
    label = cond.get("label")
    if not isinstance(label, Tensor) or label.shape != seeds.shape or label.is_floating_point():
        return None
    return label[:count].cpu().contiguous()


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """r and W, as given or of the launchers around this process.

    Raises:
        ValueError: one is given without the other, or r is not among 0..W-1.
    """
    if (rank is None) != (world is None):
        raise ValueError("give rank= and world= together, or neither")
    if rank is None or world is None:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        tasks = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 1))
        if tasks > 1:
            # Every task may be a launch of several processes.
            task = int(os.environ["SLURM_ARRAY_TASK_ID"]) - int(os.environ["SLURM_ARRAY_TASK_MIN"])
            rank, world = task // int(os.environ.get("SLURM_ARRAY_TASK_STEP", 1)) * world + rank, tasks * world
    rank, world = as_count("rank", rank, 0), as_count("world", world, 1)
    if rank >= world:
        raise ValueError(f"rank {rank} is not among the {world} processes 0..{world - 1}")
    return rank, world
