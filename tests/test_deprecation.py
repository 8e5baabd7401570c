"""Old names lead to the new objects and warn at the line of the user."""

import importlib
import sys

import pytest
import torch

import scoresde as ss
from scoresde import deprecation, grids, legacy, models, solvers
from scoresde.loops.base import Job
from scoresde.numerics.random import SeededNoise
from scoresde.tableau import TableauBuilder

from .conftest import SDES, generator, mixture

LINEAR = SDES["linear"]


@pytest.fixture
def old_module(monkeypatch):
    """Import an old module as if for the first time, and leave neither it nor an attribute of its package behind."""

    def load_one(name):
        package, _, child = f"scoresde.{name}".rpartition(".")
        # Two entries with one undo each: what stood there before comes back, and what did not goes.
        monkeypatch.setitem(sys.modules, f"scoresde.{name}", None)
        del sys.modules[f"scoresde.{name}"]
        monkeypatch.setitem(vars(importlib.import_module(package)), child, None)
        with pytest.warns(DeprecationWarning, match=rf"the module scoresde\.{name} is now scoresde\."):
            return importlib.import_module(f"scoresde.{name}")

    def load(name):
        parent = name.rpartition(".")[0]
        if parent in deprecation.MOVED_MODULES:
            load_one(parent)
        return load_one(name)

    return load


@pytest.mark.parametrize(("old", "new"), deprecation.MOVED_MODULES.items(), ids=deprecation.MOVED_MODULES.keys())
def test_an_old_module_has_the_names_of_the_new_ones(old, new, old_module):
    module, seen = old_module(old), set()
    for path in new:
        there = importlib.import_module(f"scoresde.{path}")
        for name in [name for name in vars(there) if not name.startswith("__")]:
            if name not in seen:
                assert getattr(module, name) is getattr(there, name)
            seen.add(name)
    with pytest.raises(AttributeError, match="never_was"):
        _ = module.never_was


OLD_NAMES = [(module, name, path) for module, names in deprecation.MOVED_NAMES.items() for name, path in names.items()]


@pytest.mark.parametrize(("module", "name", "path"), OLD_NAMES, ids=[f"{module}.{name}" for module, name, _ in OLD_NAMES])
def test_an_old_name_leads_to_the_new_object(module, name, path, old_module):
    owner = old_module(module) if module in deprecation.MOVED_MODULES else importlib.import_module(f"scoresde.{module}")
    expected = deprecation.load(path)
    if name in vars(owner) or any(
        name in vars(importlib.import_module(f"scoresde.{m}")) for m in deprecation.MOVED_MODULES.get(module, ())
    ):
        # The name is still at home there: nothing has moved for its users.
        assert getattr(owner, name) is expected
        return
    with pytest.warns(DeprecationWarning, match=rf"scoresde\.{module}\.{name} is now scoresde\..*goes in scoresde 0\.4") as caught:
        assert getattr(owner, name) is expected
    assert caught[0].filename == __file__


def test_what_never_was_is_no_attribute():
    for module in (ss, ss.solvers, ss.sde, ss.losses):
        with pytest.raises(AttributeError, match="has no attribute 'never_was'"):
            _ = module.never_was


def steps_of_old_rows(rows):
    """Heun's kind of step with noise, as a solver of version 0.1 wrote it."""
    for _, s, t in rows.steps():
        j = rows.state
        middle = rows.point((s.half_log_snr + t.half_log_snr) / 2)
        k = rows.add(middle, z={j: middle.alpha / s.alpha}, eps={j: 0.3}, noise={rows.fresh_noise(): 0.1})
        rows.add(t, z={j: 0.5, k: 0.25}, data={j: 0.1, k: 0.2})
        assert rows.at[rows.state] == t
        rows.mark()
        assert (rows.marks[-1], rows.looks[-1]) == (rows.state, rows.state)


def steps_of_the_builder(table):
    for _, s, t in table.steps():
        j = table.last
        middle = table.point_at((s.half_log_snr + t.half_log_snr) / 2)
        xi = table.fresh_noise()
        k = table.append(middle, z={j: middle.alpha / s.alpha}, noise_prediction={j: 0.3}, xi={xi: 0.1})
        table.append(t, z={j: 0.5, k: 0.25}, data={j: 0.1, k: 0.2})
        table.end_step()


