"""A table is made once for one solver, path and grid, and anew as soon as any of these has another value."""

from dataclasses import dataclass, field

import pytest
import torch

import scoresde as ss
from scoresde import solvers
from scoresde.sampling import plan, remembered

TIMES = torch.linspace(1, 0, 6, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(remembered, "_tables", type(remembered._tables)())


def table(sde, solver="dpm++2m", grid=TIMES):
    return plan(sde, solver, grid=grid).tableau


def test_the_same_call_has_the_same_table_and_other_values_another():
    sde = ss.VPSDE()
    first = table(sde)
    assert table(sde) is first
    assert table(sde, solvers.get("dpm++2m"), TIMES.clone()) is first
    for other in (table(ss.VPSDE()), table(sde, "unipc3"), table(sde, "dpm++2m", TIMES[:-1])):
        assert other is not first


def test_a_changed_path_has_another_table():
    sde, edm = ss.VPSDE(), ss.VPSDE.cosine(10)
    first, chain = table(sde), table(edm)
    sde.beta_max = 10.0
    assert table(sde).rows != first.rows
    assert table(sde).rows == table(ss.VPSDE(0.1, 10.0)).rows
    edm._integrals[torch.device("cpu")].mul_(0.5)
    assert table(edm).rows != chain.rows


def test_a_changed_solver_has_another_table():
    solver = solvers.DDIM(eta=0.0)
    first = table(sde := ss.VPSDE(), solver)
    object.__setattr__(solver, "eta", 1.0)
    assert table(sde, solver).rows != first.rows
    assert table(sde, solvers.DDIM(eta=True)).rows == table(sde, solver).rows


def test_what_may_depend_on_more_is_made_anew():
    scale = [1.0]

    @dataclass(frozen=True)
    class Mine(solvers.DDIM):
        eta: float = field(default=0.0)

        def tableau(self, sde, grid):
            return solvers.DDIM(eta=scale[0]).tableau(sde, grid)

    sde = ss.VPSDE()
    first = table(sde, Mine())
    scale[0] = 0.0
    assert table(sde, Mine()).rows != first.rows
    scaled = ss.ScalesSDE(lambda t: 1 - scale[0] * t / 2, lambda t: t)
    before = table(scaled)
    scale[0] = 1.0
    assert table(scaled).rows != before.rows


def test_only_the_last_tables_are_kept():
    sde = ss.VPSDE()
    first = table(sde)
    for steps in range(2, remembered.KEPT + 2):
        plan(sde, "ddim", steps=steps)
    assert len(remembered._tables) == remembered.KEPT
    assert table(sde) is not first
