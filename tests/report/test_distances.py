"""Distances against closed forms, against torchmetrics, and against what is known of samples of one distribution."""

import math
from importlib import import_module

import pytest
import torch
from torch import nn

import scoresde as ss
from scoresde import deprecation, networks, report
from scoresde.report.feature_sets import Features

from ..conftest import SDES, generator


class Small(nn.Module):
    """A fixed map from bytes to seven features."""

    def __init__(self, seed=0):
        super().__init__()
        self.register_buffer("weights", torch.randn(3, 7, generator=generator(seed), dtype=torch.float64))

    def forward(self, images):
        assert images.dtype == torch.uint8
        return torch.tanh(images.double().mean((2, 3)) / 64 @ self.weights)


def images(count, seed, shift=0.0):
    return (0.3 * torch.randn(count, 3, 6, 6, generator=generator(seed)) + shift).clamp(-1, 1)


def normal(count, d, seed, mean=0.0, std=1.0):
    return mean + std * torch.randn(count, d, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def torchmetrics(monkeypatch):
    """The peer, imported as if it found none of the packages that it can use: some of them may not load beside this torch."""
    found = pytest.importorskip("lightning_utilities.core.imports")
    monkeypatch.setattr(found.RequirementCache, "__bool__", lambda self: False)
    return pytest.importorskip("torchmetrics.image.fid")


def test_the_frechet_distance_is_that_of_torchmetrics(torchmetrics):
    x, real = images(60, 0, 0.2), images(80, 1)
    ours = report.frechet(x, real, Small(), images="uint8")
    metric = torchmetrics.FrechetInceptionDistance(feature=Small(), input_img_size=(3, 6, 6)).set_dtype(torch.float64)
    described = Features(Small(), "uint8")
    metric.update(described._bytes(real), real=True)
    metric.update(described._bytes(x), real=False)
    assert ours.value > 0.01
    assert ours.value == pytest.approx(float(metric.compute()), rel=1e-6)
    assert ours.floor < ours.value / 3
    assert str(ours).startswith(f"Frechet distance {ours.value:.4g} (60 samples, 80 of the reference, 7 features: Small ")
    assert f"of uint8; floor {ours.floor:.4g} of two parts of" in str(ours)


def test_sums_of_chunks_are_those_of_one_pass(tmp_path):
    """In any order, after a file, and over a folder of chunks."""
    x = normal(500, 6, 0, mean=3.0)
    whole = report.Moments.of(x)
    torch.testing.assert_close(whole.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.covariance, torch.cov(x.T), rtol=1e-10, atol=1e-10)
    merged = report.Moments(6)
    for part in reversed(x.split(77)):
        one = report.Moments.of(part)
        one.save(tmp_path / "part.safetensors")
        merged.merge(report.Moments.load(tmp_path / "part.safetensors"))
    assert merged.n == 500
    y = normal(400, 6, 1, std=1.3)
    assert report.frechet_distance(merged, y) == pytest.approx(report.frechet_distance(x, y), rel=1e-9)
    with pytest.raises(ValueError, match="6 x pixels and of 6 x features"):
        report.Moments(6, "pixels").merge(merged)
    with pytest.raises(ValueError, match=r"shape \(B, 6\)"):
        merged.add(x[:, :5])
    with pytest.raises(ValueError, match="infinite or NaN"):
        merged.add(x / 0)


def test_a_folder_is_the_tensor_of_its_samples(tmp_path):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(3, width=8).eval(), SDES["ddpm"], "data")
    ss.sample_to(tmp_path, model, 50, (3,), "ancestral", steps=4, chunk=16)
    x = torch.cat([x for x, _ in ss.read_samples(tmp_path)])
    real = normal(70, 3, 2, std=0.5).float()
    for measure, options in (
        (report.frechet, {}),
        (report.kernel_distance, {"subset": 12}),
        (report.precision_recall, {}),
    ):
        assert str(measure(tmp_path, real, **options)) == str(measure(x, real, **options))
        assert str(measure(real, tmp_path, **options)) == str(measure(real, x, **options))
    assert report.moments(tmp_path).n == 50
    (tmp_path / "000016.safetensors").unlink()
    with pytest.raises(ValueError, match="misses 1 of 4 chunks"):
        report.frechet(tmp_path, real)


