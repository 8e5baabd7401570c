"""What comes in is converted where nothing is lost, and refused by its name elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde as ss

from ..conftest import generator, mixture

MODEL = mixture().model(ss.VPSDE())


def draw(*args, **options):
    options = {"steps": 3, "generator": generator()} | options
    return ss.sample(MODEL, *args, **{name: value for name, value in options.items() if value is not ...})


@pytest.mark.parametrize("make", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_a_grid_may_be_any_sequence_of_numbers(make):
    times = (1.0, 0.5, 0.1, 0.0)
    assert torch.equal(draw((4, 2), "ddim", grid=make(times)), draw((4, 2), "ddim", grid=torch.tensor(times, dtype=torch.float64)))


def test_numbers_of_numpy_are_numbers():
    assert torch.equal(draw([4, np.int64(2)], "ddim", steps=np.int32(3)), draw((4, 2), "ddim"))


@pytest.mark.parametrize("make", [np.array, torch.tensor, list], ids=["array", "tensor", "list"])
def test_a_state_may_be_an_array(make):
    z = [[0.5, 1.0], [-1.0, 0.25]]
    assert torch.allclose(torch.as_tensor(draw((2, 2), "ddim", z=make(z))).float(), draw((2, 2), "ddim", z=torch.tensor(z)))


@pytest.mark.parametrize(
    "z",
    [torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 2, dtype=torch.bool), np.zeros((2, 2), np.uint8), [[0, 1], [1, 0]]],
    ids=str,
)
def test_a_state_of_integers_is_refused(z):
    with pytest.raises(TypeError, match=r"z holds torch\.\w+: give real numbers"):
        draw((2, 2), "ddim", z=z)


@pytest.mark.parametrize("options", [{"z": torch.zeros(2, 2, dtype=torch.complex64)}, {"dtype": torch.complex64}], ids=str)
def test_complex_states_are_refused(options):
    with pytest.raises(TypeError, match=r"z holds torch\.complex64: .* two channels|dtype must be a floating dtype"):
        draw((2, 2), "ddim", **options)


def test_a_list_of_generators_is_one_stream_a_sample():
    def made(*seeds):
        return [generator(seed) for seed in seeds]

    whole = draw((4, 2), "ancestral", generator=made(1, 2, 3, 4))
    assert torch.equal(draw((2, 2), "ancestral", generator=made(3, 4)), whole[2:])
    assert torch.equal(draw((4, 2), "ancestral", generator=made(1, 2, 3, 4), batch_size=3), whole)
    # Sample i is what the generator draws alone, start and noises.
    one = draw((1, 2), "ancestral", generator=generator(2))
    assert torch.allclose(one[0], whole[1])
    with pytest.raises(ValueError, match="3 generators were given for a batch of 4"):
        draw((4, 2), "ancestral", generator=made(1, 2, 3))


@pytest.mark.filterwarnings("ignore:the error is .* true error may be another")
def test_a_solver_may_be_a_path(tmp_path):
    made = ss.solvers.select(MODEL, nfe=4, shape=(2,), noises=8, reference_steps=16)
    made.save(tmp_path / "four.safetensors")
    path = Path(tmp_path / "four.safetensors")
    assert torch.equal(draw((3, 2), path, steps=...), draw((3, 2), made, steps=...))


def test_conditions_are_split_inside_structures():
    class Network(torch.nn.Module):
        def forward(self, z, t, obs):
            shift = obs["shift"] if isinstance(obs, dict) else obs[0] if isinstance(obs, list | tuple) else torch.as_tensor(obs)
            return torch.tanh(z) + shift

    model, c = ss.ScoreModel(Network(), ss.VPSDE(), "data"), torch.linspace(-1, 1, 8).reshape(4, 2)
    whole = ss.sample(model, (4, 2), "ddim", steps=3, seeds=range(4), obs=c)
    for obs in (c, {"shift": c, "name": "x"}, [c, 4], (c,), c.numpy()):
        for size in (1, 3, 4):
            torch.testing.assert_close(ss.sample(model, (4, 2), "ddim", steps=3, seeds=range(4), batch_size=size, obs=obs), whole)
        ss.sample(model, (4, 2), "adaptive", seeds=range(4), obs=obs)


REFUSED = {
    "shape": [2, "22", None, (), (2, -1), (2.0, 2)],
    "solver": [5, ss.solvers.DDIM, "nosuch", ""],
    "steps": [0, -2, 2.5, float("nan"), "3", True],
    "nfe": [0, -1, 2.5, "4"],
    "grid": ["nosuch", 5, [1.0], [0.0, 1.0], [[1.0, 0.0]], [float("nan"), 0.0], ["a", "b"]],
    "t_start": [0.0, -1.0, 2.0, float("nan"), "1", torch.tensor([0.5, 0.5])],
    "seeds": [5, [1.5, 2], "12", [None, 1], [1]],
    "generator": [5, "cpu"],
    "z": [torch.zeros(3, 2), torch.tensor(1.0), "z"],
    "dtype": [torch.int32, "float32", torch.bool],
    "device": ["banana", 5, "meta"],
    "batch_size": [0, -1, 1.5, "2"],
    "callback": [5, "x", lambda: None],
    "tol": [0.1],
}


def named(value):
    """No address of an object: parallel workers must agree on the names of cases."""
    return "a function" if callable(value) and not isinstance(value, type) else str(value)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values], ids=named)
def test_nonsense_is_refused_by_name(name, value):
    """Deliberately: by an error that names the argument, or what it stands for."""
    said = {
        "solver": "solver",
        "grid": "grid|numbers|decrease",
        "tol": "cascade|tol",
        "generator": "generator|seeds",
        "z": "z ",
    }.get(name, name)
    options = {name: value} | ({"steps": ...} if name in ("nfe", "grid") else {}) | ({"generator": ...} if name == "seeds" else {})
    shape = options.pop("shape", (2, 2))
    solver = options.pop("solver", "ddim")
    with pytest.raises((TypeError, ValueError), match=said):
        draw(shape, solver, **options)
