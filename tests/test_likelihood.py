"""Densities and the map between data and noise, against closed forms."""

import math
import weakref

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde as ss
from scoresde import analytic, networks
from scoresde.likelihood.flow import ProbabilityFlow
from scoresde.numerics.jacobian import Exact, Hutchinson, HutchPlusPlus, Linearisation

from .conftest import SDES, generator, mixture, sdes

FLOW, LINEAR = SDES["flow"], SDES["linear"]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}
few_sdes = pytest.mark.parametrize("sde", [SDES[n] for n in ("ddpm", "zero terminal", "sub-vp", "ve", "flow")])


def gaussian(mean, std):
    """Independent coordinates."""
    mean, std = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    return analytic.GaussianMixture(mean[None], std[None] ** 2)


def wide_mixture(d=16):
    """Four modes of different widths in d dimensions."""
    means = 0.7 * torch.randn(4, d, generator=generator(3), dtype=torch.float64)
    return analytic.GaussianMixture(means, torch.tensor([0.1, 0.2, 0.3, 0.4]))


def unet(sde=LINEAR, dtype=torch.float64, prediction="velocity"):
    """With attention, and with weights that do something."""
    torch.manual_seed(0)
    network = networks.UNet(2, width=8, multipliers=(1, 2), heads=2).to(dtype)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    network.embedding.frequencies *= 1e-3  # smooth in time, so that tight tolerances are cheap
    return ss.ScoreModel(network, sde, prediction).requires_grad_(False)


@pytest.fixture(autouse=True)
def global_random_state():
    """No test may read or change it but through `unet`, which seeds it."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


# --- the density -----------------------------------------------------------------------------------------------------------------------


@sdes
def test_density_is_the_one_of_the_path_on_every_process(sde):
    """With the law of z_1 in place of the prior it is the mixture's own at t_end, whatever the scales."""
    target, end = mixture(), 0.01
    x = target.sample(4, generator())
    out = ss.log_likelihood(target.model(sde), x, t_end=end, rtol=1e-7, atol=1e-7)
    alpha = float(sde.alpha(end))
    exact = target.log_prob(alpha * x, end, sde) + 2 * math.log(alpha)
    got = out.nats - sde.prior_log_prob(out.z) + target.log_prob(out.z, 1.0, sde) if float(sde.alpha(1.0)) else out.nats
    assert float((got - exact).abs().max()) / 2 <= 2e-6
    assert torch.equal(out.stderr, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("divergence", "tolerance"), [("exact", 1e-5), ("hutchinson", 1e-3)], ids=["exact divergence", "one probe of Hutchinson"]
)
@pytest.mark.parametrize("target", [gaussian([0.7, -0.2], [0.3, 1.5]), wide_mixture()], ids=["gaussian", "mixture"])
def test_mean_density_at_the_default_tolerance(target, divergence, tolerance):
    d = math.prod(target.event_shape)
    x = target.sample(512 if divergence == "exact" else 4096, generator(1))  # an exact divergence has no noise to average
    out = ss.log_likelihood(target.model(FLOW), x, divergence=divergence, t_end=1e-5, generator=generator(2))
    error = (out.nats - target.log_prob(x)) / d
    assert abs(float(error.mean())) <= tolerance
    if divergence == "exact":
        assert float(error.abs().max()) <= 2e-4  # of every point, at rtol = atol = 1e-5


def test_in_float32_the_density_is_as_good_as_its_tolerance():
    target = wide_mixture()
    x = target.sample(64, generator())
    out = ss.log_likelihood(target.model(FLOW), x.float(), t_end=1e-4)
    assert out.nats.dtype == out.z.dtype == torch.float32
    assert float((out.nats - target.log_prob(x, 1e-4, FLOW)).abs().max()) / 16 <= 2e-3
    assert abs(float((out.nats - target.log_prob(x)).mean())) / 16 <= 1e-4


