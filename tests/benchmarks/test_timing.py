"""The loops of the benchmarks make the network calls that they are compared by, and the one by hand draws what it says."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import timing

from scoresde.sampling import plan

CPU, STEPS = torch.device("cpu"), 20
LOOPS = ("bare", "by_hand", "ours", "diffusers_loops", "azula_loops", "k_diffusion_loops")


class Unit(torch.nn.Module):
    """The exact noise prediction for data N(0, I): sigma z, where the state has unit variance at every time."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.register_buffer("sigma", (1 - (1 - timing.BETAS).cumprod(0)).sqrt().float())
        self.calls = 0

    def forward(self, z, t):
        assert t.shape == z.shape[:1]
        assert t.stride(0) == 0 or len(t) == 1
        self.calls += 1
        return self.weight * self.sigma[t.round().long()][:, None] * z


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy, in the peers
@pytest.mark.parametrize("source", LOOPS)
def test_every_loop_makes_the_calls_that_it_is_compared_by(source):
    if source in ("diffusers_loops", "azula_loops"):
        pytest.importorskip(source.split("_")[0])
    network = Unit()
    made = getattr(timing, source)(network, (3, 2), STEPS, CPU)
    for name, loop in (made if isinstance(made, dict) else {source: made}).items():
        network.calls = 0
        out = loop()
        assert network.calls == STEPS, name
        assert out is None or (out.shape == (3, 2) and bool(out.isfinite().all())), name


def test_the_loop_by_hand_is_ancestral_sampling():
    """The variance of its samples is that of our table on the same times."""
    n = 20_000
    torch.manual_seed(0)
    out = timing.by_hand(Unit(), (n, 2), STEPS, CPU)()
    grid = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
    mean, std = plan(timing.chain(), "ancestral", grid=grid).tableau.moments(0.0, 1.0)
    # 5 standard errors, of 2n normals.
    assert float(out.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(2 * n))
    assert float(out.std()) == pytest.approx(std, abs=5 * std / math.sqrt(4 * n))


def test_rounds_run_every_loop_once_and_rows_compare_within_rounds():
    order = []
    loops = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = timing.interleaved(loops, CPU, repeats=5, budget=0.0)
    rounds = ["".join(order[k : k + 3]) for k in range(0, len(order), 3)]
    assert [sorted(names) for names in rounds] == [list("abc")] * 4
    assert len(set(rounds)) > 1
    assert all(len(values) == 3 for values in seconds.values())
    rows = timing.rows({"network": [1.0, 9.0, 2.0], "loop": [3.0, 2.5, 8.0]}, "network", steps=10)
    # Differences 2, -6.5, 6 and ratios 3, 0.28, 4.
    assert rows["loop"] == {"us": 3e5, "above": 2e5, "ratio": 3.0}
