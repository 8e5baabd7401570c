"""A run of two processes that is killed ten times at random moments, against the same run in one process without a kill.

    python benchmarks/kills.py [--kills 10] [--iterations 2000] [--seed 0]

Every kill is a SIGKILL of all processes, `torchrun` included, within four seconds of the first new checkpoint: between iterations, in one, or
in a write. Prints the iteration of the checkpoint after each kill, and the largest difference of a tensor at the end.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.scale.program import run
from tests.scale.test_training import distance, iteration_of, kill, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    recipe = {"kind": "precise", "iterations": options.iterations, "save_every": 5, "validate_every": 2000}
    with tempfile.TemporaryDirectory() as name:
        alone, killed = Path(name) / "alone", Path(name) / "killed"
        run(alone, **recipe)
        for number in range(options.kills):
            before = iteration_of(killed)
            process = launch(2, [[str(killed), recipe]])
            while iteration_of(killed) == before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(4 * chance.random() ** 2)
            workers = kill(process)
            print(f"kill {number + 1} of {workers} processes: the checkpoint is of iteration {iteration_of(killed)}", flush=True)
        process = launch(2, [[str(killed), recipe]])
        out, _ = process.communicate()
        assert process.returncode == 0, out
        print(f"after {options.kills} kills the largest difference of a tensor is {distance(killed, alone):.1e}")


if __name__ == "__main__":
    main()
