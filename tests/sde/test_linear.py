"""Every linear SDE against its own equations: by autodiff, by dense Gaussians, and against paths of numbers."""

import math

import pytest
import torch

import scoresde as ss
from scoresde.numerics.coefficients import congruent, inverse, is_matrix, product, root, transposed
from scoresde.sde import DCT, CoefficientsLinearSDE, Fourier, Identity, Orthogonal, ScaledSDE
from scoresde.sde.diagonal import OnScalarPath
from scoresde.sde.fingerprint import schedule_fingerprint
from scoresde.sde.momentum import routh

from ..conftest import generator
from ..linear import COUPLED, DIAGONAL, EVENT, NAMES, processes


def at(*t):
    return torch.tensor(t, dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_matrices_obey_their_equations(name):
    """A' = F A and Sigma' = F Sigma + Sigma F^T + G G^T, with the derivatives by autodiff; 1e-6 as asked."""
    sde, t = processes()[name], at(0.03, 0.2, 0.5, 0.9)
    a, a_rate = torch.autograd.functional.jvp(sde.signal, t, torch.ones_like(t))
    s, s_rate = torch.autograd.functional.jvp(sde.covariance, t, torch.ones_like(t))
    f, q = sde.drift_rates(t), sde.noise_rates(t)
    close(a_rate, product(f, a) if is_matrix(a) else f * a, 1e-6)
    close(s_rate, product(f, s) + product(s, transposed(f)) + q, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_transitions_compose_and_give_the_marginals(name):
    sde, (s, u, t) = processes()[name], (at(0.1), at(0.35), at(0.8))
    phi = sde.forward(s, t)
    close(product(sde.forward(u, t), sde.forward(s, u)), phi, 1e-8)
    close(product(phi, sde.signal(s)) if not is_matrix(phi) else phi @ sde.signal(s), sde.signal(t), 1e-8)
    left = sde.covariance(t) - congruent(phi, sde.covariance(s))
    assert float(left.min() if not is_matrix(left) else torch.linalg.eigvalsh(left).min()) > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_psi_solves_its_equation(name, eta):
    """Psi' = P Psi by central differences, Psi Sigma Psi^T = Sigma at eta = 0, and the posterior's matrix at eta = 1."""
    sde, s, t, h = processes()[name], at(0.7), at(0.2), 1e-5
    psi = sde.backward(s, t, eta)
    slope = (sde.backward(s, t + h, eta) - sde.backward(s, t - h, eta)) / (2 * h)
    torch.testing.assert_close(slope, product(sde.reverse_rates(t, eta), psi), rtol=1e-5, atol=1e-6)
    if eta == 0:
        close(congruent(psi, sde.covariance(s)), sde.covariance(t), 1e-8)
    if eta == 1:
        close(psi, product(product(sde.covariance(t), transposed(sde.forward(t, s))), inverse(sde.covariance(s))), 1e-8)


def dense(sde, c, rows, columns):
    """A coefficient as a matrix over the whole event."""
    shape = EVENT if columns == 1 else (columns, *EVENT)
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return sde.times(c, unit).reshape(len(unit), -1).T


@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_is_that_of_the_joint_gaussian(name):
    """Conditioning (z_s, z_t) given x on z_t, by dense linear algebra."""
    sde, s, t = processes()[name], 0.3, 0.6
    m = sde.channels
    z = torch.randn(2, *sde.state_shape((1, *EVENT))[1:], dtype=torch.float64, generator=generator(1))
    x = torch.randn(2, *EVENT, dtype=torch.float64, generator=generator(2))
    mean, factor = sde.posterior(z, x, s, t)
    phi = dense(sde, sde.forward(at(s), at(t)), m, m)
    a_s, a_t = (dense(sde, sde.signal(at(u)), m, 1) for u in (s, t))
    c_s, c_t = (dense(sde, sde.covariance(at(u)), m, m) for u in (s, t))
    gain = c_s @ phi.T @ torch.linalg.inv(c_t)
    flat = x.reshape(2, -1)
    expected = flat @ a_s.T + (z.reshape(2, -1) - flat @ a_t.T) @ gain.T
    close(mean.reshape(2, -1), expected, 1e-8)
    close(
        dense(sde, congruent(factor, torch.ones_like(factor)) if m == 1 else factor @ factor.mT, m, m), c_s - gain @ phi @ c_s, 1e-8
    )
    mean, factor = sde.transition(z, s, t)
    close(mean.reshape(2, -1), z.reshape(2, -1) @ phi.T, 1e-8)
    close(dense(sde, factor**2 if m == 1 else factor @ factor.mT, m, m), c_t - phi @ c_s @ phi.T, 1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_states_are_drawn_with_their_covariance(name):
    """`perturb` of a fixed noise is A x + R eps, and the prior has Sigma(1): its density is that of a dense Gaussian."""
    sde, m = processes()[name], processes()[name].channels
    x = torch.randn(2, *EVENT, dtype=torch.float64, generator=generator(2))
    z, noise = sde.perturb(x, at(0.2, 0.9), generator(3))
    for i, t in enumerate((0.2, 0.9)):
        r = dense(sde, root(sde.covariance(at(t))), m, m)
        expected = dense(sde, sde.signal(at(t)), m, 1) @ x[i].flatten() + r @ noise[i].flatten()
        close(z[i].flatten(), expected)
        close(r @ r.T, dense(sde, sde.covariance(at(t)), m, m))
    covariance = dense(sde, sde.covariance(at(1.0)), m, m)
    law = torch.distributions.MultivariateNormal(torch.zeros(len(covariance), dtype=torch.float64), covariance)
    close(sde.prior_log_prob(z), law.log_prob(z.reshape(2, -1)), 1e-9)
    # 2000 draws: the covariance of whitened draws is I up to 5 standard errors sqrt(2/2000) of its diagonal.
    draws = sde.prior((2000, *EVENT), generator(4), dtype=torch.float64).reshape(2000, -1)
    white = torch.linalg.solve(torch.linalg.cholesky(covariance), draws.T)
    assert float((white @ white.T / 2000 - torch.eye(len(covariance))).abs().max()) < 5 * (2 / 2000) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_clock_falls_and_is_inverted(name):
    sde = processes()[name]
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    clock = sde.half_log_snr(t)
    assert bool((clock.diff() < 0).all())
    close(sde.half_log_snr(sde.time(clock)), clock, 1e-6)
    assert float(sde.time(clock[3])) == pytest.approx(float(t[3]), rel=1e-6)
    if not isinstance(sde, OnScalarPath):  # those go on beyond t = 1, as their path does
        assert float(sde.time(clock[-1] - 1)) == pytest.approx(1)
    assert float(sde.time(torch.tensor(torch.inf))) == 0


def test_one_block_is_a_path_of_numbers():
    vp = ss.VPSDE()
    sde = ScaledSDE(lambda t: (vp.alpha(t)[:, None], vp.sigma(t)[:, None]))
    t = at(0.1, 0.5, 0.9)
    close(sde.half_log_snr(t), vp.half_log_snr(t))
    close(sde.drift_rates(t)[:, 0], vp.drift_rate(t))
    close(sde.noise_rates(t)[:, 0], vp.diffusion(t) ** 2)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator())
    for ours, theirs in zip(sde.posterior(x, 0.5 * x, 0.3, 0.7), vp.posterior(x, 0.5 * x, 0.3, 0.7), strict=True):
        close(ours.reshape(theirs.shape), theirs)
    close(sde.prior_log_prob(x) - vp.prior_log_prob(x), torch.zeros(3, dtype=torch.float64), 1e-3)


def test_an_ou_process_of_unit_covariance_is_the_vp_sde():
    sde, vp, t = ss.OUSDE(torch.eye(6), event=EVENT), ss.VPSDE(), at(0.2, 0.8)
    close(sde.signal(t), vp.alpha(t)[:, None].expand(2, 6))
    close(sde.covariance(t), vp.sigma(t)[:, None].expand(2, 6) ** 2)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_hold_is_critically_damped_and_runs_to_a_unit_normal(m):
    f, noise, stationary = ss.HOLD(m).matrices
    # (F + rate)^m = 0 (Cayley-Hamilton), which eigenvalues of a defective matrix would show to 1e-3 only.
    power = torch.linalg.matrix_power(f + 2 * torch.eye(m, dtype=torch.float64), m)
    close(power, torch.zeros_like(power), 1e-8)
    close(f @ torch.diag(stationary) + torch.diag(stationary) @ f.T + noise, torch.zeros_like(f), 1e-12)
    assert len(routh(m, 2.0)) == m


def test_hold_of_order_two_is_cld():
    """With v in units of sqrt(M)."""
    cld, hold, t = ss.CLD(), ss.HOLD(2), at(0.05, 0.5, 1.0)
    scale = torch.diag(at(1.0, math.sqrt(0.25)))
    close(scale @ hold.signal(t), cld.signal(t))
    close(scale @ hold.covariance(t) @ scale, cld.covariance(t))


def test_matrices_of_ones_own_give_a_known_process():
    cld, t = ss.CLD(), at(0.02, 0.3, 0.77, 1.0)
    own = CoefficientsLinearSDE(cld.drift_rates, cld.noise_rates, [0.01])
    close(own.signal(t), cld.signal(t), 1e-8)
    close(own.covariance(t), cld.covariance(t), 1e-8)
    vp = ss.VPSDE()
    numbers = CoefficientsLinearSDE(lambda t: vp.drift_rate(t)[:, None], lambda t: vp.diffusion(t)[:, None] ** 2)
    close(numbers.signal(t)[:, 0], vp.alpha(t), 1e-8)
    close(numbers.covariance(t)[:, 0], vp.sigma(t) ** 2, 1e-8)


def test_blurring_is_heat_flow():
    """Without noise and with d_min = 0 the mean is the convolution with a Gaussian of that width, on a grid with reflecting borders."""
    from scipy.ndimage import gaussian_filter

    sde = ss.BlurringSDE((1, 24, 24), blur=3.0, least=1e-12)
    x = torch.rand(1, 1, 24, 24, dtype=torch.float64, generator=generator())
    mean = sde.times(sde.signal(at(1.0)), x) / sde.sde.alpha(1.0)
    blurred = torch.from_numpy(gaussian_filter(x[0, 0].numpy(), 3.0, mode="reflect", truncate=8.0))
    # A sampled Gaussian is no exact heat kernel: 1e-3 of the range.
    assert float((mean[0, 0] - blurred).abs().max()) < 1e-3


def test_the_blur_grows_as_in_the_paper():
    """tau = blur^2/2 sin^4(pi t/2), at the frequency pi k/N (Hoogeboom and Salimans, appendix A)."""
    sde, t = ss.BlurringSDE((1, 4, 4), blur=3.0, least=0.01), 0.4
    tau = 4.5 * math.sin(math.pi * t / 2) ** 4
    omega = math.pi / 4 * (torch.arange(4.0)[:, None] ** 2 + torch.arange(4.0) ** 2).sqrt().flatten().double()
    expected = sde.sde.alpha(t) * (0.99 * torch.exp(-(omega**2) * tau) + 0.01)
    close(sde.signal(at(t))[0], expected, 1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_power_spectrum(exponent):
    sde = ss.ColouredSDE.power_law((1, 16, 16), exponent)
    _, eps = sde.perturb(torch.zeros(4000, 1, 16, 16), 0.9, generator())
    noise = sde.times(root(sde.covariance(at(0.9))), eps.double())
    power = torch.fft.fft2(noise, norm="ortho").abs().square().mean((0, 1)).flatten()
    expected = sde.spectrum * sde.sde.sigma(0.9) ** 2
    # Each is a mean over 4000 exponential variables: relative standard error 1/sqrt(4000), the largest of 256 within 5.
    assert float((power / expected - 1).abs().max()) < 5 / 4000**0.5


@pytest.mark.parametrize("basis", [DCT(2), Fourier(2), DCT(1), Fourier(1), "pca"])
def test_bases_are_orthogonal(basis):
    x = torch.randn(5, 2, 4, 6, dtype=torch.float64, generator=generator())
    if basis == "pca":
        basis, variances = Orthogonal.principal(x)
        y = basis.to(x - x.mean(0)).reshape(5, -1)
        close(y.T @ y / 4, torch.diag(variances), 1e-8)
    close(basis.back(basis.to(x)), x)
    close(basis.to(x).square().sum(), x.square().sum())


def test_transforms_are_those_of_scipy():
    from scipy.fft import dctn

    x = torch.randn(5, 2, 4, 6, dtype=torch.float64, generator=generator())
    close(DCT(2).to(x), torch.from_numpy(dctn(x.numpy(), axes=(2, 3), norm="ortho")))


def test_inpainting_keeps_what_is_known():
    known = torch.tensor([[[True, False, False], [False, True, False]]])
    sde = ss.TimesSDE.inpainting(known)
    x = torch.randn(4, *EVENT, dtype=torch.float64, generator=generator())
    z, _ = sde.perturb(x, 0.8, generator())
    assert torch.equal(z[:, known], x[:, known])
    assert not torch.allclose(z[:, ~known], x[:, ~known])
    with pytest.raises(ValueError, match="without noise at t = 1"):
        sde.prior_log_prob(z)


def test_forcing_denoises_the_start_first():
    sde = ss.TimesSDE.forcing(5, lag=2.0)
    tau = sde.own_times(torch.linspace(0, 1, 31, dtype=torch.float64))
    assert bool((tau.diff(dim=1) >= 0).all())
    assert float(tau[10, 0]) == 0
    assert float(tau[20, -1]) == 1


def test_what_is_known_has_a_posterior():
    sde = ss.TimesSDE.inpainting(torch.tensor([True, False]))
    x = torch.randn(3, 2, dtype=torch.float64, generator=generator())
    z, _ = sde.perturb(x, 0.6, generator(1))
    mean, factor = sde.posterior(z, x, 0.3, 0.6)
    expected, std = ss.VPSDE().posterior(z[:, 1:], x[:, 1:], 0.3, 0.6)
    close(mean, torch.cat([x[:, :1], expected], 1))
    close(factor[0], torch.stack([torch.zeros_like(std), std]))
    for weighting in ("likelihood", "elbo"):
        model = ss.ScoreModel(ss.networks.MLP(2, 8), sde, "data")
        assert bool(ss.losses.denoising(model, x.float(), weighting, generator=generator()).isfinite().all())


def test_matrices_of_one_channel_are_numbers():
    one = CoefficientsLinearSDE(lambda t: -5 * torch.ones(len(t), 1), lambda t: 10 * torch.ones(len(t), 1))
    same = CoefficientsLinearSDE(lambda t: -5 * torch.ones(len(t), 1, 1, 1), lambda t: 10 * torch.ones(len(t), 1, 1, 1))
    t = at(0.1, 0.5)
    for name in ("signal", "covariance", "drift_rates", "noise_rates"):
        assert torch.equal(getattr(one, name)(t), getattr(same, name)(t))
    assert same.channels == 1


def test_processes_in_other_bases_have_other_fingerprints():
    spectrum = torch.linspace(1, 2, 6)
    bases = (DCT(2), Fourier(2), DCT(1), Identity(), processes()["ou"].basis)
    prints = [schedule_fingerprint(ss.ColouredSDE(spectrum, basis=basis)) for basis in bases]
    for i, a in enumerate(prints):
        assert all(float((a - b).abs().max()) > 1e-3 for b in prints[i + 1 :])
    whole = ss.ColouredSDE(spectrum, basis=DCT(2))
    assert torch.equal(schedule_fingerprint(whole), schedule_fingerprint(whole.in_basis()))


def test_processes_with_other_matrices_have_other_fingerprints():
    prints = [schedule_fingerprint(sde) for sde in processes().values()]
    assert all(print.shape == (2, 32) for print in prints)
    for i, a in enumerate(prints):
        assert all(float((a - b).abs().max()) > 1e-3 for b in prints[i + 1 :])
    assert torch.equal(schedule_fingerprint(ss.CLD()), schedule_fingerprint(ss.CLD()))


@pytest.mark.parametrize("name", ["cld", "blurring"])
def test_what_needs_one_alpha_is_refused_by_name(name):
    sde = processes()[name]
    for ask in (sde.alpha, sde.sigma, sde.drift_rate, sde.diffusion, sde.velocity_direction):
        with pytest.raises(TypeError, match=f"{type(sde).__name__}.*has no single"):
            ask(0.5)


WRONG = [
    (lambda: ss.BlurringSDE(EVENT, blur=-1.0), "blur"),
    (lambda: ss.BlurringSDE(EVENT, ss.CLD()), "one alpha"),
    (lambda: ss.ColouredSDE(torch.tensor([1.0, -1.0])), "positive"),
    (lambda: ss.OUSDE(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "symmetric"),
    (lambda: ss.OUSDE(torch.eye(2), torch.ones(3)), "rates"),
    (lambda: ss.TimesSDE(lambda t: 1 - t[:, None]), "starts at 0"),
    (lambda: ss.TimesSDE(lambda t: t), "times must return"),
    (lambda: ss.CLD(mass=0.0), "mass"),
    (lambda: ss.HOLD(1), "order"),
    (lambda: ScaledSDE(lambda t: (torch.ones(len(t), 2), 1 - t[:, None].expand(-1, 2))), "starts at the data"),
    (lambda: ScaledSDE(lambda t: (1 + 9 * t[:, None], t[:, None] ** 0.1)), "must not rise"),
    (lambda: CoefficientsLinearSDE(lambda t: t, lambda t: t), "one shape"),
    (lambda: CoefficientsLinearSDE(lambda t: torch.zeros(len(t), 1, 2, 2), lambda t: torch.ones(len(t), 1, 2, 2)), "start"),
    (lambda: Orthogonal(torch.ones(2, 2)), "orthogonal"),
    (lambda: ss.CLD().perturb(torch.zeros(3, 2), 0.5, noise=torch.zeros(3, 2)), "state for x"),
    (lambda: ss.CLD().drift(torch.zeros(3, 3, 2), 0.5), "must have shape"),
    (lambda: ss.ColouredSDE(torch.ones(5)).perturb(torch.zeros(3, 4), 0.5), "does not end in 5"),
]


@pytest.mark.parametrize(("make", "words"), WRONG)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


@pytest.mark.parametrize("name", DIAGONAL + COUPLED)
def test_in_the_basis_there_is_no_basis(name):
    sde = processes()[name]
    assert isinstance(sde.in_basis().basis, Identity)
    assert torch.equal(sde.in_basis().covariance(at(0.4)), sde.covariance(at(0.4)))
