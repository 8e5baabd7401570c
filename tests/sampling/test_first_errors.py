"""What is said to people who type what they know from elsewhere."""

import importlib
import math
import re
import warnings

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import deprecation, inverse, losses, networks, solvers, train
from scoresde.sampling.start import warn_of_prior

from ..conftest import linear_betas


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, z, t, label=None):
        return self.layer(z)


class Stepping:
    def step(self, z, t, s):
        return z


NET = Net()
EXACT = ss.analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(ss.VPSDE())
MODEL = ss.ScoreModel(NET, ss.VPSDE.from_betas(linear_betas(1000)), "epsilon")


@pytest.mark.parametrize(
    "call",
    [
        lambda: ss.sample(NET, (4, 2), nfe=8),
        lambda: ss.sample(lambda z, t: z, (4, 2), nfe=8),
        lambda: ss.plan(NET, nfe=8),
        lambda: ss.sample_to("nowhere", NET, 4, (2,), nfe=8),
        lambda: solvers.fit(NET, nfe=8, shape=(2,)),
        lambda: solvers.select(NET, 8, (2,)),
        lambda: solvers.calibrate(NET, (2,)),
        lambda: ss.log_likelihood(NET, torch.zeros(3, 2)),
        lambda: losses.denoising(NET, torch.zeros(3, 2)),
        lambda: ss.guidance.Guided(NET, 3.0),
    ],
)
def test_a_raw_network_is_to_be_wrapped(call):
    with pytest.raises(TypeError, match=r"wrap (the|a) network: ss.ScoreModel\(net, sde, prediction=\.\.\.\)") as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: train.Recipe(lr=1e-3), "Recipe takes no lr=: the rate is learning_rate="),
        (lambda: train.Recipe(epochs=3), "Recipe takes no epochs=: the number of optimiser steps is iterations="),
        (lambda: train.Recipe(ema_decay=0.9), "Recipe takes no ema_decay=: the decay of the average is ema="),
        (lambda: train.Recipe(amp=True), "bfloat16=True or float16=True"),
        (lambda: ss.CoefficientsSDE(f=lambda t: -t, g=lambda t: 1.0), "CoefficientsSDE takes no f=: f is drift_rate="),
        (lambda: ss.CoefficientsSDE(lambda t: -t, g=lambda t: 1.0), "g is diffusion="),
        (lambda: inverse.Gaussian(lambda x: x, sigma=0.1), "Gaussian takes no sigma=: the standard deviation is std="),
        (lambda: inverse.Gaussian(lambda x: x, noise=0.1), "the standard deviation is std="),
        (lambda: inverse.Gaussian(torch.eye(2), 0.1), "for a matrix use inverse.operators.matrix(A)"),
        (lambda: inverse.Poisson(torch.eye(2)), "for a matrix use inverse.operators.matrix(A)"),
    ],
)
def test_a_keyword_of_another_library_names_the_one_here(call, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        call()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 0}, "Net takes no seed=: for one seed a sample give seeds=range(n)"),
        ({"guidance_scale": 3.0}, "Net takes no guidance_scale=: for guidance sample guidance.Guided(model, scale)"),
        ({"strength": 0.5}, "z=z, t_start=t"),
        ({"mask": None}, "for inpainting see scoresde.inverse"),
        ({"x_T": None}, "to start from a state give z="),
        ({"latents": None}, "to start from a state give z="),
        ({"num_inference_steps": 8}, "the number of steps is steps="),
        ({"eta": 1.0}, "solver=solvers.DDIM(eta=1.0)"),
        ({"clip": True}, "models.thresholded(model)"),
        ({"return_trajectory": True}, "trajectory=True"),
        ({"class_labels": 1}, "a class is label= in networks of this library"),
        ({"labels": 1}, "label="),
        ({"progres": True}, "did you mean progress=?"),
        ({"prompt_embeds": 1}, "the conditions that it takes are label"),
    ],
)
def test_a_keyword_that_the_network_does_not_take_names_the_way_here(options, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        ss.sample(MODEL, (4, 2), nfe=2, **options)


def test_conditions_that_the_network_takes_reach_it():
    ss.sample(MODEL, (4, 2), nfe=2, label=None)

    class Open(Net):
        def forward(self, z, t, **anything):
            assert anything == {"strength": 2}
            return self.layer(z)

    ss.sample(ss.ScoreModel(Open(), ss.VPSDE()), (4, 2), nfe=2, strength=2)


def test_every_hint_names_what_there_is():
    assert callable(ss.guidance.Guided)
    assert callable(ss.models.thresholded)
    assert callable(MODEL.sde.perturb)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: ss.sample(MODEL, (4, 2), nfe=2, seeds=0), TypeError, "one a sample, got 0: seeds=range(0, 0 + n)"),
        (lambda: ss.sample(MODEL, 4, nfe=2), TypeError, "shape must be (B, *event), such as (4, 2) for 4 points of the plane; got 4"),
        (lambda: solvers.select(MODEL, 8, 2), TypeError, "such as (2,) for points of 2 coordinates; got 2"),
        (lambda: ss.sample(MODEL, (4, 2), Stepping(), nfe=2), TypeError, "a Stepping is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), Stepping, nfe=2), TypeError, "Stepping is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), lambda z, t: z, nfe=2), TypeError, "<lambda> is no solver: a solver of your own fills in"),
        (lambda: ss.sample(MODEL, (4, 2), solvers.DDIM, nfe=2), TypeError, "DDIM is no solver: give an instance, DDIM()"),
        (lambda: losses.denoising(MODEL, torch.zeros(4, 2), weighting=lambda t: t), TypeError, "weighting must take 2 arguments (sde, t)"),
        (lambda: train.Recipe(weighting=lambda t: t), TypeError, "weighting must take 2 arguments (sde, t), but <lambda> takes (t)"),
        (lambda: ss.ScoreModel(NET, ss.RectifiedFlow(), "velocity", time="1 - t"), ValueError, "velocity(network, direction='noise_to_data')"),
        (lambda: ss.CoefficientsSDE(lambda z, t: -z, lambda t: 1.0), TypeError, "drift_rate must take 1 argument t, as"),
    ],
)  # fmt: skip
def test_first_mistakes_are_explained(call, kind, said):
    with pytest.raises(kind, match=re.escape(said)):
        call()


