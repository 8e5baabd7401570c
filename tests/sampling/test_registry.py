"""Solvers by name."""

import re

import pytest

from scoresde import sampling, solvers


def test_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean 'dpm\\+\\+2"):
        solvers.get("dpm++2")
    assert set(solvers.names()) >= {"ancestral", "ddim", "euler-maruyama", "heun", "dpm++2m", "dpm++3m"}


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("ddpm", "ancestral"), ("DDPM", "ancestral"), ("dpmsolver++", "dpm++2m"), ("DPM-Solver++", "dpm++2m"), ("dpmpp_2m", "dpm++2m"),
        ("dpmpp_2m_sde", "sde-dpm++2m"), ("UniPC", "unipc2"), ("defualt", "default"),
    ],
)  # fmt: skip
def test_the_names_of_others_are_suggested_and_not_accepted(name, suggested):
    message = f"no solver is called {name!r}; did you mean {suggested!r}?"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        solvers.get(name)


def test_every_suggestion_is_a_solver():
    assert set(sampling.registry.ELSEWHERE.values()) <= set(solvers.names())
    assert not set(sampling.registry.ELSEWHERE) & set(solvers.names())


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
