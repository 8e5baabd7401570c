"""What a sampling loop costs on a GPU, where a slow host leaves the device idle: eager, compiled, and as a replayed CUDA graph.

    python benchmarks/gpu.py [--steps 100] [--repeats 31] [--budget 40] [--out benchmarks/results]

The loops of overhead.py on CUDA. The network alone is timed in the same three ways, and each of our loops is compared with the network alone
in its own way: "share" is the part of the loop's time that the network alone would take. Peers are compared with the eager network. Writes
gpu.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import timing
import torch
from torch import nn

WAYS: dict[str, dict[str, bool]] = {"eager": {}, "compiled": {"compile": True}, "graph": {"cuda_graph": True}}


def graphed(network: nn.Module, shape: tuple[int, ...], steps: int, device: torch.device) -> timing.Loop:
    """The network alone, captured once and replayed `steps` times."""
    call = timing.bare(network, shape, 1, device)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def loop() -> None:
        for _ in range(steps):
            graph.replay()

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--budget", type=float, default=40.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch sees none")
    device, steps, results = torch.device("cuda"), options.steps, dict[str, Any]()
    for title, make, shape, _ in timing.CASES:
        torch.manual_seed(0)
        network = make().to(device).eval()
        made = (network, shape, steps, device)
        loops = {
            "network alone, eager": timing.bare(*made),
            "network alone, compiled": timing.bare(torch.compile(network), shape, steps, device),
            "network alone, graph": graphed(*made),
            "DDPM by hand, eager": timing.by_hand(*made),
        }
        for way, choice in WAYS.items():
            loops |= {f"scoresde {name}, {way}": loop for name, loop in timing.ours(*made, **choice).items()}
        loops |= {f"{name}, eager": loop for name, loop in timing.theirs(*made).items()}
        seconds = timing.interleaved(loops, device, options.repeats, options.budget)
        rows: dict[str, dict[str, float]] = {}
        for way in WAYS:
            alike = {name: values for name, values in seconds.items() if name.endswith(f", {way}")}
            rows |= timing.rows(alike, f"network alone, {way}", steps)
        results[title] = {"steps": steps, "rounds": len(seconds["network alone, eager"]), "loops": rows}
        lines = [(name, row["us"], row["above"], row["ratio"], f"{1 / row['ratio']:.0%}") for name, row in rows.items()]
        head = ("loop", "us a step", "above the network", "ratio", "share")
        timing.print_table(f"{title}, {steps} steps, medians of {results[title]['rounds']} rounds", head, lines)
    timing.write(options.out / "gpu.json", results)


if __name__ == "__main__":
    main()
