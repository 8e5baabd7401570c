"""A progress bar that costs nothing, and needs no package, where none is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

# Seconds between two lines where there is no terminal.
MINUTE = 60.0


class Bar(Protocol):
    """What a job tells of its progress."""

    n: float

    def update(self, n: float = 1) -> object:
        """Add to what is done."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Show a text behind the bar."""
        ...

    def write(self, s: str) -> object:
        """Print a line above the bar."""
        ...


class Silent:
    """No bar."""

    n: float = 0

    def update(self, n: float = 1) -> None:
        self.n += n

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        pass

    def write(self, s: str) -> None:
        pass


class Lines:
    """In place of a bar where nobody sees one move: a line on stderr for each new text, and at most one a minute besides.

    Args:
        desc: what is done.
        total: the value of `n` at the end.
    """

    n: float = 0

    def __init__(self, desc: str, total: float) -> None:
        self.desc, self.total, self.text = desc, total, ""
        self.began = self.said = time.monotonic()

    def update(self, n: float = 1) -> None:
        self.n += n
        now = time.monotonic()
        if now - self.said >= MINUTE:
            self.said = now
            self.write(
                f"{self.desc}: {self.n / self.total:.0%} after {(now - self.began) / 60:.0f} min"
                + f", {self.text}" * bool(self.text)
            )

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        if s != self.text:
            self.write(f"{self.desc}: {s}, after {time.monotonic() - self.began:.0f} s")
        self.text = s

    def write(self, s: str) -> None:
        print(s, file=sys.stderr, flush=True)


@contextmanager
def bar_or_lines(show: bool, desc: str, total: float, **options: Any) -> Iterator[Bar]:
    """As `progress_bar` on a terminal and in a notebook, `Lines` elsewhere."""
    if show and not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        yield Lines(desc, total)
        return
    with progress_bar(show, desc=desc, total=total, **options) as bar:
        yield bar


@contextmanager
def progress_bar(show: bool, **options: Any) -> Iterator[Bar]:
    """A bar of tqdm with these options where `show` is set.

    Raises:
        ImportError: a bar is asked for and tqdm is not installed.
    """
    if not show:
        yield Silent()
        return
    from tqdm.auto import tqdm

    with tqdm(**options) as bar:
        yield bar
