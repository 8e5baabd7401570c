"""Paths against the DDPM chain, the moment equations, and densities from torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Normal

import scoresde as ss
from scoresde.sde import SDE

from ..conftest import SDES, finite_sdes, generator, linear_betas, mixture, sdes, zero_terminal


def chain_betas(kind: str, steps: int) -> torch.Tensor:
    return linear_betas(steps) if kind == "linear" else ss.VPSDE.cosine(steps).betas


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_from_betas_is_the_chain_exactly(kind, steps):
    betas = chain_betas(kind, steps)
    sde = ss.VPSDE.from_betas(betas)
    bar = 1.0
    z = torch.tensor([1.0], dtype=torch.float64)
    for i, beta in enumerate(betas.tolist(), start=1):
        bar *= 1 - beta
        t = i / steps
        assert abs(float(sde.alpha(t)) ** 2 - bar) <= 1e-12
        assert abs(float(sde.sigma(t)) ** 2 - (1 - bar)) <= 1e-12
        if i > 1:
            mean, std = sde.transition(z, (i - 1) / steps, t)
            assert abs(float(mean) - math.sqrt(1 - beta)) <= 1e-12
            assert abs(float(std) - math.sqrt(beta)) <= 1e-12


def test_cosine_is_that_of_nichol_and_dhariwal():
    # Their eq. 17, written out in plain floats.
    def bar(t):
        return math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2

    expected = [min(1 - bar(t) / bar(t - 1), 0.999) for t in range(1, 51)]
    torch.testing.assert_close(ss.VPSDE.cosine(50).betas, torch.tensor(expected, dtype=torch.float64), atol=1e-14, rtol=0)


def test_classical_vp_only_approaches_ddpm():
    """The gap in alpha-bar between the linear VP SDE and the chain that it is the limit of: first order in 1/T."""
    gaps = {}
    for steps in (100, 1000):
        betas = torch.linspace(0.1, 20, steps, dtype=torch.float64) / steps
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        gaps[steps] = float((ss.VPSDE().alpha(t) ** 2 - ss.VPSDE.from_betas(betas).alpha(t) ** 2).abs().max())
    assert 5e-4 < gaps[1000] < 9e-4
    assert 5e-3 < gaps[100] < 9e-3


@sdes
def test_half_log_snr_and_time_invert_each_other(sde):
    t = torch.rand(1000, dtype=torch.float64, generator=generator()) * 0.9989 + 1e-6
    torch.testing.assert_close(sde.time(sde.half_log_snr(t)), t, rtol=1e-10, atol=1e-12)
    grid = torch.arange(1, 20, dtype=torch.float64) / 20
    torch.testing.assert_close(sde.time(sde.half_log_snr(grid)), grid, rtol=1e-10, atol=1e-12)
    lam = sde.half_log_snr(t)
    torch.testing.assert_close(sde.half_log_snr(sde.time(lam)), lam, rtol=1e-9, atol=1e-9)
    assert float(sde.time(sde.half_log_snr(1.0))) == pytest.approx(1.0, abs=1e-12)
    assert float(sde.time(math.inf)) == 0


@sdes
def test_drift_and_diffusion_are_the_derivatives_of_mean_and_variance(sde):
    # Inside the intervals of a chain: at their ends the rate jumps. The base class differentiates alpha and sigma.
    if sde is SDES["coefficients"]:
        return  # given, not derived: compared with differences of the derived scales below
    t = (torch.arange(0, 999, dtype=torch.float64) + 0.37) / 1000
    torch.testing.assert_close(sde.drift_rate(t), SDE.drift_rate(sde, t), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sde.diffusion(t), SDE.diffusion(sde, t), rtol=1e-6, atol=1e-6)
    z = torch.randn(999, 3, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(sde.drift(z, t), sde.drift_rate(t)[:, None] * z)


def test_rate_of_a_chain_is_closed_on_the_right():
    sde = ss.VPSDE.from_betas(linear_betas(100))
    t = torch.arange(1, 101, dtype=torch.float64) / 100
    torch.testing.assert_close(sde.beta(t), -100 * torch.log1p(-sde.betas), rtol=1e-12, atol=0)


@sdes
def test_rates_are_those_of_the_moments(sde):
    """alpha' = f alpha and d sigma^2/dt = g^2 + 2 f sigma^2, also under no_grad."""
    t = (torch.arange(0, 99, dtype=torch.float64) + 0.37) / 100
    with torch.no_grad():
        alpha_rate, sigma_rate = ss.sde.alpha_rate(sde, t), ss.sde.sigma_rate(sde, t)
    f = sde.drift_rate(t)
    torch.testing.assert_close(alpha_rate, f * sde.alpha(t), rtol=1e-6, atol=1e-6)
    expected = (sde.diffusion(t) ** 2 + 2 * f * sde.sigma(t) ** 2) / (2 * sde.sigma(t))
    torch.testing.assert_close(sigma_rate, expected, rtol=1e-6, atol=1e-6)
    assert not alpha_rate.requires_grad
    # Differences, which know of neither: for scales that are made by quadrature.
    h = 1e-5
    differences = [(scale(t + h) - scale(t - h)) / (2 * h) for scale in (sde.alpha, sde.sigma)]
    torch.testing.assert_close(torch.stack([alpha_rate, sigma_rate]), torch.stack(differences), rtol=1e-4, atol=1e-5)