def test_scaling_and_shifting_the_data_changes_the_density_by_the_volume():
    target, a, b = mixture(), -2.5, torch.tensor([3.0, -1.0], dtype=torch.float64)
    moved = analytic.GaussianMixture(a * target.means + b, a**2 * target.variances, target.weights)
    y = target.sample(32, generator())
    options = {"t_end": 1e-6, "rtol": 1e-8, "atol": 1e-8}
    before, after = (ss.log_likelihood(t.model(FLOW), x, **options).nats for t, x in ((target, y), (moved, a * y + b)))
    assert float((after - before + 2 * math.log(abs(a))).abs().max()) <= 1e-5


@pytest.mark.parametrize("event", [(), (3,), (2, 3), (2, 3, 2), (1, 2, 2, 2)])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_any_event_shape(event, divergence):
    """Independent coordinates of equal width, for which one probe is exact."""
    mean = torch.linspace(-1, 1, math.prod(event), dtype=torch.float64).reshape(event)
    target = analytic.GaussianMixture(mean[None], torch.tensor([0.49]))
    x = target.sample(4, generator())
    out = ss.log_likelihood(target.model(FLOW), x, divergence=divergence, t_end=1e-6, rtol=1e-7, atol=1e-7, seeds=range(4))
    assert out.z.shape == x.shape
    assert out.nats.shape == out.stderr.shape == out.nfe.shape == out.prior_mismatch.shape == (4,)
    assert float((out.nats - target.log_prob(x)).abs().max()) <= 1e-5 * x[0].numel()


def test_the_default_end_is_where_a_network_is_trained_and_smooths_the_data():
    """log p of the smoothed law differs by r^2 (laplace log p + |grad log p|^2)/2, here with a relative r^2 of 1.1e-4."""
    sde, std = ss.EDM(sigma_min=0.5, sigma_max=1000), 10.0
    target = gaussian([0.0], [std])
    x = torch.tensor([[0.0], [20.0]], dtype=torch.float64)
    out = ss.log_likelihood(target.model(sde), x, rtol=1e-10, atol=1e-10)
    closed = 0.5 * 0.5**2 * (-1 / std**2 + (x[:, 0] / std**2) ** 2)
    r = float(sde.sigma(sde.t_min))
    smooth = gaussian([0.0], [math.hypot(std, r)])
    mismatch = sde.prior_log_prob(out.z) - target.log_prob(out.z, 1.0, sde)
    assert float((out.nats - mismatch - smooth.log_prob(x)).abs().max()) <= 1e-7
    torch.testing.assert_close(smooth.log_prob(x) - target.log_prob(x), closed, rtol=0.01, atol=0)


def test_tolerance_controls_the_density_and_not_the_state_alone():
    """A field whose state is trivial and whose divergence is not: the density must still be right."""
    sde = FLOW

    class Swirl(torch.nn.Module):
        def forward(self, z, t):
            return 0.3 * torch.sin(8 * z)

    model = ss.ScoreModel(Swirl(), sde, "data", time="t")
    x = torch.zeros(1, 64, dtype=torch.float64)  # z = 0 is a fixed point
    fine = ss.log_likelihood(model, x, t_end=0.05, **TIGHT)
    for tol in (1e-3, 1e-5):
        out = ss.log_likelihood(model, x, t_end=0.05, rtol=tol, atol=tol)
        assert float((out.nats - fine.nats).abs().max()) / 64 <= 20 * tol
    assert int(fine.nfe[0]) > 3 * int(out.nfe[0])


# --- the divergence --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_bug_28_exact_divergence_of_images_is_the_trace_of_the_jacobian(chunk):
    """(B, C, H, W), where an index over the flat event must not run over the channels."""
    model, x = unet(), torch.randn(2, 2, 4, 4, generator=generator(), dtype=torch.float64)
    flow = ProbabilityFlow(model, None, 2, x.shape[1:], 0.1, {})
    theta, v = torch.tensor([0.4, 0.9], dtype=torch.float64), x.reshape(2, -1)
    got = Exact().trace(Linearisation(lambda v: flow.slope(theta, v, None), v, chunk, False), None)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.slope(theta, v, None), v)
    expected = torch.stack([jacobian[i, :, i].trace() for i in range(2)])
    torch.testing.assert_close(got, expected[:, None], rtol=1e-10, atol=1e-10)


