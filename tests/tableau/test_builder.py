"""What a solver may forget in its table is said when the table is made."""

import pytest
import torch

import scoresde as ss
from scoresde.tableau import TableauBuilder


def without_ends(table):
    for _, s, t in table.steps():
        table.append(t, z={table.last: t.alpha / s.alpha})


def test_a_step_that_is_not_ended_is_named():
    table = TableauBuilder(ss.VPSDE(), torch.linspace(1, 0, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"step 0, from t=1 to t=0.75, was not ended: call end_step"):
        without_ends(table)
