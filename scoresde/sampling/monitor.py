"""What watches a run: the user's callback, the progress bar, and the search for the step that broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..numerics.inputs import as_callback
from ..numerics.progress import Bar, progress_bar
from ..tableau.executor import Callback, Run


@contextmanager
def monitor(callback: Callback | None, progress: bool, steps: int | None, parts: int) -> Iterator[Callback | None]:
    """The callback of a run in `parts` parts of `steps` steps each: `callback`, with a progress bar moved before it if asked for.

    Raises:
        TypeError: the callback is no function of four arguments.
    """
    callback = as_callback("callback", callback, 4)
    if not progress:
        yield callback
        return
    with progress_bar(True, total=steps and steps * parts, unit="step") as bar:
        advance = _advance(bar, steps)

        def on_step(n: int, t: Any, z: Tensor, data: Tensor) -> None:
            advance(n)
            if callback is not None:
                callback(n, t, z, data)

        yield on_step


def _advance(bar: Bar, steps: int | None) -> Callable[[int], None]:
    """Move `bar` on step n = 0, 1, ... of every part. Steps without a network call are made up for at the next one."""
    done, before = 0, -1

    def advance(n: int) -> None:
        nonlocal done, before
        # A step number that does not rise starts the next part.
        done += (steps or before + 1) if n <= before else 0
        before = n
        bar.update(done + n + 1 - bar.n)

    return advance


def raise_non_finite(solve: Callable[[Callback], Run], steps: int | None) -> None:
    """Solve again, with the same noise, and raise at the first infinite or NaN value.

    Looking at every step of every run would make the host wait for the device, so `sample` looks at the result alone.

    Raises:
        FloatingPointError: names the step and the time.
    """
    of_all = "" if steps is None else f" of {steps}"

    def find(n: int, t: Any, z: Tensor, data: Tensor) -> None:
        for what, tensor in (("state", z), ("data prediction", data)):
            if not bool(tensor.isfinite().all()):
                raise FloatingPointError(f"the {what} is not finite at step {n}{of_all}, t={float(torch.as_tensor(t).max()):g}")

    run = solve(find)
    raise FloatingPointError(
        f"the state is not finite after the last step, {len(run.times) - 1}{of_all}, t={float(run.times[-1].max()):g}"
    )
