"""Solvers by name."""

import pytest

from scoresde import sampling, solvers


def test_the_names_are_those_of_the_table():
    assert set(solvers.names()) >= {"ancestral", "ddim", "euler-maruyama", "heun", "dpm++2m", "dpm++3m"}


def test_names_have_no_case():
    assert solvers.get("DDIM") is solvers.get("ddim")
    assert solvers.get("DPM++2M") is solvers.get("dpm++2m")


def test_the_default_is_a_name_only_where_there_is_a_budget():
    assert "default" not in solvers.names()
    with pytest.raises(ValueError, match="'default' depends on the budget"):
        solvers.get("default")


def test_a_solver_knows_its_short_name():
    assert all(sampling.registry.name_of(solvers.get(name)) == name for name in solvers.names())
    assert sampling.registry.name_of(solvers.DDIM(eta=0.3)) == "DDIM(eta=0.3)"
