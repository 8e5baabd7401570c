"""A table that no loop could run is refused when it is made, by the row or the step that is wrong."""

import math
from dataclasses import replace

import pytest

from scoresde import grids, solvers
from scoresde.tableau import Row, Tableau

from ..conftest import SDES, TABLEAUX

LINEAR = SDES["linear"]
RIGHT = {
    "times": (1.0, 0.5, 0.2, 0.0),
    "rows": (Row({0: 0.5}, {0: 0.5}, {0: 0.1}), Row({1: 0.5}, {1: 0.5}), Row({}, {2: 1.0})),
    "grid_states": (0, 1, 2, 3),
    "step_evals": (0, 1, 2),
}


def with_row(k, row):
    rows = list(RIGHT["rows"])
    rows[k] = row
    return {"rows": tuple(rows)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (with_row(1, Row({2: 1.0}, {1: 0.5})), r"row 1 uses state 2, but only 0\.\.1 exist before it"),
        (with_row(0, Row({0: 1.0}, {1: 0.5})), r"row 0 uses data prediction 1, but only 0\.\.0 exist before it"),
        (with_row(2, Row({-1: 1.0}, {2: 0.5})), "row 2 uses state -1"),
        (with_row(1, Row({1: 1.0}, {1: 0.5}, {-2: 0.1})), "row 1 uses noise -2: noises are counted from 0"),
        (with_row(1, Row({1: math.nan}, {1: 0.5})), r"row 1, to t=0\.2, has the coefficient nan at index 1"),
        (with_row(2, Row({}, {2: math.inf})), "row 2, to t=0, has the coefficient inf at index 2"),
        (with_row(0, Row({0: 1.0}, {0: 0.5}, {0: -math.inf})), r"row 0, to t=0\.5, has the coefficient -inf at index 0"),
        ({"times": (1.0, 0.5, 0.0)}, "a table of 3 rows needs at least one row and 4 times, got 3 times"),
        ({"rows": (), "times": (1.0,)}, "needs at least one row"),
        ({"times": (1.0, 0.5, 0.6, 0.0)}, r"step 1 must go to a later state and no larger time, got state 2 at t=0\.6"),
        ({"grid_states": (0, 2, 1, 3)}, "step 1 must go to a later state"),
        ({"grid_states": (1, 2, 3), "step_evals": (1, 2)}, "grid states run from 0 to 3 with one evaluation for each step"),
        ({"grid_states": (0, 1, 2)}, "grid states run from 0 to 3 with one evaluation for each step"),
        ({"step_evals": (0, 1)}, r"one evaluation for each step, got .* and 2 evaluations"),
        ({"step_evals": (0, 2, 2)}, "step 1 evaluates the network at state 2, which does not exist before state 2"),
        ({"step_evals": (-1, 1, 2)}, "step 0 evaluates the network at state -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_table_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Tableau(LINEAR, **(RIGHT | wrong))


def test_the_right_table_is_taken_and_describes_itself():
    tableau = Tableau(LINEAR, **RIGHT)
    assert tableau.evaluated == (0, 1, 2)
    assert (tableau.nfe, tableau.steps, tableau.stochastic) == (3, 3, True)
    assert tableau.grid.tolist() == [1.0, 0.5, 0.2, 0.0]
    assert tableau.coefficients == 3 + 2 + 1
    assert not replace(tableau, rows=(Row({0: 0.5}, {0: 0.5}), *tableau.rows[1:])).stochastic


@pytest.mark.parametrize("name", TABLEAUX)
def test_a_fault_in_any_table_is_seen(name):
    """The checks look at every row and every step of real tables, with stages, corrections and stirring."""
    tableau = solvers.get(name).tableau(LINEAR, grids.half_log_snr(LINEAR, 5))
    for k, row in enumerate(tableau.rows):
        ahead = row._replace(z={**row.z, k + 1: 1.0})
        with pytest.raises(ValueError, match=f"row {k} uses state {k + 1}"):
            replace(tableau, rows=(*tableau.rows[:k], ahead, *tableau.rows[k + 1 :]))
    for n in range(tableau.steps):
        late = (*tableau.step_evals[:n], tableau.grid_states[n + 1], *tableau.step_evals[n + 1 :])
        with pytest.raises(ValueError, match=f"step {n} evaluates the network at state"):
            replace(tableau, step_evals=late)