def random_matrix(d=12, decay=0.0):
    """Not symmetric, with singular values j^-decay, and its trace."""
    u, v = (torch.linalg.qr(torch.randn(d, d, generator=generator(s), dtype=torch.float64)).Q for s in (1, 2))
    u = u + v  # a trace that is not 0
    return u * torch.arange(1, d + 1, dtype=torch.float64) ** -decay @ v.T


def linear(matrix, rows):
    return Linearisation(lambda v: v @ matrix.T, torch.zeros(rows, len(matrix), dtype=torch.float64), 16, False)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_bug_27_probes_are_averaged_and_their_variance_falls_as_one_over_k(law):
    """Against the closed form of Hutchinson's variance; over n rows a mean has error sd/sqrt(n), a variance about sqrt(3/n) of itself."""
    n, matrix = 20_000, random_matrix()
    at, symmetric = linear(matrix, n), (matrix + matrix.T) / 2
    one = 2 * symmetric.square().sum() - (2 * symmetric.diagonal().square().sum() if law == "rademacher" else 0)
    for k in (1, 4, 16):
        normal = torch.randn(n, k, 12, generator=generator(k), dtype=torch.float64)
        columns = Hutchinson(normal if law == "gaussian" else normal.sign()).trace(at, None)
        estimate = columns.mean(1)
        assert abs(float(estimate.mean() - matrix.trace())) <= 3 * float((one / k / n).sqrt())
        assert float(estimate.var() * k / one) == pytest.approx(1, abs=5 * math.sqrt(3 / n))


def test_hutch_plus_plus_is_unbiased_and_beats_hutchinson_where_few_directions_matter():
    n, k, matrix = 4000, 6, random_matrix(24, decay=2.0)
    draws = [torch.randn(n, m, 24, generator=generator(m), dtype=torch.float64) for m in (k, 2 * k, 3 * k)]
    at = linear(matrix, n)
    plus = HutchPlusPlus(draws[0], draws[1][:, :k]).trace(at, None).mean(1)
    plain = Hutchinson(draws[2].sign()).trace(at, None).mean(1)  # as many products
    assert abs(float(plus.mean() - matrix.trace())) <= 4 * float(plus.std()) / math.sqrt(n)
    assert float(plus.std()) < 0.5 * float(plain.std())


def test_hutch_plus_plus_is_exact_for_few_directions_and_a_multiple_of_the_identity():
    u = torch.randn(10, 3, generator=generator(), dtype=torch.float64)
    low_rank = u @ torch.randn(3, 10, generator=generator(1), dtype=torch.float64)
    eye = torch.eye(10, dtype=torch.float64)
    draws = torch.randn(2, 5, 12, 10, generator=generator(2), dtype=torch.float64)
    for matrix, k in ((low_rank, 3), (2.5 * eye, 1), (low_rank + eye, 12)):
        columns = HutchPlusPlus(draws[0, :, :k], draws[1, :, :k]).trace(linear(matrix, 5), None)
        assert float((columns - matrix.trace()).abs().max()) <= 1e-8


@pytest.mark.parametrize("divergence", ["hutchinson", "hutch++"])
def test_bug_30_an_estimate_says_how_wrong_it_is(divergence):
    """One probe cannot know: NaN. Many: the mean square of the errors is that of the standard errors, over 256 points within about
    sqrt(2/256) = 0.09 and what the tails of an estimated error add."""
    target = wide_mixture()
    model, x = target.model(FLOW), target.sample(256, generator())
    options = {"t_end": 1e-3, "rtol": 1e-4, "atol": 1e-4}
    exact = ss.log_likelihood(model, x, **options)
    one = ss.log_likelihood(model, x[:4], divergence=divergence, seeds=range(4), **options)
    assert bool(one.stderr.isnan().all())
    many = ss.log_likelihood(model, x, divergence=divergence, probes=12, seeds=range(256), **options)
    error, claimed = many.nats - exact.nats, many.stderr.square().mean().sqrt()
    assert float(error.square().mean().sqrt() / claimed) == pytest.approx(1, abs=0.2)
    assert abs(float(error.mean())) <= 4 * float(claimed) / 16


