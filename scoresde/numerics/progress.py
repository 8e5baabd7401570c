"""A progress bar that costs nothing, and needs no package, where none is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


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
