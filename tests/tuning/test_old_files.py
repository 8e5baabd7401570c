"""Files of version 0.1 give the samples of the coefficients that are in them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import scoresde as ss
from scoresde import solvers, tuning

from ..conftest import generator, linear_betas, mixture

DATA = Path(__file__).parents[1] / "data"
CHAIN = ss.VPSDE.from_betas(linear_betas(1000))


def start():
    return torch.randn(6, 2, dtype=torch.float64, generator=generator())


@pytest.mark.filterwarnings("ignore:fitted to another network:UserWarning")
def test_a_fitted_solver():
    stored, model, z = load_file(DATA / "fit.safetensors"), mixture().model(CHAIN), start()
    fitted = tuning.load(DATA / "fit.safetensors")
    assert isinstance(fitted, tuning.FittedSolver)
    assert (fitted.nfe, fitted.improved, fitted.error) == (5, True, 0.008300472655706393)
    x, data = z, []
    for k, t in enumerate(stored["times"][:-1].tolist()):
        data.append(model.data(x, t))
        x = stored["a"][k] * x + sum(stored["b"][k, j] * data[j] for j in range(k + 1))
    for solver in (fitted, str(DATA / "fit.safetensors"), solvers.load(DATA / "fit.safetensors")):
        torch.testing.assert_close(ss.sample(model, z.shape, solver, z=z), x, rtol=1e-12, atol=1e-12)
    assert solvers.get("ipndm3") != fitted


def test_a_selected_solver():
    stored, model, z = load_file(DATA / "sel.safetensors"), mixture().model(CHAIN), start()
    picked = tuning.load(DATA / "sel.safetensors")
    assert isinstance(picked, tuning.Selected)
    assert (picked.name, picked.solver, picked.reference_steps) == ("ipndm3 trailing 3", solvers.IPNDM(3), 64)
    expected = ss.sample(model, z.shape, solvers.IPNDM(3), grid=stored["grid"], z=z)
    assert torch.equal(ss.sample(model, z.shape, picked, z=z), expected)


def test_a_ladder():
    stored, model, z = load_file(DATA / "lad.safetensors"), mixture().model(CHAIN), start()
    cascade = tuning.load(DATA / "lad.safetensors")
    assert isinstance(cascade, tuning.Cascade)
    assert ([level.nfe for level in cascade.levels], cascade.confidence, cascade.reference_steps) == ([4, 6], 0.95, 64)
    for k, level in enumerate(cascade.levels):
        data = []
        x = ss.sample(
            model,
            z.shape,
            solvers.IPNDM(3),
            grid=stored[f"{k}/solver/grid"],
            z=z,
            callback=lambda n, t, z, d, data=data: data.append(d),
        )
        assert torch.equal(ss.sample(model, z.shape, level.solver, z=z), x)
        bound = level.bound(data)
        if k == 0:
            # All samples stop at the first level below a tolerance that all of its bounds meet.
            run = ss.sample(model, z.shape, cascade, tol=2 * float(bound.max()), z=z, trajectory=True)
            assert torch.equal(run.bound, bound)
            assert torch.equal(run.x, x)


@pytest.mark.parametrize("name", ["fit", "sel", "lad"])
def test_an_old_file_is_bound_to_its_process(name):
    solver = tuning.load(DATA / f"{name}.safetensors")
    options = {"tol": 0.1} if name == "lad" else {}
    with pytest.raises(ValueError, match="was made for a process with alpha="):
        ss.sample(mixture().model(ss.VPSDE()), (2, 2), solver, **options)


@pytest.mark.filterwarnings("ignore:fitted to another network:UserWarning", "ignore:.* have a bound above tol=:UserWarning")
@pytest.mark.parametrize("name", ["fit", "sel", "lad"])
def test_an_old_file_is_written_again_to_the_bit(name, tmp_path):
    old = tuning.load(DATA / f"{name}.safetensors")
    old.save(tmp_path / "new.safetensors")
    new = tuning.load(tmp_path / "new.safetensors")
    options = {"tol": 0.02} if name == "lad" else {}
    x, again = (ss.sample(mixture().model(CHAIN), (6, 2), solver, z=start(), **options) for solver in (old, new))
    assert torch.equal(x, again)