class PeakElements(TorchDispatchMode):
    """The largest number of elements of tensors made inside that are alive at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def _drop(self, n):
        self.now -= n

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.now += tensor.numel()
                weakref.finalize(tensor, self._drop, tensor.numel())
        self.peak = max(self.peak, self.now)
        return out


def test_bug_29_memory_of_the_exact_divergence_is_flat_in_d():
    """In units of the state: no graph a coordinate, no d x d matrix."""
    peaks = []
    for d in (32, 256):
        with PeakElements() as count:
            at = Linearisation(lambda v: torch.tanh(v) * v.sum(1, keepdim=True), torch.ones(2, d), 4, False)
            Exact().trace(at, None)
        peaks.append(count.peak / (2 * d))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
    assert peaks[1] < 60


# --- gradients -------------------------------------------------------------------------------------------------------------------------


class LearnableGaussian(torch.nn.Module):
    """D of N(mean, e^{2 log_std}) on the straight path."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64))
        self.log_std = torch.nn.Parameter(torch.tensor([-0.5, 0.2, 0.0], dtype=torch.float64))

    def forward(self, z, t):
        alpha, variance, s = 1 - t[:, None], t[:, None] ** 2, (2 * self.log_std).exp()
        return self.mean + alpha * s / (alpha**2 * s + variance) * (z - alpha * self.mean)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_bug_29_gradients_are_those_of_the_closed_form(divergence):
    network = LearnableGaussian()
    model = ss.ScoreModel(network, FLOW, "data", time="t")
    x = torch.randn(4, 3, generator=generator(), dtype=torch.float64, requires_grad=True)
    inputs = [x, network.mean, network.log_std]
    out = ss.log_likelihood(
        model, x, divergence=divergence, probes=1 if divergence == "exact" else 3, grad=True, t_end=1e-5, rtol=1e-8, atol=1e-8
    )
    got = torch.autograd.grad(out.nats.sum(), inputs)
    normal = torch.distributions.Normal(network.mean, network.log_std.exp())
    expected = torch.autograd.grad(normal.log_prob(x).sum(), inputs)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_grad_nothing_is_recorded():
    network = LearnableGaussian()
    model = ss.ScoreModel(network, FLOW, "data", time="t")
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    out = ss.log_likelihood(model, x)
    assert not out.nats.requires_grad
    assert not out.z.requires_grad
    assert network.mean.grad is None
    assert x.grad is None
    assert not ss.encode(model, x).requires_grad
    assert ss.encode(model, x, grad=True).requires_grad


