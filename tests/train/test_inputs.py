"""What a recipe, a trainer and an experiment refuse before training, and what they convert."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import scoresde as ss
from scoresde import losses, networks
from scoresde.data import Data
from scoresde.train import Experiment, Recipe, Trainer

CHAIN = ss.VPSDE.cosine(100)
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def model(**options):
    torch.manual_seed(0)
    return ss.ScoreModel(networks.MLP(2, 16, **options), CHAIN)


def trainer(network=None, x=X, cond=None, folder=None, **recipe):
    recipe = Recipe(**{"iterations": 3, "batch_size": 8, "save_every": 2, **recipe})
    return Trainer(model() if network is None else network, x, recipe, cond=cond, folder=folder)


WRONG_ENTRIES = {
    "iterations": (0, -1, 2.5, math.nan),
    "batch_size": (0, -1, 2.5, math.nan),
    "learning_rate": (0, -1, math.nan, math.inf),
    "warmup": (-1, 2.5, math.nan),
    "final_rate": (-0.1, 2, math.nan),
    "weight_decay": (-1, math.nan, math.inf),
    "clip": (0, -1, math.nan),
    "ema": (-0.1, 1.5, math.nan),
    "validate_every": (0, 1.5),
    "save_every": (0, 1.5),
    "seed": (1.5, math.nan),
    "weighting": ("epsilon", "noisy"),
    "time_sampler": ("normal", losses.Adaptive()),
}


@pytest.mark.parametrize("name", WRONG_ENTRIES)
def test_a_recipe_that_makes_no_sense_names_its_entry(name):
    for value in WRONG_ENTRIES[name]:
        with pytest.raises(ValueError, match=name):
            Recipe(**{name: value})
    for value in ("x", None, True, [1]) if name not in ("weighting", "time_sampler") else (5, losses.LogNormal):
        with pytest.raises((TypeError, ValueError), match=name):
            Recipe(**{name: value})
    with pytest.raises(TypeError, match="bfloat16 must be True or False"):
        Recipe(bfloat16=1)


def test_numbers_of_numpy_become_those_of_python():
    recipe = Recipe(
        iterations=np.int64(3), learning_rate=np.float32(0.5), ema=np.float64(0.25), seed=np.uint64(2**63), bfloat16=np.bool_(True),
        clip=math.inf, warmup=torch.tensor(2),
    )  # fmt: skip
    assert json.loads(json.dumps(vars(recipe)))["seed"] == 2**63
    assert [type(value) for value in (recipe.iterations, recipe.learning_rate, recipe.warmup, recipe.bfloat16)] == [
        int,
        float,
        int,
        bool,
    ]
    assert Recipe(seed=-(2**70)).seed == -(2**70)


@pytest.mark.parametrize(
    ("x", "error", "said"),
    [
        (X.long(), TypeError, r"x holds torch\.int64"),
        (X.byte(), TypeError, r"x holds torch\.uint8"),
        (X > 0, TypeError, r"x holds torch\.bool"),
        (X.to(torch.complex64), TypeError, "two channels"),
        (X.to_sparse(), TypeError, "x is sparse"),
        (np.ma.masked_array(X.numpy(), mask=np.zeros((40, 2))), TypeError, "x is a masked array"),
        ("x", TypeError, "x must be numbers"),
        (X[:0], ValueError, "x is empty"),
        (X[:, :0], ValueError, "x has events of size 0"),
        (torch.tensor(1.0), ValueError, "x is a scalar"),
        (torch.full((40, 2), math.nan), ValueError, "x holds values that are not finite"),
        (X * math.inf, ValueError, "x holds values that are not finite"),
    ],
)
def test_data_are_real_finite_and_some(x, error, said):
    with pytest.raises(error, match=said):
        trainer(x=x)
    with pytest.raises(error, match=said.replace("x ", "held_out ", 1)):
        Trainer(model(), X, Recipe(), held_out=x)


@pytest.mark.parametrize("x", [X.double().numpy(), X.tolist(), X.half(), X.bfloat16(), X.double(), X.t().contiguous().t()])
def test_data_of_every_floating_kind_are_trained_on(tmp_path, x):
    trained = trainer(x=x, folder=tmp_path)
    trained.run(progress=False)
    assert trainer(x=x, folder=tmp_path).iteration == 3


def test_held_out_data_are_like_the_data():
    for held_out, cond, said in (
        (torch.zeros(4, 3), {}, r"held_out has events of shape \(3,\), x of \(2,\)"),
        (X, {"label": torch.zeros(40).long()}, "held_out_cond has label, cond none"),
    ):
        with pytest.raises(ValueError, match=said):
            Trainer(model(), X, Recipe(), held_out=held_out, held_out_cond=cond)


LABELS = {
    "beyond": torch.full((40,), 3),
    "far beyond, at the end": torch.tensor([0] * 39 + [7]),
    "negative": torch.full((40,), -1),
    "floats": torch.zeros(40),
    "bytes": torch.zeros(40).byte(),
    "too few": torch.zeros(3).long(),
    "two axes": torch.zeros(40, 1).long(),
    "a scalar": torch.tensor(1),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_looked_at_before_training(name):
    with pytest.raises(ValueError, match=r"label (must|has|holds)"):
        trainer(model(classes=3), cond={"label": LABELS[name]})


def test_conditions_become_tensors_or_are_named():
    for label in ([0, 1] * 20, np.zeros(40, int), torch.zeros(40, dtype=torch.int32)):
        trainer(model(classes=3), cond={"label": label}).run(progress=False)
    for label in ("x", None, {"a": 1}):
        with pytest.raises(TypeError, match="label must be numbers"):
            trainer(model(classes=3), cond={"label": label})
    with pytest.raises(TypeError, match="cond must be a dict of tensors"):
        trainer(model(classes=3), cond=torch.zeros(40).long())


class Complex(torch.nn.Module):
    """Complex weights, as of a Fourier neural operator."""

    def __init__(self, dtype=torch.complex64):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=dtype))

    def forward(self, z, t):
        return torch.fft.irfft(torch.fft.rfft(z) * self.weight, n=z.shape[-1]).to(z.dtype)


class WithState(torch.nn.Module):
    """Keeps something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, z, t):
        return self.layer(z)

    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def test_models_that_cannot_be_trained_are_refused(tmp_path):
    network, frozen = networks.MLP(2, 16), networks.MLP(2, 16).requires_grad_(False)
    with torch.device("meta"):
        nowhere = networks.MLP(2, 16)
    for wrong, error, said in (
        (network, TypeError, "must be a ScoreModel, got a MLP"),
        (torch.compile(model(), backend="eager"), TypeError, r"ScoreModel\(torch\.compile\(network\), sde\)"),
        (torch.nn.DataParallel(model()), TypeError, "wrap the network"),
        (ss.ScoreModel(frozen, CHAIN), ValueError, "no weights that could be trained"),
        (ss.ScoreModel(torch.nn.Identity(), CHAIN), ValueError, "no weights that could be trained"),
        (ss.ScoreModel(nowhere, CHAIN), ValueError, "holds no numbers"),
        (ss.ScoreModel(torch.nn.LazyLinear(2), CHAIN), ValueError, "lazy weights"),
    ):
        with pytest.raises(error, match=said):
            Trainer(wrong, X, Recipe())
    with pytest.raises(TypeError, match="recipe must be a Recipe, got a dict"):
        Trainer(model(), X, {"iterations": 3})


