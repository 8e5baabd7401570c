"""A fit that is interrupted goes on from its best so far, and ends where it would have ended."""

from functools import cache

import pytest
import torch

from scoresde import solvers
from scoresde.numerics import progress
from scoresde.tuning import fitting, search

from ..conftest import SDES, mixture
from ..linear import EVENT, processes, two_modes
from .test_fitting import narrow

pytestmark = pytest.mark.filterwarnings("ignore:the error is .* true error may be another")
OPTIONS = {"nfe": 4, "shape": (2,), "trajectories": 24, "reference_steps": 32, "refine": 2}


class Stopped(Exception):
    pass


def stop_after(monkeypatch, count):
    """The fit is stopped in the stage after the first `count`."""
    begun = []
    real = search.stages

    def stages(*arguments):
        for stage in real(*arguments):

            def improve(*given, stage=stage):
                begun.append(stage.name)
                if len(begun) > count:
                    raise Stopped
                return stage.improve(*given)

            yield stage._replace(improve=search.refine_once if stage.improve is search.refine_once else improve)

    monkeypatch.setattr(fitting, "stages", stages)


@cache
def whole_fit(sde, data):
    return solvers.fit(data().model(SDES[sde]), **OPTIONS, progress=False)


@pytest.mark.parametrize(("sde", "data"), [("ddpm", mixture), ("flow", narrow)])
@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch, sde, data, count):
    model, file = data().model(SDES[sde]), tmp_path / "partial.safetensors"
    whole = whole_fit(sde, data)
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Stopped):
            solvers.fit(model, **OPTIONS, progress=False, checkpoint=file)
    assert file.exists() == (count > 0)
    begun = []
    real = search.best_start
    monkeypatch.setattr(fitting, "best_start", lambda *given: begun.append(1) or real(*given))
    again = solvers.fit(model, **OPTIONS, progress=False, checkpoint=file)
    assert len(begun) == (count == 0)
    assert not file.exists()
    assert torch.equal(again.form.times, whole.form.times)
    assert torch.equal(again.form.b, whole.form.b)
    assert again.settings == whole.settings


def test_the_file_of_another_fit_is_left_aside(tmp_path, monkeypatch):
    model, file = mixture().model(SDES["ddpm"]), tmp_path / "partial.safetensors"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            solvers.fit(model, **OPTIONS, progress=False, checkpoint=file)
    with pytest.warns(UserWarning, match=r"is of another fit \(seed\): starting anew"):
        other = solvers.fit(model, **OPTIONS, seed=3, progress=False, checkpoint=file)
    assert torch.equal(other.form.b, solvers.fit(model, **OPTIONS, seed=3, progress=False).form.b)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"partial\.safetensors"):
        solvers.fit(model, **OPTIONS, progress=False, checkpoint=file)


def test_on_a_linear_sde_too(tmp_path, monkeypatch):
    model, file = two_modes().model(processes()["coloured"]), tmp_path / "partial.safetensors"
    options = OPTIONS | {"shape": EVENT}
    whole = solvers.fit(model, **options, progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            solvers.fit(model, **options, progress=False, checkpoint=file)
    again = solvers.fit(model, **options, progress=False, checkpoint=file)
    torch.testing.assert_close(again.form.b, whole.form.b)


def test_without_a_terminal_there_is_a_line_a_stage_and_one_a_minute(monkeypatch, capsys):
    now = iter(range(0, 100_000, 25))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    solvers.fit(mixture().model(SDES["ddpm"]), **OPTIONS, progress=True)
    out, err = map(str.splitlines, capsys.readouterr())
    assert not out
    assert all(line.startswith("fit: ") for line in err)
    lines = [line for line in err if "% after" in line]
    stages = [line.split(", after")[0] for line in err if "% after" not in line]
    assert stages[:2] == ["fit: reference solutions", "fit: reference solved with 32 steps; solvers without a fit"]
    assert stages[2].startswith("fit: best of ")
    assert stages[3:7] == ["fit: ridge", "fit: times 1/3", "fit: times 2/3", "fit: times 3/3"]
    assert len(lines) + len(stages) == len(err)
    shares = [int(line.split()[1].rstrip("%")) for line in lines]
    assert shares == sorted(set(shares))
    assert len(shares) > 3
    assert shares[-1] <= 100
    assert any("times 2/3" in line for line in lines)
