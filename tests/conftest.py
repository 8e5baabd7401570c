"""Shared by all tests. One thread a worker: two processes of two threads on two cores are far slower than four of one."""

import os
import signal
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import scoresde as ss
from scoresde import analytic, solvers

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):
    # A wheel that does not fit torch's cannot be loaded, but transformers asks only whether there is one.
    sys.modules["torchvision"] = None  # type: ignore[assignment]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def linear_betas(steps: int) -> torch.Tensor:
    """Ho et al.'s at 1000 steps, scaled by 1000/T elsewhere (kept below 1)."""
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * min(1000 / steps, 45)


def zero_terminal() -> ss.VPSDE:
    """A cosine chain that reaches alpha = 0."""
    u = torch.arange(1, 101, dtype=torch.float64) / 100
    alphas_bar = torch.cos(u * torch.pi / 2) ** 2
    alphas_bar[-1] = 0
    return ss.VPSDE.from_alphas_bar(alphas_bar)


SDES = {
    "linear": ss.VPSDE(),
    "ddpm": ss.VPSDE.from_betas(linear_betas(1000)),
    "chain20": ss.VPSDE.from_betas(linear_betas(20)),
    "cosine": ss.VPSDE.cosine(),
    "zero terminal": zero_terminal(),
    "sub-vp": ss.SubVPSDE(),
    "ve": ss.VESDE(),
    "edm": ss.EDM(),
    "flow": ss.RectifiedFlow(),
    "scales": ss.ScalesSDE(lambda t: torch.cos(1.5 * t), lambda t: torch.sin(1.5 * t)),
    "coefficients": ss.CoefficientsSDE(lambda t: -2 * t - 0.5, lambda t: (4 * t + 1).sqrt() * (1 + 0.3 * t)),
}
NO_SIGNAL_AT_1 = ("zero terminal", "flow")

sdes = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
finite_sdes = pytest.mark.parametrize(
    "sde", [sde for name, sde in SDES.items() if name not in NO_SIGNAL_AT_1], ids=[n for n in SDES if n not in NO_SIGNAL_AT_1]
)


TABLEAUX = [name for name in solvers.names() if isinstance(solvers.get(name), solvers.Solver)]
LOOPS = [name for name in solvers.names() if name not in TABLEAUX]


def rotated(cases, *axes, each=1):
    """`each` rows `(case, value, ...)` for every case, with the values of every axis in turn: each value meets many cases without the product.

    Later axes are shifted by one whenever the first has gone round, so that values of two axes meet in different pairs.
    """
    for k, case in enumerate(case for case in cases for _ in range(each)):
        yield case, *(axis[(k + i * (k // len(axes[0]))) % len(axis)] for i, axis in enumerate(map(tuple, axes)))


def budget(name: str, steps: int) -> dict[str, int]:
    """`steps=` for a solver that takes a number of steps, nothing for one that chooses them."""
    return {} if isinstance(solvers.get(name), ss.loops.AdaptiveLoop) else {"steps": steps}


def quick(name: str) -> solvers.Solver:
    """The table of this name, with a few Langevin steps at each level where there are a hundred: what holds for its rows holds for five."""
    return solvers.AnnealedLangevin(corrections=5) if name == "annealed-langevin" else solvers.get(name)


def mixture() -> analytic.GaussianMixture:
    """Three modes in two dimensions."""
    return analytic.GaussianMixture(
        torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.0]]), torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0.3, 0.5, 0.2])
    )


class OwnPrediction(ss.Model):
    """An exact mixture, that of `mixture()` by default, as a model that predicts something else than data."""

    def __init__(self, sde, prediction, of=None):
        self.exact, self.sde = (of or mixture()).model(sde), sde
        self.prediction = ss.Preconditioned() if prediction == "edm" else prediction

    def output(self, z, t, **cond):
        return self.exact._read(self.prediction, z, t, cond)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
