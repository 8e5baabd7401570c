"""Solvers in diffusers' pipelines give what they give in `sample`, with as many network calls."""

import warnings

import diffusers
import pytest
import torch

import scoresde as ss
from scoresde.interop.diffusers import Scheduler

from ..conftest import OwnPrediction, generator
from .cases import cases, expected, run, with_solver

ODE = ("ddim", "heun", "dpm++2m", "unipc3", "dpm3", "restart")
SDE = ("ancestral", "seeds2", "sa-solver")


@cases
@pytest.mark.parametrize("name", ODE + SDE)
def test_a_pipeline_samples_as_the_library(case, name):
    pipe = with_solver(case.make(), name, grid="trailing")
    if name in (*SDE, "restart") and not case.passes_generator:
        pytest.skip("this pipeline passes no generator to its scheduler")
    seen = run(case, pipe)
    x = expected(case, pipe, name, grid="trailing")
    state = seen.states[-1]
    assert float((state[: len(x)] - x).abs().max()) <= 1e-5 * (1 + float(x.abs().max()))
    plan = pipe.scheduler._tableau
    assert len(seen.inputs) == len(pipe.scheduler.timesteps) == plan.nfe
    model = case.model(pipe)
    times = model.network_time(torch.tensor([plan.times[k] for k in plan.evaluated]))
    assert float((pipe.scheduler.timesteps - times).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc3", "ancestral", "default"])
def test_without_a_grid_the_times_are_those_of_the_library(name):
    """The times of a DDPM scheduler end with a call at its first index, over which solvers of high order extrapolate."""
    chain = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 500, dtype=torch.float64))
    model = OwnPrediction(chain, "noise")
    source = diffusers.DDPMScheduler(num_train_timesteps=500, trained_betas=chain.betas.tolist(), clip_sample=False)
    assert source.config.timestep_spacing == "leading"
    scheduler = Scheduler.from_scheduler(source, name, event=(2,))
    scheduler.set_timesteps(8)
    start = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    z, noise = start, generator(1)
    for timestep in scheduler.timesteps:
        out = model.noise(z.double(), (timestep.double() + 1) / 500)
        z = scheduler.step(out.float(), timestep, z.float(), generator=noise).prev_sample
    plan = ss.plan(model, name, nfe=8, event=(2,))
    assert scheduler.timesteps.tolist() == pytest.approx([500 * plan.times.tolist()[k] - 1 for k in range(8)], abs=1e-3)
    if name != "ancestral":
        exact = ss.sample(model, (6, 2), plan, z=start, dtype=torch.float64)
        torch.testing.assert_close(z.double(), exact, rtol=0, atol=1e-3)


def test_a_flow_keeps_its_shift_and_makes_no_call_next_to_the_data():
    source = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler = Scheduler.from_scheduler(source, "dpmpp_2m")
    scheduler.set_timesteps(8)
    sigma = torch.arange(8, 0, -1) / 8
    torch.testing.assert_close(scheduler.timesteps, 1000 * 3 * sigma / (1 + 2 * sigma), rtol=0, atol=1e-3)


def test_the_default_asks_for_the_shape_of_small_events():
    source = diffusers.DDPMScheduler(clip_sample=False)
    for event, warns in ((None, True), ((2,), False)):
        scheduler = Scheduler.from_scheduler(source, event=event)
        scheduler = Scheduler.from_config(scheduler.config)  # the shape is kept in a folder
        scheduler.set_timesteps(5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scheduler.step(torch.zeros(3, 2), scheduler.timesteps[0], torch.randn(3, 2))
        assert warns == any("event=(2,)" in str(each.message) for each in caught)
