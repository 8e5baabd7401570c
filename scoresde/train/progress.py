"""What a training run says on its way: a bar on a terminal, and lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..numerics.progress import Bar, progress_bar

# Seconds without a line, where there is no terminal.
LINE_EVERY = 60.0

# Iterations after which a run without a terminal says that it works, counted from where it began or went on.
FIRST = (1, 10)


class Progress:
    """Tells of the iterations of a run. On a terminal each validation is a line above a bar; elsewhere there is a line a minute too.

    Args:
        bar: of the terminal; a silent one elsewhere.
        lines: whether there are lines without a terminal.
        start, stop: the iterations start..stop-1 are done.
    """

    def __init__(self, bar: Bar, lines: bool, start: int, stop: int) -> None:
        self.bar, self.lines, self.start, self.stop = bar, lines, start, stop
        self._row: Mapping[str, float] = {}
        self._told = time.monotonic()

    def __call__(
        self, iteration: int, loss: float, rate: float, speed: float, left: float, row: Mapping[str, float] | None
    ) -> None:
        """Tell of an iteration.

        Args:
            iteration: the number of those that are done.
            loss: the mean loss since the last validation.
            rate: the learning rate.
            speed: samples a second.
            left: seconds to the end.
            row: of the history, after a validation. Later lines repeat its held-out loss.
        """
        self.bar.update()
        self.bar.set_postfix_str(f"loss {loss:.4f}, rate {rate:.1e}, {speed:.3g} samples/s", refresh=False)
        self._row = self._row if row is None else row
        due = iteration - self.start in FIRST or iteration == self.stop or time.monotonic() - self._told >= LINE_EVERY
        if row is not None or (self.lines and due):
            words = [f"iteration {iteration} of {self.stop}: loss {loss:.3g}"]
            if "validation" in self._row:
                zero = f" (predicting zero: {self._row['zero']:.2f})" if "zero" in self._row else ""
                words.append(f"held-out {self._row['validation']:.3g}{zero}")
            words.append(f"{speed:.{0 if speed >= 10 else 1}f} samples/s")
            self.say(", ".join(words if iteration == self.stop else [*words, f"{duration(left)} left"]))

    def say(self, line: str) -> None:
        """Print a line."""
        self._told = time.monotonic()
        if self.lines:
            print(line, flush=True)
        else:
            self.bar.write(line)


def duration(seconds: float) -> str:
    """A time in the unit that suits it: 40 s, 2 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(show: bool, start: int, stop: int) -> Iterator[Progress]:
    """The progress of the iterations start..stop-1, or a silent one.

    Raises:
        ImportError: it is shown on a terminal, and tqdm is not installed.
    """
    terminal = show and sys.stderr.isatty()
    with progress_bar(terminal, total=stop, initial=start, unit="it") as bar:
        yield Progress(bar, show and not terminal, start, stop)
