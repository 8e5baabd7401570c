"""Solvers in diffusers' pipelines give what they give in `sample`, with as many network calls."""

import pytest
import torch

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