@sdes
def test_posterior_is_the_gaussian_product(sde):
    """q(z_s | z_t, x) is proportional to q(z_t | z_s) q(z_s | x): precisions add."""
    for s, t in ((0.2, 0.3), (0.013, 0.9), (0.5, 0.501)):
        z, x = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
        ratio, std = (float(v) for v in sde.transition(torch.ones(1, dtype=torch.float64), s, t))
        alpha, sigma = float(sde.alpha(s)), float(sde.sigma(s))
        precision = ratio**2 / std**2 + 1 / sigma**2
        mean, posterior_std = sde.posterior(z, x, s, t)
        assert float(posterior_std) == pytest.approx(precision**-0.5, rel=1e-9)
        assert float(mean) == pytest.approx((ratio * 0.7 / std**2 + alpha * -0.4 / sigma**2) / precision, rel=1e-9)


def test_posterior_is_bishops_m_t_and_sigma_t():
    betas = linear_betas(1000)
    sde, bar = ss.VPSDE.from_betas(betas), torch.cumprod(1 - betas, 0)
    z, x = torch.tensor([0.7], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
    for i in (2, 10, 500, 1000):
        beta, now, before = float(betas[i - 1]), float(bar[i - 1]), float(bar[i - 2])
        mean = ((1 - before) * math.sqrt(1 - beta) * 0.7 + math.sqrt(before) * beta * -0.4) / (1 - now)
        got_mean, got_std = sde.posterior(z, x, (i - 1) / 1000, i / 1000)
        assert float(got_mean) == pytest.approx(mean, abs=1e-12)
        assert float(got_std) == pytest.approx(math.sqrt(beta * (1 - before) / (1 - now)), abs=1e-12)


@sdes
def test_posterior_at_time_zero_is_the_data(sde):
    z, x = torch.randn(4, 2, generator=generator()), torch.randn(4, 2, generator=generator(1))
    mean, std = sde.posterior(z, x, 0.0, 0.5)
    torch.testing.assert_close(mean, x)
    assert float(std) == 0


@sdes
def test_transitions_compose_to_the_marginal(sde):
    """Variance and mean of z_t through z_s equal those of z_t directly."""
    s, t = 0.31, 0.77
    ratio, std = sde.transition(torch.ones(1, dtype=torch.float64), s, t)
    assert float(ratio * sde.alpha(s)) == pytest.approx(float(sde.alpha(t)), rel=1e-12)
    assert float(ratio**2 * sde.sigma(s) ** 2 + std**2) == pytest.approx(float(sde.sigma(t) ** 2), rel=1e-12)
    _, from_zero = sde.transition(torch.ones(1), 0.0, t)
    assert float(from_zero) == pytest.approx(float(sde.sigma(t)), rel=1e-6)


@finite_sdes
def test_perturb_has_the_marginal_moments(sde, device):
    n = 200_000
    x = torch.full((n, 1), 0.8, device=device)
    z, noise = sde.perturb(x, 0.4, generator=generator())
    alpha, sigma = float(sde.alpha(0.4)), float(sde.sigma(0.4))
    # Mean and standard deviation of n draws: 5 standard errors, sigma/sqrt(n) and sigma/sqrt(2n).
    assert float(z.mean()) == pytest.approx(alpha * 0.8, abs=5 * sigma / math.sqrt(n))
    assert float(z.std()) == pytest.approx(sigma, abs=5 * sigma / math.sqrt(2 * n))
    torch.testing.assert_close(z, alpha * x + sigma * noise)


def test_perturb_takes_scalar_and_batch_times_alike(device):
    sde, x = SDES["ddpm"], torch.randn(5, 2, 3, device=device)
    noise = torch.randn_like(x)
    one, _ = sde.perturb(x, 0.37, noise=noise)
    many, _ = sde.perturb(x, torch.full((5,), 0.37, dtype=torch.float64, device=device), noise=noise)
    assert torch.equal(one, many)
    with pytest.raises(ValueError, match=r"\(3,\).*\(5, 2, 3\)"):
        sde.perturb(x, torch.rand(3, device=device), noise=noise)


def test_noise_from_a_cpu_generator_is_the_same_on_every_device(device):
    x = torch.zeros(4, 3, device=device)
    _, noise = SDES["ddpm"].perturb(x, 0.5, generator=generator(3))
    assert torch.equal(noise.cpu(), torch.randn(4, 3, generator=generator(3)))


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-4, 1e-3, 0.1, 0.5, 1.0])
def test_sigma_does_not_cancel(t):
    """Against the Taylor series of sqrt(1 - e^{-B}) where B is small, and in 50 digits elsewhere."""
    from decimal import Decimal, getcontext

    getcontext().prec = 50
    d = Decimal(t)
    integral = d * (Decimal(0.1) + (Decimal(20.0) - Decimal(0.1)) * d / 2)
    exact = float((1 - (-integral).exp()).sqrt())
    assert float(ss.VPSDE().sigma(t)) == pytest.approx(exact, rel=1e-14)
    assert float(ss.VPSDE().sigma(torch.tensor(t, dtype=torch.float32))) == pytest.approx(exact, rel=1e-6)


