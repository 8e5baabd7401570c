"""Demands on every solver with a loop of its own."""

import pytest
import torch

import scoresde as ss
from scoresde import analytic, solvers

from ..conftest import LOOPS, SDES, budget, generator, mixture, rotated

every_loop = pytest.mark.parametrize("name", LOOPS)
LINEAR = SDES["linear"]


@pytest.mark.parametrize(("name", "process"), list(rotated(LOOPS, SDES, each=4)))
def test_a_point_mass_is_returned(name, process):
    sde = SDES[process]
    point = torch.tensor([0.3, -2.0])
    model = analytic.GaussianMixture(point[None], torch.zeros(1)).model(sde)
    x = ss.sample(model, (16, 2), name, **budget(name, 10), generator=generator())
    assert float((x - point).abs().max()) <= 1e-4


@every_loop
def test_a_sample_does_not_depend_on_its_batch(name):
    """A batch of 8 is 8 batches of 1, with its condition, one row a sample (peer bugs 7 and 8)."""
    exact = mixture().model(LINEAR)

    class Shifted(torch.nn.Module):
        def forward(self, z, t, shift, scale):
            assert shift.shape == z.shape
            return scale * exact.data(z - shift, t)

    model = ss.ScoreModel(Shifted(), LINEAR, "data", time="t")
    shift, scale = torch.randn(8, 2, dtype=torch.float64, generator=generator(1)), torch.tensor([0.9, 0.8])
    options = {"scale": scale, "dtype": torch.float64, **budget(name, 6)}
    batch = ss.sample(model, (8, 2), name, seeds=range(8), shift=shift, **options)
    alone = [ss.sample(model, (1, 2), name, seeds=[i], shift=shift[i : i + 1], **options) for i in range(8)]
    torch.testing.assert_close(torch.cat(alone), batch, rtol=1e-9, atol=1e-9)


@every_loop
def test_callback_and_trajectory_show_the_path(name):
    model, seen = mixture().model(LINEAR), []
    out = ss.sample(
        model,
        (5, 2),
        name,
        **budget(name, 6),
        seeds=range(5),
        trajectory=True,
        callback=lambda *args: seen.append(args),
        dtype=torch.float64,
    )
    assert torch.equal(out.path[-1], out.x)
    assert len(out.path) == len(out.times) == len(seen) + 1
    for n, (number, t, z, data) in enumerate(seen):
        assert number == n
        t = torch.as_tensor(t, dtype=torch.float64)
        assert torch.equal(t, out.times[n])
        torch.testing.assert_close(z, out.path[n])
        on_the_way = (t.expand(5) > LINEAR.t_min) | (n == len(seen) - 1)  # the others wait
        torch.testing.assert_close(data[on_the_way], model.data(z, t)[on_the_way], rtol=1e-6, atol=1e-6)


@every_loop
def test_the_start_is_not_changed_and_calls_are_counted(name):
    calls = torch.zeros(4, dtype=torch.int64)

    class Spy(torch.nn.Module):
        def forward(self, z, t, who):
            calls[who] += 1
            return torch.tanh(z)

    z = torch.randn(4, 3, generator=generator())
    kept = z.clone()
    model = ss.ScoreModel(Spy(), LINEAR, "data", time="t")
    out = ss.sample(model, z.shape, name, **budget(name, 5), z=z, generator=generator(1), trajectory=True, who=torch.arange(4))
    assert torch.equal(z, kept)
    assert out.nfe == int(calls.max())
    if out.calls is not None:
        assert torch.equal(out.calls, calls)


def test_arguments_that_mean_nothing_are_refused_by_name():
    model = mixture().model(LINEAR)
    for name in ("adaptive", "gotta-go-fast"):
        for option in ({"nfe": 100}, {"grid": "karras"}):
            with pytest.raises(ValueError, match=f"{next(iter(option))}= means nothing"):
                ss.sample(model, (2, 2), name, **option)
        with pytest.raises(ss.loops.StepLimitError, match=r"tried 3 steps and reached t=0\.\d+: allow more with steps="):
            ss.sample(model, (2, 2), name, steps=3, generator=generator())
    with pytest.raises(ValueError, match="nfe= means nothing to TorchSDE"):
        ss.sample(model, (2, 2), "torchsde-euler", nfe=10)
    for make in (
        lambda: ss.loops.AdaptiveODE(rtol=0),
        lambda: ss.loops.AdaptiveODE(t_end=1.0),
        lambda: ss.loops.GottaGoFast(atol=0),
        lambda: ss.loops.GottaGoFast(t_end=-0.1),
        lambda: ss.loops.PredictorCorrector(snr=0),
        lambda: solvers.AnnealedLangevin(step_size=4),
        lambda: ss.loops.TorchSDE("rk4"),
    ):
        with pytest.raises(ValueError, match=r"rtol|t_end|atol|snr|step_size|method"):
            make()


@pytest.mark.parametrize("name", ["adaptive", "gotta-go-fast"])
def test_a_prediction_that_is_not_finite_names_the_time(name):
    class Breaks(torch.nn.Module):
        def forward(self, z, t):
            return torch.where(t < 0.5, torch.nan, 0.0)[:, None] * z

    with pytest.raises(FloatingPointError, match=r"not finite at t=0\.\d"):
        ss.sample(ss.ScoreModel(Breaks(), LINEAR, "data", time="t"), (2, 3), name, generator=generator())
