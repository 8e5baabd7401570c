"""Grids: uniform in their clocks, ends hit exactly, strictly decreasing, whatever the process and the number of steps."""

from functools import partial

import pytest
import scipy.stats
import torch

import scoresde as ss
from scoresde import grids

from .conftest import SDES, finite_sdes, linear_betas, sdes, zero_terminal

CLOCKS = {
    "uniform": lambda sde, t: t,
    "half_log_snr": lambda sde, t: sde.half_log_snr(t),
    "karras": lambda sde, t: (sde.sigma(t) / sde.alpha(t)) ** (1 / 7),
    "quadratic": lambda sde, t: ss.VPSDE().time(sde.half_log_snr(t)) ** 0.5,
    "cubic": lambda sde, t: ss.VPSDE().time(sde.half_log_snr(t)) ** (1 / 3),
    "exponential": lambda sde, t: (sde.sigma(t) / sde.alpha(t)).log(),
    "tangent": lambda sde, t: torch.atan(2 * sde.sigma(t) / sde.alpha(t)),
    "beta": lambda sde, t: torch.from_numpy(scipy.stats.beta(0.6, 0.6).cdf(t.numpy())),
}


@finite_sdes
@pytest.mark.parametrize("name", CLOCKS)
def test_uniform_in_the_clock(sde, name):
    for steps in (1, 2, 3, 7, 20):
        grid = grids.get(name)(sde, steps)
        assert grid.shape == (steps + 1,)
        assert grid.dtype == torch.float64
        assert float(grid[0]) == 1
        assert float(grid[-1]) == 0
        if steps > 1:
            assert float(grid[-2]) == sde.t_min
        clock = CLOCKS[name](sde, grid[:-1])
        gaps = clock[1:] - clock[:-1]
        torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=1e-9)


@finite_sdes
@pytest.mark.parametrize("name", CLOCKS)
def test_a_grid_can_start_and_stop_anywhere(sde, name):
    grid = grids.get(name)(sde, 6, t_start=0.8, t_end=0.1)
    assert grid.shape == (7,)
    assert float(grid[0]) == 0.8
    assert float(grid[-1]) == 0.1
    gaps = CLOCKS[name](sde, grid).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=1e-9)


@finite_sdes
@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
def test_trailing_runs_its_clock_down_to_0(sde, power):
    """u(t_n) = u(1) (1 - n/N), unless the last call would come below t_min."""
    for steps in (2, 5, 20, 200):
        grid = grids.trailing(sde, steps, power=power)
        tau = ss.VPSDE().time(sde.half_log_snr(grid[:-1]))
        u = tau ** (1 / power)
        if float(u[0] / steps) > float(ss.VPSDE().time(sde.half_log_snr(sde.t_min)) ** (1 / power)):
            torch.testing.assert_close(u, u[0] * (1 - torch.arange(steps, dtype=torch.float64) / steps), rtol=1e-6, atol=1e-9)
            assert float(grid[-2]) > sde.t_min
        else:
            assert torch.equal(grid, grids.power(sde, steps, power=power))
    halfway = grids.trailing(sde, 4, power=power, t_start=0.5)
    assert float(halfway[0]) == 0.5
    assert torch.equal(grids.trailing(sde, 4, power=power, t_end=0.1), grids.power(sde, 4, power=power, t_end=0.1))


@finite_sdes
@pytest.mark.parametrize("power", [1.0, 1.25, 2.0])
def test_flow_runs_its_own_clock_down_to_0(sde, power):
    """u = q^(1/power), q = r/(shift + r)."""
    for steps in (2, 5, 20, 200):
        grid = grids.flow(sde, steps, shift=0.5, power=power)
        r = (-sde.half_log_snr(grid[:-1])).exp()
        u = (r / (0.5 + r)) ** (1 / power)
        r_min = float((-sde.half_log_snr(sde.t_min)).exp())
        free = float(u[0] / steps) > (r_min / (0.5 + r_min)) ** (1 / power)
        last = u[0] / steps if free else u[-1]
        torch.testing.assert_close(u, torch.linspace(float(u[0]), float(last), steps, dtype=torch.float64), rtol=1e-6, atol=1e-9)
        assert float(grid[-2]) > sde.t_min if free else float(grid[-2]) == sde.t_min


