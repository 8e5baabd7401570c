"""A table as tensors and back."""

import pytest
import torch

from scoresde import grids, solvers
from scoresde.tableau.tensors import from_tensors, to_tensors

from ..conftest import SDES, TABLEAUX, rotated


@pytest.mark.parametrize(("name", "process"), list(rotated(TABLEAUX, SDES)))
def test_a_table_comes_back_to_the_bit(name, process):
    """With the order of its terms, which decides the last bit of a sum."""
    sde = SDES[process]
    tableau = solvers.get(name).tableau(sde, grids.half_log_snr(sde, 5))
    tensors = to_tensors(tableau)
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    again = from_tensors(sde, tensors)
    assert again == tableau
    assert [[list(part) for part in row] for row in again.rows] == [[list(part) for part in row] for row in tableau.rows]
