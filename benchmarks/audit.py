"""Every sampler that can be installed, audited: results/audit.json and docs/audit.md.

python benchmarks/audit.py [--packages scoresde diffusers ...] [--only REGEX] [--page]

Samplers of packages that are not installed keep the rows of the last run. Two processes of one thread each.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = "error"

import torch
from audit_page import page

from scoresde import audit, solvers

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "audit.json", HERE.parent / "docs" / "audit.md"
OURS, PEERS = ("scoresde",), ("diffusers", "k-diffusion", "azula", "skrample", "torchsde")


def rows(package: str) -> Iterator[audit.Sampler]:
    """The samplers of a package."""
    if package == "scoresde":
        yield from (audit.sampler_of(name) for name in solvers.names())
        return
    yield from importlib.import_module(f"audit_rows.{package.replace('-', '_')}").rows()


def names(package: str) -> list[str]:
    """Their names; none where the package is missing."""
    try:
        return [sampler.name for sampler in rows(package)]
    except ImportError as error:
        print(f"{package}: {error}")
        return []


def one(task: tuple[str, int]) -> dict:
    """The audit of one sampler, by its number: functions do not travel between processes."""
    package, number = task
    torch.set_num_threads(1)
    sampler = next(s for k, s in enumerate(rows(package)) if k == number)
    started = time.perf_counter()
    found = audit.run(sampler).as_json()
    return {"package": package, **found, "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--page", action="store_true", help="write the page of the results that there are, and measure nothing")
    parser.add_argument("--only", default="", help="audit the samplers whose name this expression finds, and keep the other rows")
    options = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"versions": {}, "rows": [], "seconds": None}
    before = {row["sampler"]: row for row in kept["rows"]}
    tasks = {
        name: (package, k)
        for package in ([] if options.page else options.packages)
        for k, name in enumerate(names(package))
        if re.search(options.only, name)
    }
    # The longest first, so that no process waits for the other at the end.
    order = sorted(tasks, key=lambda name: -before.get(name, {"seconds": 30.0})["seconds"])
    started = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for row in pool.map(one, [tasks[name] for name in order]):
            broken = [name for name, finding in row["findings"].items() if finding["verdict"] == "broken"]
            print(f"{row['sampler']}: {', '.join(broken) or 'sound'}", flush=True)
            before[row["sampler"]] = row
    if order:
        kept["versions"] |= {package: importlib.metadata.version(package) for package, _ in tasks.values()}
        if not options.only and options.packages == [*OURS, *PEERS]:
            kept["seconds"] = round(time.perf_counter() - started)
        kept["rows"] = sorted(before.values(), key=lambda row: (*OURS, *PEERS).index(row["package"]))
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page(kept))


if __name__ == "__main__":
    main()
