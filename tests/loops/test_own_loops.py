"""A loop of one's own: `solve(job)`; the form of 0.1, which filled in `run`, still works."""

import pytest
import torch

import scoresde as ss
from scoresde.loops.base import GridLoop, Job
from scoresde.tableau import Run

from ..conftest import generator, mixture

MODEL = mixture().model(ss.VPSDE())


def jump(model, z, times):
    """The data prediction of the first state, as a loop of one call."""
    return Run(model.data(z, float(times[0])), None, times, 1)


class Own(GridLoop):
    def calls(self, sde, times):
        return 1

    def solve(self, job: Job) -> Run:
        return jump(job.model, job.z, job.times)


class Old(GridLoop):
    def calls(self, sde, times):
        return 1

    def run(self, model, z, noise, times, *, steps=None, callback=None, trajectory=False, cond=None):
        return jump(model, z, times)


class Neither(GridLoop):
    def calls(self, sde, times):
        return 1


def test_a_loop_of_ones_own_fills_in_solve():
    x = ss.sample(MODEL, (3, 2), Own(), steps=4, generator=generator())
    with pytest.warns(DeprecationWarning, match=r"Old\.run is now Old\.solve\(job\)"):
        assert torch.equal(ss.sample(MODEL, (3, 2), Old(), steps=4, generator=generator()), x)
    with pytest.raises(NotImplementedError, match=r"Neither must define solve\(job\)"):
        ss.sample(MODEL, (3, 2), Neither(), steps=4)