def test_old_rows_write_the_tableau_of_the_builder():
    grid = grids.half_log_snr(LINEAR, 4)
    old, new = legacy.Rows(LINEAR, grid), TableauBuilder(LINEAR, grid)
    steps_of_old_rows(old)
    steps_of_the_builder(new)
    assert old.tableau() == new.tableau()
    # A prediction made before its state was corrected, by the old keyword.
    old, new = legacy.Rows(LINEAR, grid), TableauBuilder(LINEAR, grid)
    _, _, t = next(old.steps())
    for table in (old, new):
        table.append(t, z={0: 1.0})
        table.append(t, z={1: 1.0})
    old.mark(look=1)
    new.end_step(1)
    assert (old.grid_states, old.step_evals) == (new.grid_states, new.step_evals) == ([0, 2], [0, 1])


def test_renamed_keywords_warn_and_mean_the_same():
    @deprecation.renamed_keywords(rungs="levels", teacher_steps="steps")
    def call(first, *, levels=None, steps=0):
        return first, levels, steps

    with pytest.warns(DeprecationWarning, match="rungs= of call is now levels=") as caught:
        assert call(1, rungs=(2, 3)) == (1, (2, 3), 0)
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="teacher_steps= of call is now steps="):
        assert call(1, teacher_steps=5) == (1, None, 5)
    assert call(1, levels=2, steps=3) == (1, 2, 3)


@pytest.mark.filterwarnings("ignore:the error is .* true error may be another")
def test_renamed_keywords_of_tuning():
    model = mixture().model(SDES["ddpm"])
    with pytest.warns(DeprecationWarning, match="teacher_steps= of select is now reference_steps="):
        old = solvers.select(model, 4, (2,), 8, teacher_steps=16)
    picked = solvers.select(model, 4, (2,), 8, reference_steps=16)
    assert old.error == picked.error
    with pytest.warns(DeprecationWarning, match="of calibrate is now") as caught:
        cascade = solvers.calibrate(model, (2,), rungs=[picked], teacher_steps=16, noises=80)
    assert {str(warning.message).split(" is now")[0] for warning in caught} == {
        "rungs= of calibrate",
        "teacher_steps= of calibrate",
    }
    assert [level.solver for level in cascade.levels] == [picked]
    for name, expected in (("rungs", cascade.levels), ("teacher_steps", cascade.reference_steps)):
        with pytest.warns(DeprecationWarning, match=f"Cascade.{name} is now"):
            assert getattr(cascade, name) is expected
    with pytest.warns(DeprecationWarning, match=r"Cascade\.at is now Cascade\.within"):
        old = cascade.at(0.1)
    assert old == cascade.within(0.1)


def test_old_attributes_and_methods_warn():
    tableau = solvers.Ancestral().tableau(LINEAR, grids.half_log_snr(LINEAR, 4))
    for owner, old, new in ((tableau.rows[0], "noise", "xi"), (tableau, "marks", "grid_states"), (tableau, "looks", "step_evals")):
        with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}") as caught:
            assert getattr(owner, old) is getattr(owner, new)
        assert caught[0].filename == __file__
    made = ss.plan(LINEAR, "ddim", steps=4)
    with pytest.warns(DeprecationWarning, match=r"plan\.rows is now plan\.tableau\.rows") as caught:
        assert made.rows is made.tableau.rows
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"plan\.moments is now"):
        assert made.moments(0.1, 0.2) == made.tableau.moments(0.1, 0.2)
    with pytest.raises(AttributeError, match="never_was"):
        _ = made.never_was
    model, z = mixture().model(LINEAR), torch.randn(3, 2, generator=generator())
    with pytest.warns(DeprecationWarning, match=r"SDE\.reverse"):
        old = LINEAR.reverse(model, eta=0.5)
    new = models.ReverseSDE(model, eta=0.5)
    assert torch.equal(old.drift(z, 0.3), new.drift(z, 0.3))
    assert torch.equal(legacy.ReverseSDE(LINEAR, model, 0.5).drift(z, 0.3), new.drift(z, 0.3))


def test_loops_run_as_before():
    """`run` with the parts of a job as arguments, and a `Schedule`, which is a plan now."""
    model, z, times = mixture().model(LINEAR), torch.randn(3, 2, generator=generator()), grids.half_log_snr(LINEAR, 5)
    loop = ss.loops.PredictorCorrector()
    old = loop.run(model, z, SeededNoise(range(3)), times, trajectory=True)
    new = loop.solve(Job(model, z, SeededNoise(range(3)), times, trajectory=True))
    assert torch.equal(old.path, new.path)
    planned = legacy.Schedule(loop, LINEAR, times)
    assert torch.equal(planned.run(Job(model, z, SeededNoise(range(3)), times)).x, new.x)