def test_a_device_that_is_not_there_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match=r"^device='cuda', but torch finds no CUDA device$"):
        ss.sample(MODEL, (4, 2), nfe=2, device="cuda")


def test_arrays_and_plain_numbers_are_taken():
    x = np.array([[0.1, 0.2], [0.3, -0.4]])
    likelihood = ss.log_likelihood(MODEL.double(), x)
    torch.testing.assert_close(likelihood.nats, ss.log_likelihood(MODEL.double(), torch.tensor(x)).nats)
    sde = ss.CoefficientsSDE(lambda t: -1.0, lambda t: 2.0**0.5)
    assert float(sde.alpha(0.5)) == pytest.approx(math.exp(-0.5), rel=1e-8)


class Table(torch.nn.Module):
    """A network that looks its time up."""

    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(1000, 2)
        self.seen = []

    def forward(self, z, t, label=None):
        self.seen += t.tolist()
        return self.rows(t) + 0 * z if label is None else z + self.rows(label)


def test_a_table_of_times_is_named_and_integer_index_is_its_convention():
    chain = ss.VPSDE.from_betas(linear_betas(1000))
    with pytest.raises(ValueError, match=r"looks its time up in a table, .* time='integer_index'"):
        ss.sample(ss.ScoreModel(Table(), chain), (4, 2), nfe=2)
    model = ss.ScoreModel(Table(), chain, time="integer_index")
    ss.sample(model, (4, 2), "ddim", grid=torch.tensor([1.0, 0.3004, 0.001, 0.0]))
    assert model.network.seen == 4 * [999] + 4 * [299] + 4 * [0]
    index, rounded = (ss.ScoreModel(networks.UNet(1, 8), chain, time=time).eval() for time in ("index", "integer_index"))
    rounded.network.load_state_dict(index.network.state_dict())
    z = torch.randn(2, 1, 8, 8)
    assert torch.equal(index.output(z, 0.25), rounded.output(z, 0.25))


def test_conditions_with_other_rows_than_samples_are_named():
    model = ss.ScoreModel(Table(), ss.VPSDE())
    said = "label= has 3 rows for 4 samples: give one row a sample"
    with pytest.raises(ValueError, match=said):
        ss.sample(model, (4, 2), nfe=2, label=torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"label= has 3 rows for 32 samples"):
        solvers.select(model, 4, (2,), cond={"label": torch.tensor([1, 2, 3])})


def test_an_error_of_the_network_itself_stays():
    class Broken(Net):
        def forward(self, z, t):
            raise RuntimeError("of the network")

    with pytest.raises(RuntimeError, match=r"^of the network$"):
        ss.sample(ss.ScoreModel(Broken(), ss.VPSDE()), (4, 2), nfe=2)


