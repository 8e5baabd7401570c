"""The last tables that were made. A table of 100 steps takes as long as a few calls of a small network, and users repeat their calls.

    remembered_tableau(solver, sde, times)  ==  solver.tableau(sde, times)

A table is found by values and not by names: the type and the attributes of the solver and of the path as they are now, and the times. Whatever
may depend on more is made anew: solvers and paths defined elsewhere, and those that hold functions or other objects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from ..sde.base import SDE
from ..sde.bases import Basis
from ..solvers.base import Solver
from ..solvers.blocks import table as table_of
from ..tableau.tableau import Tableau

KEPT = 16

_tables: OrderedDict[Hashable, Tableau] = OrderedDict()


def remembered_tableau(solver: Solver, sde: SDE, times: Tensor) -> Tableau:
    """`solvers.blocks.table(solver, sde, times)`, made anew only if it is not among the last `KEPT`."""
    try:
        # The table holds its path, so that the number of a path that is gone is not given to another.
        key = (_values(solver), id(sde), _values(sde), times.numpy().tobytes())
    except (TypeError, RuntimeError):  # RuntimeError: tensors of inference mode do not count their changes
        return table_of(solver, sde, times)
    table = _tables.pop(key, None)
    if table is None:
        table = table_of(solver, sde, times)
    _tables[key] = table
    while len(_tables) > KEPT:
        _tables.popitem(last=False)
    return table


def _values(value: object) -> Hashable:
    """What two objects with the same effect share.

    Raises:
        TypeError: an object whose effect cannot be read from its attributes.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, Tensor):
        return value, value._version  # equal only if it is the same tensor, not changed since
    if isinstance(value, tuple):
        return tuple(map(_values, value))
    if isinstance(value, dict):
        return tuple((str(key), _values(entry)) for key, entry in value.items())
    if isinstance(value, Solver | SDE | Basis) and type(value).__module__.startswith("scoresde."):
        return type(value), _values(vars(value))
    raise TypeError(f"no values of {value!r}")
