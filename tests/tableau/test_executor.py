"""The loop as a coroutine: driven by hand or from outside it does what `run` does, to the bit."""

import pytest
import torch

import scoresde as ss
from scoresde import grids, networks, solvers
from scoresde.numerics.random import BatchNoise, SeededNoise
from scoresde.tableau import execute, run

from ..conftest import SDES, TABLEAUX, generator, mixture

CHAIN = SDES["ddpm"]


def table(name, steps=6):
    return solvers.get(name).tableau(CHAIN, grids.half_log_snr(CHAIN, steps))


def network(prediction="noise"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ss.ScoreModel(networks.MLP(2, width=8), CHAIN, prediction).requires_grad_(False)


def by_hand(tableau, model, z, noise, on_state=None):
    """The last state, and the states at which the network was called."""
    loop, asked = execute(tableau, model.prediction, z, noise, on_state), []
    try:
        call = next(loop)
        while True:
            asked.append(call.k)
            call = loop.send(model.output(call.z, tableau.times[call.k]))
    except StopIteration as end:
        return end.value, asked


class Scheduler:
    """What a host with its own loop needs: the times at which it calls its network, and one step for each output."""

    def __init__(self, tableau, prediction, z, noise):
        self.timesteps = [tableau.times[k] for k in tableau.evaluated]
        self.loop = execute(tableau, prediction, z, noise)
        self.state = next(self.loop).z

    def step(self, out):
        try:
            self.state = self.loop.send(out).z
        except StopIteration as end:
            self.state = end.value
        return self.state


@pytest.mark.parametrize("name", TABLEAUX)
def test_the_loop_by_hand_is_run(name):
    tableau = table(name)
    for model, dtype in ((mixture().model(CHAIN), torch.float64), (network(), torch.float32)):
        z = torch.randn(5, 2, dtype=dtype, generator=generator())
        expected = run(tableau, model, z, SeededNoise(range(5))).x
        x, asked = by_hand(tableau, model, z, SeededNoise(range(5)))
        assert torch.equal(x, expected)
        assert tuple(asked) == tableau.evaluated


@pytest.mark.parametrize("name", TABLEAUX)
def test_the_loop_from_outside_is_run(name):
    tableau, model, z = table(name), network("velocity"), torch.randn(5, 2, generator=generator())
    scheduler = Scheduler(tableau, model.prediction, z, BatchNoise(generator(1)))
    for t in scheduler.timesteps:
        out = model.output(scheduler.state, t)
        x = scheduler.step(out)
    assert torch.equal(x, run(tableau, model, z, BatchNoise(generator(1))).x)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "unipc3", "edm"])
def test_two_loops_at_once_do_not_meet(name):
    """All that a loop knows is its own: interleaved, two of them give what each gives alone."""
    tableau, model = table(name), mixture().model(CHAIN)
    starts = [torch.randn(3, 2, generator=generator(seed)) for seed in (0, 1)]
    hosts = [Scheduler(tableau, "data", z, SeededNoise([k, k + 7, k + 9])) for k, z in enumerate(starts)]
    for t in hosts[0].timesteps:
        for host in hosts:
            host.step(model.output(host.state, t))
    for k, (host, z) in enumerate(zip(hosts, starts, strict=True)):
        assert torch.equal(host.state, run(tableau, model, z, SeededNoise([k, k + 7, k + 9])).x)


def test_the_hook_sees_every_state_and_may_replace_one():
    """DDIM goes on from the replaced state as if it had started there; the trajectory holds what the loop went on with."""
    tableau, model, seen = table("ddim", 7), mixture().model(CHAIN), []
    z, other = torch.randn(2, 4, 2, dtype=torch.float64, generator=generator())

    def replace_third(k, state):
        seen.append(k)
        return other if k == 3 else state

    out = run(tableau, model, z, BatchNoise(), on_state=replace_third, trajectory=True)
    assert seen == list(range(1, 8))
    late = run(solvers.DDIM().tableau(CHAIN, tableau.grid[3:]), model, other, BatchNoise(), trajectory=True)
    assert torch.equal(out.x, late.x)
    assert torch.equal(out.path[3:], late.path)
    x, _ = by_hand(tableau, model, z, BatchNoise(), replace_third)
    assert torch.equal(x, out.x)
    assert torch.equal(
        run(tableau, model, z, BatchNoise(), on_state=lambda k, state: state).x, run(tableau, model, z, BatchNoise()).x
    )


def test_a_prediction_that_says_nothing_is_refused_before_the_first_call():
    sde = SDES["zero terminal"]
    tableau = solvers.DDIM().tableau(sde, grids.half_log_snr(sde, 3))
    with pytest.raises(ValueError, match="prediction='noise' does not determine the data at t=1"):
        next(execute(tableau, "noise", torch.zeros(1, 2), BatchNoise()))