def test_flow_has_the_times_of_a_shifted_rectified_flow():
    """t' = s t/(1 + (s - 1) t) of t = 1, 1 - 1/N, ..., 1/N (Esser et al. 2024, eq. 23), and the same noise levels on every path."""
    t = torch.arange(8, 0, -1, dtype=torch.float64) / 8
    for shift in (0.5, 1.0, 3.0):
        grid = grids.flow(ss.RectifiedFlow(), 8, shift=shift)
        torch.testing.assert_close(grid[:-1], shift * t / (1 + (shift - 1) * t), rtol=1e-9, atol=0)
        edm = ss.EDM(sigma_max=float(grid[1] / (1 - grid[1])))
        levels = (-edm.half_log_snr(grids.flow(edm, 7, shift=shift)[:-1])).exp()
        torch.testing.assert_close(levels, grid[1:-1] / (1 - grid[1:-1]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*CLOCKS, "trailing", "flow"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_zero_terminal_signal_is_left_in_one_step(name, steps):
    grid = grids.get(name)(zero_terminal(), steps)
    assert grid.shape == (steps + 1,)
    assert float(grid[0]) == 1
    assert bool(grid.isfinite().all())


@pytest.mark.parametrize("steps", [10, 20, 1000])
def test_uniform_on_the_full_chain_is_the_chain(steps):
    sde = ss.VPSDE.from_betas(linear_betas(steps))
    expected = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    torch.testing.assert_close(grids.uniform(sde, steps), expected, rtol=0, atol=1e-12)
    for spacing in ("trailing", "leading", "linspace"):
        torch.testing.assert_close(grids.ddpm(sde, steps, spacing=spacing), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("total", [100, 1000, 137])
@pytest.mark.parametrize("steps", [1, 2, 7, 13, 50, 99, 100])
def test_ddpm_spacings(total, steps):
    """The 1-based indices of diffusers' timestep_spacing, which counts from 0: leading, linspace, trailing."""
    sde = ss.VPSDE.from_betas(linear_betas(total))
    indices = {s: (grids.ddpm(sde, steps, spacing=s) * total).round().long().tolist() for s in ("trailing", "leading", "linspace")}
    assert indices["leading"] == [1 + k * (total // steps) for k in reversed(range(steps))] + [0]
    assert indices["trailing"] == [round(total - k * total / steps) for k in range(steps)] + [0]
    if steps > 1:
        assert indices["linspace"][0] == total
        assert indices["linspace"][-2] == 1
    for values in indices.values():
        assert len(set(values)) == steps + 1
        assert values == sorted(values, reverse=True)


def test_indices_do_not_collapse():
    """floor(t (N-1)) in float32 repeats indices (score_sde); every index of a long chain appears once."""
    for total in (100, 200, 2000, 4000):
        sde = ss.VPSDE.from_betas(linear_betas(total))
        index = ss.ScoreModel(torch.nn.Identity(), sde).network_time(grids.uniform(sde, total)[:-1])
        assert len(set(index.round().long().tolist())) == total
        assert float((index - index.round()).abs().max()) < 1e-9


def test_more_steps_than_the_chain_has_are_fine_between_its_times():
    grid = grids.uniform(SDES["chain20"], 50)
    assert len(grid) == 51
    with pytest.raises(ValueError, match="takes 1 to 20 steps"):
        grids.ddpm(SDES["chain20"], 21)


KNOBS = {
    "karras": ("rho", 3.0, lambda sde, t: (sde.sigma(t) / sde.alpha(t)) ** (1 / 3)),
    "power": ("power", 2.5, lambda sde, t: ss.VPSDE().time(sde.half_log_snr(t)) ** (1 / 2.5)),
    "tangent": ("scale", 0.2, lambda sde, t: torch.atan(5 * sde.sigma(t) / sde.alpha(t))),
    "beta": ("b", 0.9, lambda sde, t: torch.from_numpy(scipy.stats.beta(0.6, 0.9).cdf(t.numpy()))),
}


@finite_sdes
@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_changes_the_clock(sde, name):
    knob, value, clock = KNOBS[name]
    make = getattr(grids, name)
    gaps = clock(sde, make(sde, 7, **{knob: value})[:-1]).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(make(sde, 7, **{knob: value}), make(sde, 7))


@sdes
def test_named_powers_are_powers(sde):
    for name, value in (("quadratic", 2.0), ("cubic", 3.0)):
        assert torch.equal(grids.get(name)(sde, 8), grids.power(sde, 8, power=value))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([1.0, 0.5, 0.5, 0.0], "entries 1 and 2"),
        ([0.0, 1.0], "strictly decrease"),
        ([1.5, 0.0], r"\[0, 1\]"),
        ([1.0], "at least|N >= 1"),
        ([1.0, float("nan"), 0.0], r"\[0, 1\]"),
    ],
)
def test_wrong_grids_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        grids.check(torch.tensor(grid))


def test_names_are_suggested():
    with pytest.raises(ValueError, match="did you mean 'quadratic'"):
        grids.get("quadratc")
    with pytest.raises(ValueError, match="needs a discrete chain"):
        grids.ddpm(SDES["linear"], 10)
    with pytest.raises(ValueError, match="spacing must be"):
        grids.ddpm(SDES["ddpm"], 10, spacing="log")
    with pytest.raises(ValueError, match="power must be positive, got 0"):
        grids.power(SDES["linear"], 10, power=0)
    with pytest.raises(ValueError, match="at least 1"):
        grids.uniform(SDES["ddpm"], 0)


def test_options_stand_behind_a_name():
    """As `describe` writes them, so that the grid of a plan can be given again."""
    sde = SDES["linear"]
    rule = partial(grids.trailing, power=2.5)
    assert torch.equal(grids.get("Trailing(power=2.5)")(sde, 7), rule(sde, 7))
    assert grids.spelled("trailing( power = 2.5 )") == grids.describe(rule) == "trailing(power=2.5)"
    assert torch.equal(grids.get("flow(shift=2, power=1.5)")(sde, 7), grids.flow(sde, 7, shift=2.0, power=1.5))
    for name, said in (
        ("trailing(width=2)", "the grid 'trailing' has no option 'width': power"),
        ("trailing(power)", r"name=number, as in 'trailing\(power=2\)'"),
        ("trailling(power=2)", "did you mean 'trailing'"),
    ):
        with pytest.raises(ValueError, match=said):
            grids.get(name)