def test_the_frechet_distance_of_gaussians_is_the_closed_form():
    """N(0, diag a) and N(m, diag b): |m|^2 + sum (sqrt a - sqrt b)^2, in expectation above it by tr(C)/n + d-terms of order 1/n."""
    n, d = 20_000, 4
    std = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    x, real = normal(n, d, 0), normal(n, d, 1, mean=0.3, std=std)
    expected = d * 0.3**2 + float(((1 - std) ** 2).sum())
    found = report.frechet(x, real)
    # The gap of the means dominates: its standard deviation is 2 |m| sqrt(var / n).
    spread = 2 * math.sqrt(expected) * math.sqrt(2 * float(1 + (std**2).max()) / n)
    assert abs(found.value - expected) < 4 * spread
    # Rotations of the features are no matter.
    turn = torch.linalg.qr(normal(d, d, 2)).Q
    assert report.frechet(x @ turn, real @ turn).value == pytest.approx(found.value, rel=1e-8)


def test_the_floor_is_that_of_equal_sets():
    """For one Gaussian in d dimensions E[distance] is about (d + d (d + 1)/4) (1/n + 1/m) in units of the variance."""
    n, d = 4000, 5
    found = report.frechet(normal(n, d, 0), normal(2 * n, d, 1))
    expected = (d + d * (d + 1) / 4) * 2 / n
    assert found.floor == pytest.approx(expected, rel=0.6)
    assert found.value == pytest.approx(0.75 * expected, rel=0.6)
    assert abs(found.floor_n - n) < 4 * math.sqrt(n)
    few = report.frechet(normal(500, d, 2), normal(2 * n, d, 1))
    assert abs(few.floor_n - 500) < 4 * math.sqrt(500)
    known = report.frechet(normal(n, d, 0), report.moments(normal(2 * n, d, 1)))
    assert (known.value, known.floor) == (pytest.approx(found.value, rel=1e-12), None)
    assert "floor unknown" in str(known)


def test_the_floor_of_sorted_data_is_no_distance_of_classes():
    real = torch.cat([normal(500, 2, 0, mean=-4), normal(500, 2, 1, mean=4)])
    assert report.frechet(real, real).floor < 1
    assert report.precision_recall(real[::5], real[::2]).floor[0] > 0.8
    assert report.kernel_distance(real, real, subset=100).floor < 5 * report.kernel_distance(real, real, subset=100).floor_stderr


def test_too_few_samples_are_named():
    x, real = normal(6, 6, 0), normal(100, 6, 1)
    with pytest.warns(UserWarning, match="samples has 6 samples and 6 features: its covariance has no full rank") as caught:
        report.frechet(x, real)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="reference has 6 samples"):
        report.frechet(real, x)
    with pytest.raises(ValueError, match="at least 2 samples"):
        report.frechet(x[:1], real)
    with pytest.raises(ValueError, match="fewer than two subsets of 60: give subset="):
        report.kernel_distance(real, real, subset=60)
    with pytest.raises(ValueError, match="k=3 needs at least 4 samples and 8 of the reference, got 3 and 100"):
        report.precision_recall(x[:3], real)
    for measure in (report.frechet, report.kernel_distance, report.precision_recall):
        with pytest.raises(ValueError, match=r"6 .*5"):
            measure(real, real[:, :5], **({"subset": 20} if measure is report.kernel_distance else {}))


def test_the_kernel_distance_of_equal_distributions_is_zero_within_its_error():
    """Over 60 pairs of sets the value divided by its error has mean 0 and a spread near 1 (Student's t of 9 degrees of freedom: 1.13)."""
    ratios = []
    for seed in range(60):
        found = report.kernel_distance(normal(400, 3, 2 * seed), normal(400, 3, 2 * seed + 1), subset=40)
        assert found.subsets == 10
        ratios.append(found.value / found.stderr)
    ratios = torch.tensor(ratios)
    assert abs(float(ratios.mean())) < 4 * 1.13 / math.sqrt(60)
    assert 0.8 < float(ratios.std()) < 1.6


