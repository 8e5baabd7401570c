"""Keywords that a function or a class does not take, with the ones that it does."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Called = TypeVar("Called", bound=Callable[..., Any])


def explained_keywords(otherwise: str = "", **elsewhere: str) -> Callable[[Called], Called]:
    """A function, or a class with its `__init__`, whose error for an unknown keyword says what to give in its place.

    Args:
        otherwise: said of a keyword that is not among `elsewhere`.
        **elsewhere: what is said of the keywords of other libraries.

    Raises:
        TypeError: in a call with a keyword that the function does not take.
    """

    def decorate(function: Any) -> Any:
        if isinstance(function, type):
            # A dataclass writes its own.
            function.__init__ = decorate(function.__init__)  # type: ignore[misc]
            return function
        taken = set(inspect.signature(function).parameters)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                said: Any = elsewhere.get(name, otherwise)
                if name not in taken and said:
                    raise TypeError(f"{function.__qualname__.removesuffix('.__init__')} takes no {name}=: {said}")
            return function(*args, **kwargs)

        return called

    return decorate