def test_bug_41_a_network_with_attention_is_differentiated_twice():
    """By x, against central differences, through attention that as a fused kernel has no second derivative."""
    model = unet()
    x = torch.randn(1, 2, 4, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    step = torch.randn(x.shape, generator=generator(1), dtype=torch.float64)
    options = {"divergence": "hutchinson", "seeds": [3], "t_end": 0.3, "rtol": 1e-8, "atol": 1e-8}
    (gradient,) = torch.autograd.grad(ss.log_likelihood(model, x, grad=True, **options).nats.sum(), x)
    h = 1e-3
    up, down = (ss.log_likelihood(model, x + s * h * step, **options).nats for s in (1, -1))
    assert float((gradient * step).sum()) == pytest.approx(float((up - down) / (2 * h)), rel=1e-3)


def test_bug_41_attention_that_would_be_fused_is_differentiated_twice_too():
    """A user's network, on whose contiguous heads torch would choose a fused kernel: the gradient at x = 0 is 0 by symmetry, elsewhere not."""

    class Attends(torch.nn.Module):
        def forward(self, z, t):
            q = z.reshape(len(z), 1, 4, 8)
            return torch.nn.functional.scaled_dot_product_attention(q, 0.5 * q, q).reshape(z.shape)

    model = ss.ScoreModel(Attends(), FLOW, "data", time="t")
    x = torch.randn(2, 32, generator=generator(), dtype=torch.float64)
    x[0] = 0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(ss.log_likelihood(model, x, grad=True, t_end=0.3, rtol=1e-3, atol=1e-3).nats.sum(), x)
    assert float(gradient[0].abs().max()) <= 1e-12
    assert float(gradient[1].abs().max()) > 0.1


def test_bug_41_a_fused_kernel_works_without_gradients_and_is_named_with_them():
    class Fused(torch.nn.Module):
        def forward(self, z, t):
            q = z.reshape(len(z), 1, 4, 8)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(q, 0.5 * q, q).reshape(z.shape)

    model, x = ss.ScoreModel(Fused(), FLOW, "data", time="t"), torch.randn(2, 32, generator=generator())
    assert bool(ss.log_likelihood(model, x, t_end=0.1, rtol=1e-3, atol=1e-3).nats.isfinite().all())
    with pytest.raises(RuntimeError, match=r"differentiated twice.*SDPBackend\.MATH.*or grad=False"):
        ss.log_likelihood(model, x, grad=True, t_end=0.1)


# --- the prior -------------------------------------------------------------------------------------------------------------------------


def test_bug_26_a_prior_that_misses_the_mean_of_the_data_is_reported():
    """On a VE path the prior is centred at 0: the bias KL( q(z_1) || prior ) of the mean density falls as sigma_max^-2, and what is reported
    bounds it."""
    mean, std = 3.0, 0.5
    quantiles = torch.special.ndtri((torch.arange(256, dtype=torch.float64) + 0.5) / 256)  # their sums are nearly those of the law
    x, biases, reported = mean + std * quantiles[:, None], [], []
    for sigma_max in (5.0, 20.0, 80.0):
        sde = ss.VESDE(sigma_min=0.01, sigma_max=sigma_max)
        target = gaussian([mean], [std])
        out = ss.log_likelihood(target.model(sde), x, t_end=1e-8, rtol=1e-7, atol=1e-7)
        biases.append(float((target.log_prob(x) - out.nats).mean()))
        reported.append(float(out.prior_mismatch.mean()))
        v0, v1 = float(sde.sigma(1.0)) ** 2, float(sde.sigma(1.0)) ** 2 + std**2
        z = mean + (x - mean) * math.sqrt(v1) / std
        closed = 0.5 * (math.log(v0 / v1) + z**2 / v0 - (z - mean) ** 2 / v1)
        assert biases[-1] == pytest.approx(float(closed.mean()), abs=1e-5)
        assert 0 < biases[-1] <= reported[-1]
    for wide, narrow in ((biases[1], biases[0]), (biases[2], biases[1]), (reported[2], reported[1])):
        assert wide / narrow == pytest.approx(1 / 16, rel=0.15)


@sdes
def test_prior_mismatch_is_the_divergence_of_two_gaussians(sde):
    x = torch.randn(5, 2, 3, generator=generator(), dtype=torch.float64)
    normal = torch.distributions.Normal
    q = normal(sde.alpha(1.0) * x, sde.sigma(1.0))
    expected = torch.distributions.kl_divergence(q, normal(torch.zeros_like(x), sde.prior_std)).sum((1, 2))
    torch.testing.assert_close(ss.prior_mismatch(sde, x), expected, rtol=1e-9, atol=1e-12)


# --- encode and decode -----------------------------------------------------------------------------------------------------------------


@sdes
def test_encode_is_the_gaussian_flow_map(sde):
    """z_t - alpha_t mu grows as the marginal standard deviation, in each coordinate."""
    mean, std, end = torch.tensor([0.7, -0.2]).double(), torch.tensor([0.3, 1.5]).double(), 0.02
    model = gaussian(mean, std).model(sde)
    x = mean + std * torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    before, after = ((sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2).sqrt() for t in (end, 1.0))
    exact = sde.alpha(1.0) * mean + after / before * sde.alpha(end) * (x - mean)
    assert float(((ss.encode(model, x, t_end=end) - exact) / after).abs().max()) <= 1e-4
    assert float((ss.decode(model, exact, t_end=end) - x).abs().max()) <= 2e-5


@few_sdes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_returns_the_data_at_the_default_tolerance(sde, dtype):
    model, x = mixture().model(sde), mixture().sample(64, generator(), dtype)
    kept = x.clone()
    z = ss.encode(model, x)
    assert float((ss.decode(model, z) - x).abs().max()) <= 1e-4
    assert torch.equal(x, kept)
    assert z.dtype == dtype
    out = ss.log_likelihood(model, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.z, z, rtol=0, atol=1e-4 * sde.prior_std)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_round_trip_through_a_network_returns_the_images(dtype):
    model = unet(SDES["ddpm"], dtype)
    x = 2 * torch.rand(4, 2, 8, 8, generator=generator(), dtype=dtype) - 1
    z = ss.encode(model, x)
    assert float((z - x).abs().mean()) > 0.01
    assert float((ss.decode(model, z) - x).abs().max()) <= 1e-4


def test_decode_agrees_with_the_adaptive_sampler():
    model = mixture().model(LINEAR)
    z = torch.randn(16, 2, generator=generator(), dtype=torch.float64)
    sampled = ss.sample(model, z.shape, ss.loops.AdaptiveODE(1e-8, 1e-8, t_end=0.01), z=z)
    x = ss.decode(model, z, t_end=0.01, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(float(LINEAR.alpha(0.01)) * x, sampled, rtol=0, atol=1e-6)


# --- batches, seeds, devices, arguments ------------------------------------------------------------------------------------------------


class Shifted(torch.nn.Module):
    """A mixture moved by a condition with one row a sample, and scaled by one that all share."""

    def forward(self, z, t, shift, scale):
        assert shift.shape == z.shape
        assert scale.shape == (3,)
        return mixture().model(LINEAR).data(z - shift, t) + scale.mean() * shift


def test_bug_42_a_batch_may_be_split_and_gives_the_same():
    """Also a last part of 3 samples, where the shared condition of 3 entries could be taken for one row a sample."""
    model = ss.ScoreModel(Shifted(), LINEAR, "data", time="t")
    x, shift = (torch.randn(7, 2, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    cond = {"shift": shift, "scale": torch.tensor([0.9, 1.0, 1.1])}
    whole, parts = (
        ss.log_likelihood(model, x, divergence="hutchinson", probes=2, generator=generator(2), batch_size=size, **cond)
        for size in (None, 4)
    )
    for name in ("nats", "stderr", "z", "prior_mismatch"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    assert torch.equal(parts.nfe, whole.nfe)
    encoded = [ss.encode(model, x, batch_size=size, **cond) for size in (None, 4)]
    torch.testing.assert_close(*encoded, rtol=1e-9, atol=1e-9)


def test_bug_42_no_state_of_the_past_is_kept():
    alive, most = [], 0

    class Network(torch.nn.Module):
        def forward(self, z, t):
            nonlocal most
            alive.append(weakref.ref(z))
            most = max(most, sum(ref() is not None for ref in alive))
            return torch.tanh(3 * z)

    model = ss.ScoreModel(Network(), FLOW, "data", time="t")
    counts = []
    for tol in (1e-3, 1e-7):
        alive.clear()
        most = 0
        ss.log_likelihood(model, torch.ones(2, 3), t_end=0.01, rtol=tol, atol=tol)
        counts.append((most, len(alive)))
    assert counts[1][1] > 2 * counts[0][1]
    assert counts[0][0] == counts[1][0] <= 2


def test_a_sample_depends_on_its_own_seed_only():
    target = wide_mixture()
    model, x = target.model(FLOW), target.sample(6, generator())
    options = {"divergence": "hutchinson", "rtol": 1e-4, "atol": 1e-4}
    batch = ss.log_likelihood(model, x, seeds=range(6), **options).nats
    for i in (0, 5):
        alone = ss.log_likelihood(model, x[i : i + 1], seeds=[i], **options).nats
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ss.log_likelihood(model, x, seeds=range(1, 7), **options).nats, batch)
    state = torch.get_rng_state()
    first, second = (ss.log_likelihood(model, x, **options).nats for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_network_calls_are_counted():
    calls = torch.zeros(3, dtype=torch.int64)

    class Spy(torch.nn.Module):
        def forward(self, z, t, who):
            calls[who] += 1
            return torch.tanh(z)

    model = ss.ScoreModel(Spy(), FLOW, "data", time="t")
    x = torch.tensor([[0.1, 0.2], [3.0, -1.0], [0.0, 0.0]])
    for options in ({}, {"divergence": "hutchinson", "probes": 3}, {"divergence": "hutch++"}):
        calls.zero_()
        out = ss.log_likelihood(model, x, who=torch.arange(3), **options)
        assert torch.equal(out.nfe, calls)


def test_bug_31_public_calls_run_where_the_data_are(device):
    model, x = unet(dtype=torch.float32).to(device), torch.randn(2, 2, 4, 4, generator=generator()).to(device)
    loose = {"t_end": 0.5, "rtol": 1e-3, "atol": 1e-3}
    for divergence in ("exact", "hutchinson", "hutch++"):
        out = ss.log_likelihood(model, x, divergence=divergence, seeds=range(2), **loose)
        for value in (out.nats, out.stderr, out.nfe, out.prior_mismatch, out.z):
            assert value.device.type == device.type
    assert ss.decode(model, ss.encode(model, x, **loose), **loose).device.type == device.type
    noisy = ss.dequantise(x.clamp(-1, 1), width=0.1, generator=generator())
    assert noisy.x.device.type == noisy.log_density.device.type == device.type
    assert ss.bits_per_dim(out.nats, (2, 4, 4), bins=256).device.type == device.type


def test_wrong_arguments_are_refused_by_name():
    model, x = mixture().model(LINEAR), torch.zeros(2, 2)
    for options, message in (
        ({"t_end": 0.0}, r"t_end must lie in \(0, 1\)"),
        ({"rtol": 0}, "rtol and atol must be positive"),
        ({"divergence": "skilling"}, "divergence must be"),
        ({"probes": 4}, "probes=4 means nothing to divergence='exact'"),
        ({"probes": 0}, "probes must be at least 1"),
        ({"probe_law": "uniform"}, "probe_law must be"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"divergence": "hutchinson", "seeds": range(3)}, "3 seeds were given"),
        ({"seeds": range(2), "generator": generator()}, "not both"),
    ):
        with pytest.raises(ValueError, match=message):
            ss.log_likelihood(model, x, **options)
    for call in (ss.encode, ss.decode, ss.log_likelihood):
        with pytest.raises(TypeError, match=r"torch\.int64.*dequantise"):
            call(model, torch.zeros(2, 2, dtype=torch.int64))
        with pytest.raises(ss.loops.StepLimitError, match="steps="):
            call(model, x + 1, steps=2)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        ss.log_likelihood(model, x)
    with pytest.raises(ValueError, match="does not determine the data at t=1"):
        ss.encode(ss.ScoreModel(networks.MLP(2, width=8, layers=1), FLOW, "noise"), x)


# --- bins ------------------------------------------------------------------------------------------------------------------------------


def test_bug_25_uniform_bytes_have_eight_bits_a_dimension():
    """Exactly, for the density that is uniform over 256 bins of width 2/255; and, within the two edges, for a score model of it."""
    flat = -3 * math.log(256 * 2 / 255)
    assert ss.bits_per_dim(flat, (1, 3), bins=256) == pytest.approx(8, abs=1e-12)
    # A mode of standard deviation one bin at each level: flat to 1e-8 but for three bins at both ends.
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    target = analytic.GaussianMixture(levels[:, None], torch.full((256,), (2 / 255) ** 2))
    noisy = ss.dequantise(levels[:, None], bins=256, generator=generator())
    out = ss.log_likelihood(target.model(FLOW), noisy.x, t_end=1e-5)
    bits = ss.bits_per_dim(out.nats, (1,), bins=256)
    torch.testing.assert_close(bits[8:-8], torch.full((240,), 8.0, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(ss.bits_per_dim(out.nats - noisy.log_density, (1,), width=1), bits)


def test_the_width_of_a_bin_is_not_guessed():
    for call in (lambda **o: ss.bits_per_dim(1.0, (2,), **o), lambda **o: ss.dequantise(torch.zeros(1, 2), **o)):
        for options in ({}, {"bins": 256, "width": 0.1}):
            with pytest.raises(ValueError, match="not guessed"):
                call(**options)
        with pytest.raises(ValueError, match="at least 2"):
            call(bins=1)
        with pytest.raises(ValueError, match="positive"):
            call(width=0.0)


def test_data_off_the_levels_and_wrong_noise_are_refused():
    x = torch.arange(17.0)[:, None] / 8 - 1
    noisy = ss.dequantise(x, bins=17, generator=generator()).x
    for values in (noisy, (x + 1) / 2, 8 * x, x - 0.125):
        with pytest.raises(ValueError, match="does not lie on 17 levels"):
            ss.dequantise(values, bins=17)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        ss.dequantise(torch.zeros(2, 2, dtype=torch.uint8), bins=256)
    for options in ({"kind": "truncated_normal"}, {"kind": "truncated_normal", "std": 0.0}, {"std": 0.1}, {"kind": "normal"}):
        with pytest.raises(ValueError, match=r"std|kind"):
            ss.dequantise(x, bins=17, **options)


@pytest.mark.parametrize("std", [None, 0.02, 0.2, 5.0])
def test_noise_stays_in_its_bin_and_has_the_density_it_says(std):
    """exp(-log_density) averaged over draws is the bin's volume, int q/q = w^2; its standard error is taken from the draws."""
    n, w = 100_000, 0.25
    kind = "uniform" if std is None else "truncated_normal"
    out = ss.dequantise(torch.zeros(n, 2).double(), width=w, kind=kind, std=std, generator=generator())
    assert float(out.x.abs().max()) <= w / 2
    if std == 0.02:  # six standard deviations inside: as good as normal, and 1/q has no variance to speak of
        normal = torch.distributions.Normal(torch.tensor(0.0).double(), std)
        torch.testing.assert_close(out.log_density, normal.log_prob(out.x).sum(1), rtol=1e-6, atol=1e-6)
        assert float(out.x.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * 2 * n))
        return
    volume = (-out.log_density).exp()
    assert abs(float(volume.mean()) - w**2) <= 4 * float(volume.std()) / math.sqrt(n) + 1e-9
    if std is not None:
        # The entropy of Zheng et al. 2023, arXiv 2305.03935, section 4.3.
        tau = w / 2 / std
        z = math.erf(tau / math.sqrt(2))
        entropy = math.log(math.sqrt(2 * math.pi * math.e) * std * z) - tau * math.exp(-(tau**2) / 2) / math.sqrt(2 * math.pi) / z
        assert abs(float(-out.log_density.mean()) - 2 * entropy) <= 4 * float(out.log_density.std()) / math.sqrt(n) + 1e-9


@pytest.mark.parametrize(("kind", "std"), [("uniform", None), ("truncated_normal", 0.3)])
def test_dequantised_densities_bound_the_probability_of_the_bin(kind, std):
    """E[log p - log q] <= log P, and the mean of p/q over draws is P."""
    n, w, normal = 40_000, 1.0, torch.distributions.Normal(torch.tensor(0.0).double(), 0.6)
    for level in (0.0, 1.0):
        out = ss.dequantise(torch.full((n, 1), level).double(), width=w, kind=kind, std=std, generator=generator())
        log_weight = normal.log_prob(out.x[:, 0]) - out.log_density
        probability = float(normal.cdf(torch.tensor(level + w / 2)) - normal.cdf(torch.tensor(level - w / 2)))
        assert float(log_weight.mean()) < math.log(probability)
        weight = log_weight.exp()
        assert abs(float(weight.mean()) - probability) <= 4 * float(weight.std()) / math.sqrt(n)


def test_truncated_normal_noise_closes_the_gap_that_smoothing_opens():
    """Levels that are known exactly, asked at a t_end whose noise is a fifth of a bin: uniform noise falls where the model has no mass, the
    noise of the path itself does not, and the bound is log P = 0."""
    sde, end = FLOW, 0.04
    r = float(sde.sigma(end) / sde.alpha(end))
    w = 5 * r
    model = analytic.GaussianMixture(torch.zeros(1, 1), torch.zeros(1)).model(sde)
    x = torch.zeros(512, 1, dtype=torch.float64)
    means = []
    for options in ({"kind": "uniform"}, {"kind": "truncated_normal", "std": r}):
        noisy = ss.dequantise(x, width=w, generator=generator(), **options)
        out = ss.log_likelihood(model, noisy.x, t_end=end, rtol=1e-7, atol=1e-7)
        means.append(float((out.nats - noisy.log_density).mean()))
    assert means[0] < -0.3
    # erf(2.5/sqrt 2) = 0.9876 of the mass lies in the bin.
    assert means[1] == pytest.approx(math.log(math.erf(2.5 / math.sqrt(2))), abs=1e-5)