@pytest.mark.parametrize("call", [lambda: solvers.fit(MODEL, 4, shape=(64, 3)), lambda: solvers.calibrate(MODEL, (64, 3))])
def test_a_pilot_is_given_one_sample_without_the_batch(call):
    with pytest.raises(
        ValueError, match=r"fails on states of shape .*64, 3\): .* of one sample, without a batch; the network says: mat1"
    ):
        call()


class Short(ss.VPSDE):
    """A path on which a good part of the signal is left at t = 1."""

    def alpha(self, t):
        return super().alpha(0.3 * t)

    def sigma(self, t):
        return (1 - self.alpha(t) ** 2).sqrt()


def test_a_path_that_does_not_end_in_the_prior_is_named():
    with pytest.warns(UserWarning, match=r"does not end in the noise .* alpha\(1\)=0\.63 and sigma\(1\)=0\.777.*prior_mismatch"):
        ss.sample(ss.ScoreModel(NET, Short()), (4, 2), nfe=2)
    wide = ss.VESDE(0.01, 50.0)
    wide.prior_std = 1.0
    with pytest.warns(UserWarning, match=r"sigma\(1\)=50, but the prior has mean 0 and prior_std=1"):
        ss.sample(ss.ScoreModel(NET, wide), (4, 2), nfe=2)
    # Nothing is said where the state is given.
    ss.sample(ss.ScoreModel(NET, Short()), (4, 2), nfe=2, z=torch.zeros(4, 2))


@pytest.mark.parametrize("sde", [ss.VESDE(), ss.EDM()], ids=repr)
def test_unit_noise_is_no_start_of_a_path_that_explodes(sde):
    model, noise = ss.ScoreModel(NET, sde), torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    with pytest.warns(
        UserWarning, match=r"z has a root mean square of (1|0\.9|1\.\d)\d*, .* prior_std=\d+: multiply unit noise by sde.prior_std"
    ):
        ss.sample(model, (20, 2), nfe=4, z=noise)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ss.sample(model, (20, 2), nfe=4, z=sde.prior_std * noise)
        ss.sample(model, (20, 2), nfe=4, z=noise, t_start=0.3)
    assert not any("root mean square" in str(each.message) for each in caught)


class TimeColumn(torch.nn.Module):
    """A network of states and times of shape (B, 1), or (B, 1, 1, 1) of images."""

    def __init__(self, first=False):
        super().__init__()
        self.first = first

    def forward(self, z, t):
        z, t = (t, z) if self.first else (z, t)
        if not self.first and t.ndim != z.ndim:
            raise RuntimeError("Tensors must have same number of dimensions")
        return z * (t if not self.first else t.reshape(-1, *[1] * (z.ndim - 1)))


@pytest.mark.parametrize(
    ("network", "shape", "said"),
    [
        (TimeColumn(), (4, 2), r"time of shape (B, 1): declare ScoreModel(..., time=lambda sde, t: t[:, None])"),
        (
            TimeColumn(),
            (4, 1, 6, 6),
            r"as many axes as the state: declare ScoreModel(..., time=lambda sde, t: t.reshape(-1, 1, 1, 1))",
        ),
        (
            TimeColumn(first=True),
            (4, 1, 6, 5),
            r"the time before the state: wrap it in a module whose forward(z, t) returns network(t, z)",
        ),
    ],
)
def test_another_form_of_the_call_is_named_where_it_works(network, shape, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ss.sample(ss.ScoreModel(network, ss.VPSDE()), shape, nfe=3)
    code = said.split("lambda sde, t: ")
    if len(code) == 2:  # what the message says runs
        time = eval("lambda sde, t: " + code[1].rstrip(")") + (")" if "reshape" in code[1] else ""))
        assert ss.sample(ss.ScoreModel(network, ss.VPSDE(), time=time), shape, nfe=3).shape == shape


def test_an_error_of_the_network_itself_passes():
    class Broken(torch.nn.Module):
        def forward(self, z, t):
            raise RuntimeError("the cable is loose")

    with pytest.raises(RuntimeError, match=r"^the cable is loose$"):
        ss.sample(ss.ScoreModel(Broken(), ss.VPSDE()), (4, 2), nfe=3)


def test_a_solver_that_returns_no_table_is_named():
    class Forgetful(ss.solvers.Solver):
        def tableau(self, sde, grid):
            ss.solvers.get("ddim").tableau(sde, grid)

    with pytest.raises(TypeError, match=r"Forgetful\.tableau returned None and no Tableau: end it with return builder"):
        ss.sample(ss.ScoreModel(NET, ss.VPSDE()), (4, 2), Forgetful(), steps=3)


@pytest.mark.parametrize("sde", [
    ss.VPSDE(), ss.SubVPSDE(), ss.VESDE(), ss.EDM(), ss.RectifiedFlow(), ss.VPSDE.cosine(1000), ss.VPSDE.from_betas(linear_betas(1000)),
    ss.VPSDE.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2),
])  # fmt: skip
def test_published_paths_end_in_the_prior(sde):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_prior(sde)