def test_prior():
    sde, z = SDES["ddpm"], torch.randn(6, 2, 3, dtype=torch.float64, generator=generator())
    expected = Normal(0.0, 1.0).log_prob(z).sum((1, 2))
    torch.testing.assert_close(sde.prior_log_prob(z), expected)
    assert sde.prior_log_prob(torch.zeros(3)).shape == (3,)
    assert torch.equal(sde.prior((4, 2), generator(1)), sde.prior((4, 2), generator(1)))


def test_zero_terminal_signal():
    sde = zero_terminal()
    assert float(sde.alpha(1.0)) == 0
    assert float(sde.sigma(1.0)) == 1
    assert float(sde.half_log_snr(1.0)) == -math.inf
    assert float(sde.time(-math.inf)) == 1
    assert float(sde.alpha(0.99)) ** 2 == pytest.approx(math.cos(0.99 * math.pi / 2) ** 2, rel=1e-12)


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0, 0.1], [1.0, 0.5], [0.1, 1.1], [float("nan")]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(ValueError, match="beta"):
        ss.VPSDE.from_betas(betas)


def test_arguments_out_of_order_are_refused():
    sde, z = SDES["ddpm"], torch.zeros(2)
    with pytest.raises(ValueError, match="s must be smaller"):
        sde.transition(z, 0.5, 0.4)
    with pytest.raises(ValueError, match="s must be smaller"):
        sde.posterior(z, z, 0.5, 0.5)
    with pytest.raises(ValueError, match="beta_min"):
        ss.VPSDE(3.0, 1.0)
    with pytest.raises(ValueError, match="eta"):
        ss.models.ReverseSDE(ss.models.analytic.ZeroModel(sde), eta=-1)


def test_inputs_are_not_changed():
    sde = SDES["ddpm"]
    betas, t, x = linear_betas(10), torch.rand(4), torch.randn(4, 2)
    copies = betas.clone(), t.clone(), x.clone()
    ss.VPSDE.from_betas(betas).betas.mul_(0)
    sde.perturb(x, t)
    sde.transition(x, t / 2, t)
    sde.posterior(x, x, t / 2, t)
    assert all(torch.equal(a, b) for a, b in zip(copies, (betas, t, x), strict=True))


def test_schedules_run_on_the_device(device):
    t = torch.rand(7, dtype=torch.float64, generator=generator())
    for sde in SDES.values():
        for schedule in (sde.alpha, sde.sigma, sde.half_log_snr, sde.drift_rate, sde.diffusion):
            there = schedule(t.to(device))
            assert there.device.type == device.type
            torch.testing.assert_close(there.cpu(), schedule(t))


