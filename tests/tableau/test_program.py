"""A table as instructions: folding, the number of operations, memory, and no waiting for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde as ss
from scoresde import networks
from scoresde.numerics.random import BatchNoise, SeededNoise
from scoresde.sampling import plan

from ..conftest import SDES, TABLEAUX, generator, mixture, quick, rotated

every_solver = pytest.mark.parametrize("name", TABLEAUX)


@pytest.mark.parametrize(("name", "prediction"), list(rotated(TABLEAUX, ("noise", "score", "velocity"))))
def test_folding_a_prediction_changes_nothing(name, prediction):
    sde, exact = SDES["ddpm"], mixture().model(SDES["ddpm"])

    class Exact(torch.nn.Module):
        def forward(self, z, t):
            return getattr(exact, prediction)(z, t)

    model = ss.ScoreModel(Exact(), sde, prediction, time="t")
    z = torch.randn(9, 2, dtype=torch.float64, generator=generator())
    for steps in (1, 2, 7):
        ours = ss.sample(model, z.shape, quick(name), steps=steps, z=z, generator=generator(1))
        torch.testing.assert_close(
            ours, ss.sample(exact, z.shape, quick(name), steps=steps, z=z, generator=generator(1)), rtol=1e-8, atol=1e-8
        )


DDPM = SDES["ddpm"]


def test_memory_does_not_grow_with_steps():
    """States and noises that no later row needs are dropped: the number alive at a network call is that of the method."""
    import weakref

    alive: list[weakref.ref] = []
    most = 0

    class Network(torch.nn.Module):
        def forward(self, z, t):
            nonlocal most
            out = torch.zeros_like(z)
            alive.append(weakref.ref(z))
            alive.append(weakref.ref(out))
            most = max(most, sum(ref() is not None for ref in alive))
            return out

    model = ss.ScoreModel(Network(), DDPM, "noise", time="t")
    counts = []
    for steps in (10, 60):
        most = 0
        ss.sample(model, (2, 3), "dpm++3m", steps=steps)
        counts.append(most)
    # Order 3 with a folded noise prediction keeps 3 states and 3 predictions.
    assert counts[0] == counts[1] <= 7


class Quiet(TorchDispatchMode):
    """Counts the operations that make the host wait for a value."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "is_nonzero" in str(func) or "equal.default" in str(func):
            self.waits += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TABLEAUX)
def test_the_loop_never_waits_for_a_value(name):
    """What is checked once, before it starts, does not grow with the steps."""
    model, z, waits = ss.ScoreModel(networks.MLP(2, width=8), DDPM), torch.randn(3, 2, generator=generator()), []
    for steps in (4, 9):
        tableau = plan(DDPM, quick(name), steps=steps).tableau
        tableau.program("noise")
        with torch.no_grad(), Quiet() as mode:
            ss.tableau.run(tableau, model, z, SeededNoise(range(3)))
        waits.append(mode.waits)
    assert waits[0] == waits[1] <= 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_loop_does_not_wait_for_the_gpu():
    model = ss.ScoreModel(networks.MLP(2, width=32), DDPM).cuda()
    tableau, z = plan(DDPM, "ancestral", steps=20).tableau, torch.randn(8, 2, device="cuda")
    ss.tableau.run(tableau, model, z, BatchNoise(torch.Generator("cuda")))
    torch.cuda.set_sync_debug_mode("error")
    try:
        ss.tableau.run(tableau, model, z, BatchNoise(torch.Generator("cuda")))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("name", "operations"),
    [("ancestral", 4), ("ddim", 3), ("dpm++2m", 6), ("vab3", 8), ("ipndm3", 6), ("unipc2", 10), ("unipc3", 12)],
)
def test_a_step_is_as_many_operations_as_its_row_has_terms(name, operations):
    """One a term, of the folded rows or of those on converted outputs, whichever are fewer; a noise is drawn and scaled in one.

    The state is copied once, for the network to work on, and so is an output that later steps use; nothing else is copied, and a term of
    coefficient 0 costs nothing.
    """

    class Count(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            # Neither views nor new memory launch anything.
            aten = torch.ops.aten
            self.made += func not in (aten.expand.default, aten.unbind.int, aten.empty.memory_format)
            return func(*args, **(kwargs or {}))

    class Network(torch.nn.Module):
        def forward(self, z, t):
            return z

    model, z, counts = ss.ScoreModel(Network(), DDPM), torch.zeros(3, 2), []
    for steps in (20, 30):
        tableau = plan(DDPM, name, steps=steps).tableau
        with torch.no_grad(), Count() as mode:
            ss.tableau.run(tableau, model, z, BatchNoise(generator()))
        counts.append(mode.made)
    assert (counts[1] - counts[0]) / 10 == operations
