"""Traces of Jacobians: exact, estimated, with their variance and their memory."""

import math
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde as ss
from scoresde.likelihood.flow import AngleODE
from scoresde.numerics.jacobian import Exact, Hutchinson, HutchPlusPlus, Linearisation

from ..conftest import SDES, generator
from ..likelihood.targets import unet, wide_mixture

FLOW, LINEAR = SDES["flow"], SDES["linear"]


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_bug_28_exact_divergence_of_images_is_the_trace_of_the_jacobian(chunk):
    """(B, C, H, W), where an index over the flat event must not run over the channels."""
    model, x = unet(), torch.randn(2, 2, 4, 4, generator=generator(), dtype=torch.float64)
    flow = AngleODE(model, None, 2, x.shape[1:], 0.1, {})
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
