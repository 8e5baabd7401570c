"""Requests to stop a run: SIGTERM, as of a batch system, and SIGINT, which is Ctrl-C."""

from __future__ import annotations

import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """Within a `with` block the first of the signals is noted. A second one acts as it would without the block.

    Outside the main thread, where Python lets nobody handle signals, none is noted.

    Attributes:
        noted: the number of the signal; 0 for none.
    """

    def __init__(self) -> None:
        self.noted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def act(self, number: int) -> None:
        """Do now what the signal does outside the block. Where SIGTERM would end the process at once, files are closed first.

        Raises:
            KeyboardInterrupt: SIGINT, unless the program has a handler of its own.
            SystemExit: SIGTERM, with the exit code 143 that a shell gives it.
        """
        handler = self._before.get(number, signal.SIG_DFL)
        self._restore()
        self.noted = 0
        if number == signal.SIGTERM and handler in (signal.SIG_DFL, None):
            raise SystemExit(128 + number)
        signal.raise_signal(number)
        # A handler of the program's own lets the run go on.
        self.__enter__()

    def _note(self, number: int, _frame: object) -> None:
        self.noted = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None: a handler that is not of Python, and that Python cannot set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
