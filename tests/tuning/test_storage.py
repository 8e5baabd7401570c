"""Solvers made for one process, and their files."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import scoresde as ss
from scoresde import grids, networks, solvers
from scoresde.tuning import fitting, selection
from scoresde.tuning.reference import starts

from ..conftest import SDES, mixture


def test_another_process_another_grid_and_another_budget_are_refused(fitted):
    with pytest.raises(ValueError, match=r"FittedSolver was made for a process with alpha=.* VPSDE"):
        ss.sample(mixture().model(SDES["linear"]), (2, 2), fitted)
    model = mixture().model(SDES["ddpm"])
    with pytest.raises(ValueError, match="own grid of 4 steps"):
        ss.sample(model, (2, 2), fitted, grid=grids.uniform(model.sde, 4))
    with pytest.raises(ValueError, match="steps=5, but the grid has 4"):
        ss.sample(model, (2, 2), fitted, steps=5)
    assert ss.sample(model, (2, 2), fitted, steps=4, seeds=range(2)).shape == (2, 2)


def test_another_model_is_warned_of(fitted):
    networks_ = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            networks_.append(ss.ScoreModel(networks.MLP(2, 8), SDES["ddpm"]))
    same, again, other = networks_
    assert fitting.fingerprint(same) == fitting.fingerprint(again) != fitting.fingerprint(other)
    with pytest.warns(
        UserWarning, match=f"fitted to another network or guidance .{fitted.model}, not {fitting.fingerprint(same)}."
    ):
        ss.sample(same, (2, 2), fitted)


def test_a_file_gives_the_same_samples_in_another_process(fitted, tmp_path):
    path = tmp_path / "fitted.safetensors"
    fitted.save(path)
    model = mixture().model(SDES["ddpm"])
    here = ss.sample(model, (5, 2), fitted, seeds=range(5))
    script = f"""
import torch, scoresde as ss
from tests.conftest import SDES, mixture
fitted = ss.solvers.load({str(path)!r})
torch.save(ss.sample(mixture().model(SDES["ddpm"]), (5, 2), fitted, seeds=range(5)), {str(tmp_path / "x.pt")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "x.pt"), here)
    loaded = solvers.get(str(path))
    assert (str(loaded), loaded.settings, loaded.model) == (str(fitted), fitted.settings, fitted.model)
    assert torch.equal(ss.sample(model, (5, 2), str(path), seeds=range(5)), here)


@pytest.mark.filterwarnings("ignore:.* have a bound above tol=:UserWarning")
def test_selected_solvers_and_cascades_are_kept_to_the_bit(fitted, cascade, tmp_path, monkeypatch):
    model = mixture().model(SDES["ddpm"])
    picked = solvers.select(model, 5, (2,), 8, reference_steps=32)
    picked.save(tmp_path / "picked.safetensors")
    loaded = solvers.load(tmp_path / "picked.safetensors")
    here, there = (ss.sample(model, (5, 2), solver, seeds=range(5)) for solver in (picked, str(tmp_path / "picked.safetensors")))
    assert torch.equal(here, there)
    assert loaded.nfe == 5
    assert (loaded.name, loaded.error, loaded.discrepancy) == (picked.name, picked.error, picked.discrepancy)
    assert loaded.ranking[0].score == picked.ranking[0].score
    mixed = solvers.calibrate(model, (2,), levels=[fitted, picked], noises=64, reference_steps=32)
    for made in (cascade, mixed):
        made.save(tmp_path / "cascade.safetensors")
        again = solvers.load(tmp_path / "cascade.safetensors")
        assert (again.confidence, again.reference_steps) == (made.confidence, made.reference_steps)
        here, there = (ss.sample(model, (40, 2), each, tol=0.02, seeds=range(40), trajectory=True) for each in (made, again))
        assert torch.equal(here.x, there.x)
        assert torch.equal(here.bound, there.bound)
        assert torch.equal(here.calls, there.calls)
    twice = solvers.calibrate(model, (2,), levels=[fitted, fitted], noises=64, reference_steps=32)
    twice.save(tmp_path / "twice.safetensors")
    assert len(solvers.load(tmp_path / "twice.safetensors").levels) == 2
    bare = replace(picked, coefficients={})
    bare.save(tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="only solvers of the portfolio can be kept"):
        replace(bare, solver=solvers.Ancestral()).save(tmp_path / "other.safetensors")
    # Its file stands for it.
    here, there = (ss.sample(model, (5, 2), each, seeds=range(5), error=True) for each in (again, tmp_path / "cascade.safetensors"))
    assert torch.equal(here.x, there.x)
    assert torch.equal(here.bound, there.bound)
    with pytest.raises(ValueError, match="a cascade needs tol="):
        ss.sample(model, (5, 2), str(tmp_path / "cascade.safetensors"))
    with pytest.raises(ValueError, match=r"unroll the solver of one, cascade\.levels\[-1\]\.solver"):
        ss.unroll(model, tmp_path / "cascade.safetensors")
    with pytest.raises(ValueError, match="Selected has times of its own: leave grid= out"):
        ss.sample(model, (5, 2), tmp_path / "picked.safetensors", grid="karras")
    # A file has its own coefficients. Without them, as in files of version 0.1, the portfolio must still have the solver.
    for portfolio in (selection.PORTFOLIO, selection.LINEAR_PORTFOLIO):
        monkeypatch.delitem(portfolio, picked.name.split()[0], raising=False)
    loaded = solvers.load(tmp_path / "picked.safetensors")
    assert (loaded.solver, loaded.ranking) == (None, ())
    assert torch.equal(ss.sample(model, (5, 2), loaded, seeds=range(5)), ss.sample(model, (5, 2), picked, seeds=range(5)))
    with pytest.raises(ValueError, match="does not have in its portfolio"):
        solvers.load(tmp_path / "bare.safetensors")


def test_a_late_first_call_is_kept_to_the_bit(late_fitted, tmp_path):
    """A fit, and a selection whose pilot only has solvers with one, which makes a step more than it makes calls."""
    model = mixture().model(SDES["ddpm"])
    reference = ss.tuning.solve_reference(model, starts(model, (2,), 8, 0), steps=32)
    solver, grid = solvers.LateFirstCall(solvers.get("unipc2")), selection.late(model.sde, 5, power=2.0)
    picked = selection.selected(reference, [selection.Ranked("late-unipc2 late 2", solver, grid, 1.0, 1.0)])
    assert late_fitted.form.t_start == 1
    for made, steps in ((late_fitted, 4), (picked, 6)):
        made.save(tmp_path / "late.safetensors")
        loaded = solvers.load(tmp_path / "late.safetensors")
        assert (loaded.nfe, len(loaded.grid) - 1) == (made.nfe, steps)
        x = ss.sample(model, (5, 2), made, seeds=range(5))
        assert torch.equal(ss.sample(model, (5, 2), loaded, seeds=range(5)), x)
    torch.testing.assert_close(x, ss.sample(model, (5, 2), solver, grid=grid, seeds=range(5)), rtol=0, atol=0)


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="no file"):
        solvers.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="holds no fitted solver"):
        solvers.load(tmp_path / "weights.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match="holds no fitted solver"):
        solvers.load(tmp_path / "text.safetensors")
