"""The adaptive SDE solver."""

import torch

import scoresde as ss
from scoresde.loops.adaptive_sde import BrownianMemory

from ..conftest import generator, sdes
from ..laws import assert_law, gaussian


@sdes
def test_gotta_go_fast_has_the_law_of_gaussian_data(sde):
    x = ss.sample(gaussian().model(sde), (3000, 1), ss.loops.GottaGoFast(0.02, 0.004), generator=generator(), dtype=torch.float64)
    # The discretisation error at these tolerances, and sigma(t_min) of the last step, are below 1 %; no sample is far out.
    assert_law(x, 0.7, 0.3, bias=0.01)
    assert float((x - 0.7).abs().max()) < 6 * 0.3


def test_brownian_memory_does_not_bias():
    """Steps rejected because their noise is large: the path ends as N(0, 1) all the same, whose variance forgetting would make smaller."""
    n, g = 20_000, generator()
    start = torch.zeros(n, 1, dtype=torch.float64)

    def run(remember):
        memory, total = BrownianMemory(start), start.clone()
        t, h = torch.ones(n, dtype=torch.float64), torch.full((n,), 0.5, dtype=torch.float64)
        while len(active := (t > 0).nonzero().flatten()):
            target = (t[active] - h[active]).clamp(min=0)
            reached, w = memory.draw(active, t[active], target, torch.randn(len(active), 1, dtype=torch.float64, generator=g))
            accept = (w[:, 0].abs() <= 0.5) | (h[active] < 0.02)
            if remember:
                memory.put_back(active[~accept], reached[~accept], w[~accept])
            t[active] = torch.where(accept, reached, t[active])
            total[active] += torch.where(accept[:, None], w, 0.0)
            h[active] = torch.where(accept, 0.5, 0.3 * h[active])
        return total

    assert_law(run(True), 0.0, 1.0)
    assert float(run(False).std()) < 0.95


def test_a_shorter_step_is_drawn_from_the_bridge():
    """After a rejected increment W over [0.5, 1], that over [0.8, 1] is N(h/H W, h (1 - h/H)) with h = 0.2 and H = 0.5; the rest makes up W."""
    n, g = 20_000, generator()
    memory, t = BrownianMemory(torch.zeros(n, 1, dtype=torch.float64)), torch.ones(n, dtype=torch.float64)
    samples = torch.arange(n)

    def xi():
        return torch.randn(n, 1, dtype=torch.float64, generator=g)

    reached, rejected = memory.draw(samples, t, torch.full_like(t, 0.5), xi())
    memory.put_back(samples, reached, rejected)
    reached, w = memory.draw(samples, t, torch.full_like(t, 0.8), xi())
    assert_law(w - 0.4 * rejected, 0.0, (0.2 * 0.6) ** 0.5)
    # The deviation from the mean does not know W: a correlation of n independent pairs is N(0, 1/n), and 4.5 of these are allowed.
    assert abs(float(torch.corrcoef(torch.cat([w - 0.4 * rejected, rejected], 1).T)[0, 1])) < 4.5 / n**0.5
    _, rest = memory.draw(samples, reached, torch.full_like(t, 0.5), xi())
    torch.testing.assert_close(w + rest, rejected)
