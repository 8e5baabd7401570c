"""Errors of the library in the words of the command line: `held_out=5` is `--held-out 5` there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ..data import DataError


@contextmanager
def in_option_words(names: Iterable[str]) -> Iterator[None]:
    """Errors of the user's input name options in place of arguments.

    Args:
        names: of the arguments that are options.

    Raises:
        ValueError, DataError: those of the block.
    """
    names = tuple(names)
    try:
        yield
    except ValueError as error:
        raise ValueError(option_words(str(error), names)) from error
    except DataError as error:
        raise DataError(option_words(str(error), names)) from error


def option_words(text: str, names: Iterable[str]) -> str:
    """The text with options in place of arguments.

    A name that may be a word of English too, such as `network`, is an argument where it has a value, differs between two runs, or must be
    something. A name with an underscore is none.
    """
    names = sorted(names, key=len, reverse=True)
    start = r"(?<![\w./-])(?:recipe\.)?"
    any_name, long = (f"({'|'.join(map(re.escape, some))})" for some in (names, [name for name in names if "_" in name]))

    def option(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}"

    def with_value(found: re.Match[str]) -> str:
        value = "" if found[2] == "True" else found[2]
        return f"{option(found)} {value}".rstrip()

    text = re.sub(rf"{start}{any_name}='?([^\s,;:')]*)'?", with_value, text)
    for pattern in (rf"{any_name}(?=: [^:]* there, )", rf"{any_name}(?= must )", rf"{long}\b"):
        text = re.sub(start + pattern, option, text)
    return text
