"""The processes that train one model together.

They are started by `torchrun`, or by anything else that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Of the global batch of
B rows, process r of W has the rows r, r + W, r + 2 W, ... A strategy says where the weights are:

    Single   one process
    DDP      every process has all weights; gradients are averaged                 torch.nn.parallel.DistributedDataParallel
    FSDP2    every process has a part of each weight, gradient, moment, average    torch.distributed.fsdp.fully_shard, Zhao et al. 2023
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..numerics.inputs import as_one_of

T = TypeVar("T")


class Single:
    """One process, which has all rows and all weights."""

    rank, size = 0, 1

    def shard(self, model: nn.Module, low: torch.dtype | None = None) -> None:
        """Divide the weights of a model among the processes. A block gathers its weights in the dtype `low`; None: in their own."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages the gradients over the processes."""
        return module

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        """The passes of one micro-batch; gradients are averaged in the last one."""
        return nullcontext()

    def gather(self, rows: Tensor) -> Tensor:
        """The values of all rows, `(B,)`, from those of this process, `(B/W,)`."""
        return rows

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """The parts of a job that this process does; `total` adds the results."""
        return parts

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The sums over all processes."""
        return dict(sums)

    def agree(self, what: Mapping[str, object]) -> None:
        """Raise on every process unless all have the same entries.

        Raises:
            ValueError: names the first entry that differs.
        """

    def highest(self, value: int) -> int:
        """The largest of the values of all processes, which is the same on all."""
        return value

    def barrier(self) -> None:
        """Wait for the others."""


class DDP(Single):
    """Every process has all weights, and rows of its own."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shard(self, model: nn.Module, low: torch.dtype | None = None) -> None:
        # All begin with the weights of process 0.
        with torch.no_grad():
            for value in [*model.parameters(), *model.buffers()]:
                dist.broadcast(value, 0)

    def wrap(self, module: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(module)

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        assert isinstance(module, nn.parallel.DistributedDataParallel)
        return nullcontext() if last else module.no_sync()

    def gather(self, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts, 1).flatten()

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        return parts[self.rank :: self.size]

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        found = self._all(dict(sums))
        return {name: sum(each[name] for each in found) for name in sums}

    def agree(self, what: Mapping[str, object]) -> None:
        found = self._all(dict(what))
        for name in what:
            values = [each.get(name) for each in found]
            if any(value != values[0] for value in values):
                raise ValueError(f"the processes differ in {name}: {', '.join(f'{r}: {value}' for r, value in enumerate(values))}")

    def highest(self, value: int) -> int:
        # NCCL knows no other memory than that of the GPU.
        found = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        dist.barrier()

    def _all(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


class FSDP2(DDP):
    """Every process has a part of the weights. A block has all of them while it computes, and the rest of the time only its own part.

    Blocks are the members of `nn.ModuleList`s, as those of our networks; the root is the network.
    """

    def shard(self, model: nn.Module, low: torch.dtype | None = None) -> None:
        try:
            from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
        except ImportError:
            raise ImportError(f"parallel='fsdp2' needs torch 2.6 or later, here is {torch.__version__}") from None
        super().shard(model)
        # Inputs keep their dtype: a time in half precision would be another time.
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None, cast_forward_inputs=False)
        network = getattr(model, "network", model)
        # From the inside: an outer block takes the weights that no inner one has.
        for part in reversed(list(network.modules())):
            if isinstance(part, nn.ModuleList):
                for block in part:
                    if any(True for _ in block.parameters()):
                        fully_shard(block, mp_policy=policy)
        # Else the root would keep its weights whole after a pass without gradients, and the average could not be updated.
        fully_shard(network, mp_policy=policy, reshard_after_forward=True)

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[object]:
        for part in module.modules():
            # The root alone would leave the blocks as they are.
            if hasattr(part, "set_requires_gradient_sync"):
                part.set_requires_gradient_sync(last, recurse=False)  # type: ignore[operator]
        return nullcontext()

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        # Every forward pass gathers weights from all processes: all do all.
        return parts

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)


Strategy = Single | DDP | FSDP2


def strategy(parallel: str | None, device: torch.device) -> Strategy:
    """The strategy of that name; without a name DDP where WORLD_SIZE is above 1. The process group is made unless there is one.

    Raises:
        ValueError: an unknown name, or no other process and no launcher where `parallel` asks for them.
    """
    if parallel is not None:
        as_one_of("parallel", parallel, ("ddp", "fsdp2"))
    launched = dist.is_available() and (dist.is_initialized() or "RANK" in os.environ)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if parallel is None and size == 1:
        return Single()
    if not launched:
        raise ValueError(
            f"parallel={parallel!r} needs processes that know each other: start with `torchrun --standalone --nproc_per_node 2 ...`"
        )
    if device.type == "cuda":
        # Where NCCL puts what it sends; else that of all processes would be the first GPU.
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return FSDP2() if parallel == "fsdp2" else DDP()


def local_device(name: str | None = None) -> torch.device:
    """The device of this process: `name`, or the GPU number LOCAL_RANK, or the CPU.

    "cuda" without a number is GPU number LOCAL_RANK too.
    """
    if name in (None, "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name or "cpu")


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process has; a tensor that is not divided as it is."""
    return value.to_local() if _divided(value) else value  # type: ignore[attr-defined]


def whole(value: Tensor) -> Tensor:
    """A divided tensor as a whole, which every process has to ask for; any other tensor as it is."""
    return value.full_tensor() if _divided(value) else value  # type: ignore[attr-defined]


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors as wholes, one after another; every process has to ask.

    Args:
        tensors: by name, in the same order on every process.
        keep: whether this process wants them. A divided tensor then comes to the CPU: together they need not fit on a device.
    """
    found = {}
    for name, value in tensors.items():
        as_whole = whole(value)
        if keep:
            found[name] = as_whole.cpu() if _divided(value) else value
    return found


def divided_as(value: Tensor, target: Tensor) -> Tensor:
    """A tensor that all processes have, divided as `target` is."""
    if not _divided(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    # Without a source every process takes its part of what it has.
    return distribute_tensor(value.to(target.device), mesh, placements, src_data_rank=None)


def _divided(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