def test_an_option_that_is_almost_right_is_named_where_the_network_takes_any():
    class Open(Net):
        def forward(self, z, t, **anything):
            return self.layer(z)

    with pytest.warns(UserWarning, match=r"solvr= goes to the network, which takes any name: did you mean solver=\?"):
        ss.sample(ss.ScoreModel(Open(), ss.VPSDE()), (4, 2), nfe=2, solvr="ddim")


def test_numbers_that_are_no_betas_are_named():
    betas = linear_betas(1000)
    for numbers in (torch.cumprod(1 - betas, 0), 1 - betas):
        with pytest.warns(UserWarning, match=r"betas fall from 0\.9999 to .* VPSDE.from_alphas_bar\(alphas_cumprod\)"):
            ss.VPSDE.from_betas(numbers)
    with pytest.raises(TypeError, match=r"VPSDE.from_betas\(betas\) is the chain of these betas"):
        ss.VPSDE(betas)
    with pytest.raises(TypeError, match=r"betas must be numbers, got 'linear': the linear ones of DDPM are torch.linspace"):
        ss.VPSDE.from_betas("linear")


@pytest.mark.parametrize(
    ("module", "name", "where"),
    [(ss, "Trainer", "scoresde.train.Trainer"), (ss, "from_diffusers", "scoresde.interop.diffusers.from_diffusers"),
     (losses, "dsm", "losses.denoising"), (solvers, "ladder", "solvers.calibrate")],
)  # fmt: skip
def test_names_that_others_look_for_are_found(module, name, where):
    with pytest.raises(AttributeError, match=re.escape(f"has no attribute {name!r}: it is {where}")):
        getattr(module, name)


def test_everything_that_is_elsewhere_is_there():
    for below, names in deprecation.ELSEWHERE.items():
        for name, said in names.items():
            path = said.format(name).split("(")[0].removeprefix("scoresde.")
            found = ss if path.count(".") else importlib.import_module(f"scoresde.{below}".rstrip("."))
            for part in path.split("."):
                if found is ss and not hasattr(ss, part):
                    importlib.import_module(f"scoresde.{part}")
                if getattr(found, "__name__", "") == "scoresde.interop":
                    importlib.import_module(f"scoresde.interop.{part}")
                found = getattr(found, part)


def test_more_first_mistakes():
    with pytest.raises(TypeError, match=r"uncond must be a dict of conditions, such as \{'label': 10\}, got 3"):
        ss.guidance.Guided(MODEL, 3.0, uncond=3)
    with pytest.raises(TypeError, match=r"factor must take 2 arguments \(sde, t\)"):
        losses.Weighting("noise", lambda t: t)
    exact = ss.analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(ss.VPSDE())
    with pytest.raises(ValueError, match="the exact model was made for a process"):
        ss.diagnostics.score_error(
            exact, ss.analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(ss.EDM()), torch.randn(8, 2), [0.5]
        )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ss.analytic.GaussianMixture(torch.zeros(1, 2), stds=torch.ones(1)), "covariances are variances (K,), stds**2"),
        (lambda: ss.CoefficientsSDE(drift=lambda t: -t, diffusion=lambda t: 1.0), "f is drift_rate="),
        (lambda: ss.sample(MODEL, (4, 2), nfe=2, t_end=0.1), "sampling ends at the data, t = 0"),
        (lambda: ss.bits_per_dim(ss.log_likelihood(EXACT, torch.zeros(2, 2)), (2,), bins=256), "got a Likelihood: give its .nats"),
    ],
)
def test_what_has_another_name_is_named(call, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        call()


def test_the_flow_of_a_product_is_not_its_density():
    product = ss.guidance.product([EXACT, EXACT])
    with pytest.warns(
        UserWarning, match="the density of a flow, and the flow of a product whose weights sum to 2 is not that of its density"
    ):
        ss.log_likelihood(product, torch.zeros(2, 2), steps=3000)
    with pytest.raises(
        ValueError, match="eta=0 is the flow of the product, whose samples collapse where its weights sum to 2 and not to 1"
    ):
        ss.sample(product, (4, 2), ss.guidance.FeynmanKac(particles=4, eta=0.0), steps=3)
    ss.log_likelihood(ss.guidance.product([EXACT, EXACT], [0.5, 0.5]), torch.zeros(2, 2))
