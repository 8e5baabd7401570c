"""Solvers by name."""

import pytest

from scoresde import solvers


def test_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean 'dpm\\+\\+2"):
        solvers.get("dpm++2")
    assert set(solvers.names()) >= {"ancestral", "ddim", "euler-maruyama", "heun", "dpm++2m", "dpm++3m"}
