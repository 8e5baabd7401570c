"""The adapters run the samplers of other packages on our levels: equal to formulas, and their known defects show."""

import itertools

import pytest
import torch

from scoresde import audit, solvers
from scoresde.audit import laws
from scoresde.audit.hosts import azula, ours, torchsde
from scoresde.audit.hosts import diffusers as of_diffusers
from scoresde.audit.levels import Levels
from scoresde.audit.probe import probe
from scoresde.audit.targets import SMOOTH

from ..conftest import generator

LEVELS = Levels(10.0, 0.2)
# Their set_timesteps makes numpy arrays of tensors in a way that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def start():
    return SMOOTH.draw((8, 1, 2, 2), LEVELS.high, generator())


def euler(levels, steps):
    """x_t = x_s + (t - s) (x_s - D)/s, which is DDIM."""
    x = start()
    for s, t in itertools.pairwise(levels.sigmas(steps)):
        x = x + (t - s) / s * (x - SMOOTH.denoised(x, s.expand(len(x))))
    return x


def result(sampler, steps):
    return sampler.run(SMOOTH.denoised, start(), LEVELS, steps)


def of_ours(name, steps):
    return result(ours.sampler_of(solvers.get(name)), steps)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "EDMEuler", "FlowMatchEulerDiscrete"])
@pytest.mark.parametrize("steps", [7, 20])
def test_first_order_schedulers_are_euler_steps(name, steps):
    """To what float32 tables leave; a level of the chain that is off by one index would be 1 % and more."""
    diffusers = pytest.importorskip("diffusers")
    sampler = of_diffusers.sampler_of(getattr(diffusers, f"{name}Scheduler"))
    torch.testing.assert_close(result(sampler, steps).double(), euler(LEVELS, steps), rtol=0, atol=3e-5)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_multistep_schedulers_are_ours_on_every_spacing(spacing):
    diffusers = pytest.importorskip("diffusers")
    options = {"algorithm_type": "dpmsolver++", "solver_type": "heun", "solver_order": 2, "timestep_spacing": spacing}
    sampler = of_diffusers.sampler_of(diffusers.DPMSolverMultistepScheduler, **options)
    torch.testing.assert_close(result(sampler, 20).double(), of_ours("dpm++2m", 20), rtol=0, atol=3e-5)


def test_samplers_of_azula_are_ours():
    host = pytest.importorskip("azula.sample")
    torch.testing.assert_close(result(azula.sampler_of(host.DDIMSampler), 20), euler(LEVELS, 20), rtol=0, atol=1e-10)
    for cls, name in ((host.zABSampler, "rho-deis3"), (host.xEABSampler, "dpm++3m")):
        torch.testing.assert_close(result(azula.sampler_of(cls, order=3), 20), of_ours(name, 20), rtol=0, atol=1e-8)


def test_methods_of_torchsde_solve_the_reverse_process():
    """Euler and Maruyama's law on Gaussian data: its error halves with the step."""
    errors = [laws.law_error(probe(torchsde.sampler_of("euler"), LEVELS, steps), 0.7, 0.3) for steps in (40, 80)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.3)


def test_known_defects_show():
    host, diffusers = pytest.importorskip("azula.sample"), pytest.importorskip("diffusers")
    reab = audit.run(host.REABSampler, order=2)
    assert "order conditions" in reab.broken
    assert reab.findings["order conditions"].numbers["order"] < 1.3
    ddim = audit.run(diffusers.DDIMScheduler, order=1, timestep_spacing="linspace")
    assert {"point mass", "order conditions", "bias"} <= set(ddim.broken)
    three = audit.run(diffusers.DPMSolverMultistepScheduler, order=3, solver_order=3)
    assert "order conditions" in three.broken

    diffusers = pytest.importorskip("diffusers")
    with pytest.raises(TypeError, match="levels of its own"):
        audit.run(diffusers.KarrasVeScheduler)
