"""What a sampling loop costs beyond its network calls: ours, one written by hand, and those of diffusers, azula and k-diffusion.

    python benchmarks/overhead.py [--threads 1 2] [--steps 100] [--repeats 61] [--budget 60] [--device cpu] [--out benchmarks/results]

Every loop is the call that a user makes, from its schedule to the finished batch, beside the same number of network calls alone; medians of
interleaved runs in one process (`timing.py`), once for each of the --threads. Large networks take a fifth of --steps; --budget is in seconds
a network. The last table is the most memory that tensors hold at once during `sample`, weights apart. Writes overhead.json; takes eight
minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import weakref
from pathlib import Path
from typing import Any

import timing
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import scoresde as ss
from scoresde import networks


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within hold at once, measured after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, torch.Tensor):
                storage = made.untyped_storage()
                key = id(made)
                self._alive[key] = (
                    weakref.ref(made, lambda _, key=key: self._alive.pop(key, None)),
                    storage.data_ptr(),
                    storage.nbytes(),
                )
        self.bytes = max(self.bytes, sum({place: size for _, place, size in self._alive.values()}.values()))
        return out


def peak(model: ss.ScoreModel, batch: int, solver: str, steps: int, device: torch.device) -> int:
    """Bytes at the peak of a call of `sample`."""
    shape = (batch, 8)
    ss.sample(model, shape, solver, steps=steps)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        ss.sample(model, shape, solver, steps=steps)
        return torch.cuda.max_memory_allocated(device) - before
    with Peak() as mode:
        ss.sample(model, shape, solver, steps=steps)
    return mode.bytes


def memory(device: torch.device) -> dict[str, dict[str, int]]:
    """Peaks against steps at batch 256, and against the batch at 10 steps."""
    model = ss.ScoreModel(networks.MLP(8, width=128).to(device), timing.chain())
    results: dict[str, dict[str, int]] = {}
    for solver in ("ancestral", "dpm++2m", "unipc3"):
        by_steps = {f"{steps} steps": peak(model, 256, solver, steps, device) for steps in (10, 100, 1000)}
        by_batch = {f"batch {batch}": peak(model, batch, solver, 10, device) for batch in (1, 256, 4096)}
        results[solver] = by_steps | by_batch
    return results


def times(threads: str, device: torch.device, most_steps: int, repeats: int, budget: float) -> dict[str, Any]:
    """The loops of every case, beside the network alone."""
    results: dict[str, Any] = {}
    for title, make, shape, share in timing.CASES:
        torch.manual_seed(0)
        network, steps = make().to(device).eval(), max(1, round(most_steps * share))
        made = (network, shape, steps, device)
        loops = {"network alone": timing.bare(*made), "DDPM by hand": timing.by_hand(*made)}
        loops |= {f"scoresde {name}": loop for name, loop in timing.ours(*made).items()} | timing.theirs(*made)
        seconds = timing.interleaved(loops, device, repeats, budget)
        rows = timing.rows(seconds, "network alone", steps)
        results[title] = {"steps": steps, "rounds": len(seconds["network alone"]), "loops": rows}
        lines = [(name, row["us"], row["above"], row["ratio"]) for name, row in rows.items()]
        head = ("loop", "us a step", "above the network", "ratio")
        timing.print_table(f"{title}, {threads}, {steps} steps, medians of {results[title]['rounds']} rounds", head, lines)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=61)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    device = torch.device(options.device)
    results: dict[str, Any] = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        name = f"{threads} thread{'s' if threads > 1 else ''}"
        results[name] = times(name, device, options.steps, options.repeats, options.budget)
    results["memory"] = memory(device)
    first, *_ = results["memory"].values()
    lines = [(name, *(f"{size / 2**20:.3f}" for size in sizes.values())) for name, sizes in results["memory"].items()]
    timing.print_table(
        "Peak MiB of MLP(128), batch 256 where the steps vary and 10 steps where the batch does", ("", *first), lines
    )
    timing.write(options.out / "overhead.json", results)


if __name__ == "__main__":
    main()
