"""The planted faults of `tests.mutants` still have a place to be planted in."""

import pytest

from .mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_changes_one_place(mutant):
    text = (ROOT / "scoresde" / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