def test_complex_weights_are_trained_and_what_no_file_can_hold_is_found_at_the_start(tmp_path):
    weights = ss.ScoreModel(Complex(), CHAIN)
    trainer(weights, folder=tmp_path / "complex").run(progress=False)
    assert bool((weights.network.weight != 1).all())
    for network, said in (
        (WithState(), "_extra_state cannot be kept in a file, as a dict"),
        (Complex(torch.complex128), "complex128"),
    ):
        trainer(ss.ScoreModel(copy.deepcopy(network), CHAIN)).run(progress=False)
        with pytest.raises(TypeError, match=said):
            trainer(ss.ScoreModel(network, CHAIN), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_the_model_cannot_have_is_found_at_the_start():
    for recipe, said in (
        ({"time_sampler": lambda sde, n, generator: torch.full((n,), 2.0, dtype=torch.float64)}, "times run from 0"),
        ({"time_sampler": lambda sde, n, generator: torch.rand(n + 1, dtype=torch.float64)}, "time"),
        ({"weighting": lambda sde, t: t * math.nan}, "weighting"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer(**recipe)
    with pytest.raises(ValueError, match="needs a discrete chain"):
        trainer(ss.ScoreModel(networks.MLP(2, 16), ss.VPSDE()), time_sampler="discrete")


def test_both_models_are_left_in_evaluation_mode():
    trained = trainer()
    with torch.no_grad():  # as around the cells of a notebook
        assert trained.run(progress=False) is trained.averaged
    assert (trained.model.training, trained.averaged.training) == (False, False)
    stopped = trainer()
    stopped._step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stopped.run(progress=False)
    assert not stopped.model.training


class DefaultDeviceIsAGPU(TorchFunctionMode):
    """`torch.set_default_device("cuda")` without a GPU: what is drawn from a CPU generator without device= is refused."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if function in _device_constructors() and kwargs.get("device") is None and generator is not None:
            raise RuntimeError(f"{function.__name__}: Expected a 'cuda' device type for generator but found 'cpu'")
        return function(*args, **kwargs)


@pytest.mark.parametrize("sampler", [None, "uniform", "stratified", "adaptive"])
def test_draws_name_their_device(sampler):
    made = trainer(time_sampler=sampler)
    with DefaultDeviceIsAGPU():
        made.run(progress=False)
        Data(X).split(5)


def test_experiments_check_their_entries():
    for entries, error, said in (
        ({"data": 5}, TypeError, "data must be a name or a path"),
        ({"recipe": {}}, TypeError, "recipe must be a Recipe"),
        ({"held_out": 0}, ValueError, "held_out"),
        ({"multipliers": ()}, TypeError, "multipliers"),
        ({"multipliers": (1, 0)}, ValueError, "multipliers"),
        ({"width": 1}, ValueError, "width"),
        ({"patch": 0}, ValueError, "patch"),
        ({"steps": 2.5}, ValueError, "steps"),
        ({"prediction": "energy"}, ValueError, "prediction"),
        ({"conditional": "no"}, TypeError, "conditional"),
        ({"event": (0,)}, ValueError, "event"),
        ({"classes": -1}, ValueError, "classes"),
        ({"recipe": Recipe(weighting=losses.min_snr(3.0))}, TypeError, r"recipe\.weighting must be a name"),
    ):
        with pytest.raises(error, match=said):
            Experiment(**{"data": "digits", **entries})


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VPSDE.cosine(100), ss.RectifiedFlow(), ss.VESDE(), ss.EDM()], ids=repr)
def test_pixels_from_0_to_255_are_named(sde):
    pixels = torch.randint(0, 256, (40, 2), generator=torch.Generator().manual_seed(0)).float()
    with pytest.warns(UserWarning, match=r"the data have a root mean square of 1\d\d, .* scale them, pixels to \[-1, 1\]"):
        trainer(ss.ScoreModel(networks.MLP(2, 8), sde, "velocity"), pixels)
    trainer(ss.ScoreModel(networks.MLP(2, 8), sde, "velocity"), 3 * X)