def test_the_kernel_distance_of_means_is_the_closed_form():
    """In one dimension k = (ab + 1)^3, so that MMD^2 = 3 (m_1 - m_1')^2 + 3 (m_2 - m_2')^2 + (m_3 - m_3')^2 with the raw moments."""
    a, b = (0.0, 1.0, 0.0), (0.5, 1.25, 0.5**3 + 3 * 0.5)
    expected = sum(w * (p - q) ** 2 for w, p, q in zip((3, 3, 1), a, b, strict=True))
    found = report.kernel_distance(normal(8000, 1, 0), normal(8000, 1, 1, mean=0.5), subset=250)
    assert abs(found.value - expected) < 4 * found.stderr < expected
    assert abs(found.floor) < 4 * found.floor_stderr
    assert str(found).startswith(f"kernel distance {found.value:.4g} +- {found.stderr:.2g} (8000 samples")
    # Without bias: of the same two samples the mean is over different indices only.
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    assert float(report.squared_mmd(x, y)) == 27 + 1 - 2 * (1 + 8 + 1 + 27) / 4


def test_precision_and_recall_by_hand():
    """Points on a line. With k = 1 the balls of {0, 1, 10} have radii 1, 1, 9."""
    of = torch.tensor([[0.0], [1.0], [10.0]])
    assert report.share_on_manifold(torch.tensor([[-1.0], [-1.1], [2.0], [19.0], [19.1]]), of, 1) == 3 / 5
    assert report.share_on_manifold(torch.tensor([[-1.1]]), of, 2) == 1  # the radii are 10, 9, 10


def test_precision_and_recall_of_a_part():
    """Samples of one of two classes look real and miss half; samples of both and of a third look real by two thirds and miss nothing."""
    one, two, far = (normal(300, 2, seed, mean=mean) for seed, mean in ((0, -6), (1, 6), (2, 60)))
    real = torch.cat([normal(300, 2, 3, mean=-6), normal(300, 2, 4, mean=6)])
    half = report.precision_recall(one, real)
    assert (half.precision, half.recall) == (pytest.approx(1, abs=0.1), pytest.approx(0.5, abs=0.05))
    more = report.precision_recall(torch.cat([one, two, far]), real)
    assert (more.precision, more.recall) == (pytest.approx(2 / 3, abs=0.05), pytest.approx(1, abs=0.1))
    assert min(half.floor) > 0.85
    assert "k = 3, 2 features: coordinates" in str(half)


def test_features_are_named_by_their_weights_and_checked():
    x = images(20, 0)
    assert Features(Small(0)).name != Features(Small(1)).name
    assert Features(Small(0), "uint8").name == Features(Small(0), "uint8").name
    grey = x[:, :1]
    torch.testing.assert_close(Features(Small(), "uint8")(grey), Features(Small(), "uint8")(grey.expand(-1, 3, -1, -1)))
    bytes_ = Features(images="uint8")._bytes(grey)
    assert (bytes_.shape, bytes_.dtype) == ((20, 3, 6, 6), torch.uint8)
    assert torch.equal(Features(Small(), "uint8")(bytes_), Features(Small(), "uint8")(grey))
    with pytest.raises(ValueError, match=r"must return a tensor \(B, d\), here \(20, d\): it returns \(20, 3, 6, 6\)"):
        Features(nn.Identity())(x)
    with pytest.raises(ValueError, match=r'images="uint8" needs images'):
        Features(images="uint8")(x[0, 0])
    with pytest.raises(ValueError, match="Dropout is random: call features"):
        report.frechet(x, x, nn.Sequential(nn.Flatten(), nn.Dropout(0.5)))
    with pytest.raises(ValueError, match="images must be one of states, uint8"):
        report.frechet(x, x, images="bytes")
    with pytest.raises(ValueError, match=r"x coordinates and of .* have nothing in common|nothing in common"):
        report.frechet(report.moments(x), x, Small(), images="uint8")


def test_old_names_of_the_room_warn():
    """It was the name of `cli.report`."""
    from scoresde.cli import report as of_the_command_line

    with pytest.warns(DeprecationWarning, match=r"scoresde\.report\.Classifier is now scoresde\.cli\.report\.Classifier"):
        assert report.Classifier is of_the_command_line.Classifier
    features = import_module("scoresde.cli.report.features")
    with pytest.warns(DeprecationWarning, match=r"is now scoresde\.report\.frechet_distance"):
        assert features.frechet_distance is report.frechet_distance
    assert of_the_command_line.frechet_distance is report.frechet_distance
    assert not set(report.__all__) & set(deprecation.MOVED_NAMES["report"])