def test_scales_of_given_coefficients():
    """f and g against differences of log alpha and sigma^2, and a path with a closed form."""
    sde, d = SDES["coefficients"], 1e-5
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    log_alpha, variance = (lambda t: sde.alpha(t).log()), (lambda t: sde.sigma(t) ** 2)
    slope = (variance(t + d) - variance(t - d)) / (2 * d)
    torch.testing.assert_close((log_alpha(t + d) - log_alpha(t - d)) / (2 * d), sde.drift_rate(t), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(slope - 2 * sde.drift_rate(t) * variance(t), sde.diffusion(t) ** 2, rtol=1e-6, atol=1e-6)
    vp = ss.VPSDE()
    same = ss.CoefficientsSDE(vp.drift_rate, vp.diffusion)
    t = torch.logspace(-3, 0, 50, dtype=torch.float64)
    torch.testing.assert_close(same.alpha(t), vp.alpha(t), rtol=1e-9, atol=0)
    torch.testing.assert_close(same.sigma(t), vp.sigma(t), rtol=1e-9, atol=0)
    torch.testing.assert_close(same.time(vp.half_log_snr(t)), t, rtol=1e-8, atol=1e-10)
    assert float(same.sigma(0.0)) == 0


def test_scales_of_ones_own():
    sde = SDES["scales"]
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(sde.drift_rate(t), -1.5 * torch.tan(1.5 * t))
    torch.testing.assert_close(sde.diffusion(t) ** 2, 3 * torch.tan(1.5 * t))
    torch.testing.assert_close(sde.time(sde.half_log_snr(t)), t, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sde.half_log_snr(t), -torch.log(torch.tan(1.5 * t)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        (lambda t: 1 - t, lambda t: 0.1 + t, "starts at the data"),
        (lambda t: 1 - 2 * t, lambda t: t, "not negative"),
        (lambda t: 1 + t, lambda t: t - 0.9 * t**2, "must fall"),
    ],
)
def test_scales_that_are_no_path_are_refused(alpha, sigma, message):
    with pytest.raises(ValueError, match=message):
        ss.ScalesSDE(alpha, sigma)


def test_a_signal_that_only_rounding_leaves_is_none():
    """cos(pi/2) = 6e-17. Solvers ask for alpha = 0, and Euler-Maruyama gave samples of size 1e14 otherwise."""
    sde = ss.ScalesSDE(lambda t: torch.cos(math.pi / 2 * t), lambda t: torch.sin(math.pi / 2 * t))
    flow = ss.RectifiedFlow()
    assert float(sde.alpha(1.0)) == 0
    assert sde.t_max == flow.t_max
    assert float(ss.sde.prediction.alpha_rate(sde, torch.ones(1, dtype=torch.float64))) == pytest.approx(-math.pi / 2)
    start = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    for solver in ("euler-maruyama", "sde-dpm++2m", "ddim", None):
        ours, theirs = (
            ss.sample(mixture().model(path), (50, 2), solver, steps=40, z=start, seeds=range(50)) for path in (sde, flow)
        )
        assert float((ours.std(0) / theirs.std(0) - 1).abs().max()) < 0.5


def test_coefficients_that_are_no_path_are_refused():
    with pytest.raises(ValueError, match="g positive"):
        ss.CoefficientsSDE(lambda t: -t, lambda t: 0.5 - t)
    with pytest.raises(ValueError, match="finite"):
        ss.CoefficientsSDE(lambda t: 1 / (t - 1), torch.ones_like)


def test_sub_vp_is_that_of_song():
    """g^2 = beta (1 - e^{-2B}) and standard deviation 1 - e^{-B} (two libraries have it wrong)."""
    sde, vp, t = ss.SubVPSDE(), ss.VPSDE(), torch.linspace(0.01, 1, 20, dtype=torch.float64)
    integral = vp.integrated_beta(t)
    torch.testing.assert_close(sde.sigma(t), 1 - torch.exp(-integral))
    torch.testing.assert_close(sde.alpha(t), vp.alpha(t))
    torch.testing.assert_close(sde.diffusion(t) ** 2, vp.beta(t) * (1 - torch.exp(-2 * integral)))


def test_ve_and_edm_scales():
    ve, edm, t = ss.VESDE(0.01, 50.0), ss.EDM(0.002, 80.0), torch.linspace(0.3, 1, 20, dtype=torch.float64)
    torch.testing.assert_close(ve.sigma(t), 0.01 * 5000**t, rtol=0.01, atol=0)
    assert float(ve.sigma(ve.t_min)) == pytest.approx(0.01)
    assert ve.prior_std == pytest.approx(50, rel=1e-6)
    assert float(edm.sigma(edm.t_min)) == pytest.approx(0.002)
    assert float(edm.sigma(1.0)) == edm.prior_std == 80
    for wrong in (ss.VESDE, ss.EDM):
        with pytest.raises(ValueError, match="sigma_min < sigma_max"):
            wrong(2.0, 1.0)


def test_velocity_of_a_rectified_flow_is_the_derivative_of_its_path():
    sde = SDES["flow"]
    x, noise = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator())
    d = 1e-6
    path = [sde.perturb(x, t, noise=noise)[0] for t in (0.4 - d, 0.4 + d)]
    torch.testing.assert_close((path[1] - path[0]) / (2 * d), noise - x, rtol=1e-6, atol=1e-6)
    a, b = sde.velocity_direction(0.4)
    torch.testing.assert_close(a * x + b * noise, noise - x)


def test_zero_terminal_snr_is_algorithm_1_of_lin():
    betas = linear_betas(1000)
    root = torch.cumprod(1 - betas, 0).sqrt()
    ours = torch.cumprod(1 - ss.zero_terminal_snr(betas), 0).sqrt()
    torch.testing.assert_close(ours, (root - root[-1]) * root[0] / (root[0] - root[-1]), rtol=1e-9, atol=1e-12)
    assert float(ss.VPSDE.from_betas(ss.zero_terminal_snr(betas)).alpha(1.0)) == 0
