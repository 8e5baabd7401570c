"""Keywords that a function does not take, with the ones that it does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def explained_keywords(otherwise: str = "", **elsewhere: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose error for an unknown keyword says what to give in its place.

    Args:
        otherwise: said of a keyword that is not among `elsewhere`.
        **elsewhere: what is said of the keywords of other libraries.

    Raises:
        TypeError: in a call with a keyword that the function does not take.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        taken = set(inspect.signature(function).parameters)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                said: Any = elsewhere.get(name, otherwise)
                if name not in taken and said:
                    raise TypeError(f"{function.__qualname__.removesuffix('.__init__')} takes no {name}=: {said}")
            return function(*args, **kwargs)

        return called

    return decorate
