"""Distances against closed forms, and pictures that hold what they should."""

import importlib

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import analytic, networks
from scoresde.cli import report

from ..conftest import SDES, generator, mixture


def test_frechet_distance_is_that_of_scipy():
    from scipy.linalg import sqrtm

    a = torch.randn(300, 5, generator=generator()) @ torch.randn(5, 5, generator=generator(1))
    b = 0.3 + torch.randn(200, 5, generator=generator(2))
    cov_a, cov_b = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    gap = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    expected = gap + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert report.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert report.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert report.frechet_distance(a, a + 2) == pytest.approx(5 * 4, rel=1e-6)


def test_classifier_learns_and_leaves_the_random_state_alone():
    label = torch.arange(400) % 4
    x = 0.3 * torch.randn(400, 1, 8, 8, generator=generator())
    x[torch.arange(400), 0, label * 2, :] += 1
    torch.manual_seed(5)
    before = torch.get_rng_state()
    classifier = report.Classifier.trained(x, label)
    assert torch.equal(torch.get_rng_state(), before)
    assert float((classifier.probabilities(x).argmax(1) == label).float().mean()) > 0.95
    assert classifier.features(x).shape == (400, 128)
    assert torch.equal(report.Classifier.trained(x, label).features(x), classifier.features(x))


@pytest.mark.parametrize("text", ["dpm++2m:10", "ddim:20:quadratic", "default:10", "default:5:karras"])
def test_entries(text):
    entry = report.parse_entry(text)
    assert ":".join(str(part) for part in entry if part is not None) == text


def test_entries_have_no_case():
    assert report.parse_entry("DDIM:5") == report.Entry("ddim", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddim", "NAME:STEPS"),
        ("ddim:0", "NAME:STEPS"),
        ("ddim:x", "NAME:STEPS"),
        ("dim:5", "did you mean 'ddim'"),
        ("ddim:5:log", "no grid"),
    ],
)
def test_wrong_entries(text, message):
    with pytest.raises(ValueError, match=message):
        report.parse_entry(text)


def test_compare_measures_what_it_says():
    network = networks.UNet(1, width=8)
    model = ss.ScoreModel(network, SDES["ddpm"], "data")  # a zero network: every sample is 0
    real = torch.randn(50, 1, 4, 4, generator=generator())
    entries = [report.Entry("ddim", 5), report.Entry("heun", 3, "karras")]
    result = report.compare(
        model, entries, real, (real[:25], real[25:]), seeds=range(20), batch_size=8, curve_nfe=(4, 6), progress=False
    )
    covariance = torch.cov(real.flatten(1).double().T)
    expected = float(real.flatten(1).double().mean(0).square().sum() + covariance.trace())
    for row, nfe in zip(result.rows, (5, 5), strict=True):
        assert row["NFE"] == nfe
        assert row["Frechet distance"] == pytest.approx(expected, rel=1e-6)
    assert result.floor == pytest.approx(report.frechet_distance(real[:25].flatten(1), real[25:].flatten(1)))
    assert [nfe for nfe, _ in result.curves["heun"]] == [3, 5]
    assert all(error == pytest.approx(0, abs=1e-6) for pairs in result.curves.values() for _, error in pairs)
    assert set(result.samples) == {"ddim 5", "heun 3 karras"}


def test_tiles_hold_the_images(tmp_path):
    from PIL import Image

    x = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 1, 3, 3)
    report.save_samples(x, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as opened:
        picture = np.array(opened)
    side = 2 * 3 * 21 + 3  # two tiles of 3 pixels, enlarged 21 times, and a line
    assert picture.shape == (side, side, 3)
    corners = [picture[1, 1], picture[1, -1], picture[-1, 1], picture[-1, -1]]
    assert [int(c[0]) for c in corners] == [0, 85, 170, 255]


@pytest.mark.parametrize("event", [(1, 4, 4), (3, 4, 4), (2,), (), (5, 3)])
def test_pictures_of_any_data(tmp_path, event):
    x = torch.randn(9, *event, generator=generator())
    report.save_samples(x, tmp_path / "samples.png")
    report.save_rows({"a": x, "b": x, "c": x, "d": x, "e": x}, tmp_path / "rows.png")
    report.save_error_plot({"a": [(5, 0.1), (10, 0.01)], "b": [(5, 0.2), (9, 0.05)]}, tmp_path / "error.png")
    for name in ("samples", "rows", "error"):
        assert (tmp_path / f"{name}.png").stat().st_size > 500


def test_a_curve_that_explodes_leaves_room_for_the_others():
    calm = {"a": [(3, 0.2), (10, 0.01)], "b": [(3, 0.1), (10, 0.02)], "point": [(8, 0.001)]}
    axis = report.error_figure(calm).axes[0]
    assert axis.get_yscale() == "log"
    assert axis.get_legend_handles_labels()[1] == ["a", "b", "point"]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "-", "None"]
    assert axis.get_ylim()[1] < 0.4
    figure = report.error_figure(calm | {"c": [(3, 1e6), (5, 700.0), (9, float("inf")), (19, 0.05)], "far": [(373, 0.002)]})
    axis = figure.axes[0]
    assert axis.get_ylim() == pytest.approx((0.001 / 1.5, 5 * 0.2))
    assert [float(tick) for tick in axis.get_xticks()] == [3, 5, 9, 19, 373]
    (triangles,) = (line for line in axis.lines if line.get_marker() == "^" and len(line.get_xdata()))
    assert list(triangles.get_xdata()) == [3, 5, 9]
    assert list(triangles.get_ydata()) == [axis.get_ylim()[1]] * 3
    assert "larger error" in axis.get_legend_handles_labels()[1]


def test_a_long_path_leaves_room_for_the_picture():
    name = "/a/long/path" * 20 + "/8.safetensors"
    (label,) = report.error_figure({name: [(8, 0.1)]}).axes[0].get_legend_handles_labels()[1]
    assert len(label) == 32
    assert label.startswith("...")
    assert label.endswith("/8.safetensors")


@pytest.mark.filterwarnings("ignore:Data has no positive values")
def test_curves_without_a_size_are_drawn_too():
    for curves in ({"a": [(3, 0.0), (5, 0.0)]}, {"a": [(3, float("inf"))]}, {"a": [(3, 0.0)], "b": [(3, 1.0), (4, float("inf"))]}):
        assert report.error_figure(curves).axes[0].get_legend_handles_labels()[1] == [
            *curves,
            *["larger error"] * (len(curves) - 1),
        ]


def test_the_adaptive_ode_has_one_error_and_stochastic_solvers_have_none():
    from scoresde.cli.report.paired import error_curves, fine_solve

    model = ss.ScoreModel(Exact(mixture().model(SDES["ddpm"])), SDES["ddpm"], "data", time="t")
    entries = [report.Entry("adaptive", 500), "gotta-go-fast", "sde-dpm++2m", "heun", report.Entry("heun", 9, "karras"), "plms"]
    curves = error_curves(model, fine_solve(model, (2,), range(8)), entries, (3, 4, 5))
    assert list(curves) == ["adaptive", "heun", "heun (karras)", "plms"]
    ((calls, error),) = curves["adaptive"]
    assert calls == ss.sample(model, (8, 2), "adaptive", seeds=range(8), trajectory=True).nfe
    assert error < 1e-3 < min(error for _, error in curves["heun"])
    assert [calls for calls, _ in curves["heun"]] == [3, 5]
    assert curves["heun"] != curves["heun (karras)"]


def test_a_solver_whose_states_are_not_finite_has_an_infinite_error(monkeypatch):
    module = importlib.import_module("scoresde.cli.report.paired")

    def explode(model, shape, solver, **options):
        if getattr(solver, "nfe", None) == 3:
            raise FloatingPointError("step 2")
        return ss.sample(model, shape, solver, **options)

    model = ss.ScoreModel(Exact(mixture().model(SDES["ddpm"])), SDES["ddpm"], "data", time="t")
    fine = module.fine_solve(model, (2,), range(4))
    monkeypatch.setattr(module, "sample", explode)
    curves = module.error_curves(model, fine, ["ddim"], (3, 4))
    assert curves["ddim"][0] == (3, float("inf"))
    assert 0 < curves["ddim"][1][1] < 1


class Exact(torch.nn.Module):
    """The exact data prediction of a mixture on a chain, as a network."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z, t):
        return self.model.data(z, t)


def test_the_diagnosis_of_an_exact_model_finds_nothing_and_the_density_of_the_data():
    chain = SDES["ddpm"]
    model = ss.ScoreModel(Exact(mixture().model(chain)), chain, "data", time="t")
    x = mixture().sample(300, generator())
    found = report.diagnose(model, x[:100], x[100:], bins=None)
    truth = mixture().log_prob(x[100:])
    flow, steps, limit = found.densities
    # The chain smooths the data by r = 0.01, of variance 1/500 of the narrowest mode's; one probe and 200 samples.
    assert abs(flow.nats - float(truth.mean())) < 0.02
    assert 1 < flow.stderr / (float(truth.std()) / 200**0.5) < 1.4  # the probe's noise comes on top of the data's
    for bound in (steps, limit):
        assert bound.nats - float(truth.mean()) < 5 * bound.stderr
        assert bound.bits_per_dim is None
    assert all(point.residual < 1e-3 and point.asymmetry < 1e-6 for point in found.field)
    # At the smallest noise the loss of the exact score is nearly that of none, and it falls towards t = 1.
    assert float(found.losses["held-out"].loss.mean[-1]) < float(found.losses["held-out"].zero.mean[-1])
    with pytest.raises(TypeError, match="a diagnosis is of a chain"):
        report.diagnose(ss.ScoreModel(networks.MLP(2), SDES["flow"], "velocity"), x, x, bins=None)


def test_a_diagnosis_counts_the_width_of_the_bins_once():
    """A wide Gaussian, seen in bins: log P is the log density plus log of the width for each coordinate, and so are its bounds."""
    chain, bins = SDES["ddpm"], 33
    wide = analytic.GaussianMixture(torch.zeros(1, 2), torch.tensor([0.09]))
    model = ss.ScoreModel(Exact(wide.model(chain)), chain, "data", time="t")
    x = ((wide.sample(400, generator()).clamp(-1, 1) + 1) * 16).round() / 16 - 1
    found = report.diagnose(model, x[:2], x, bins=bins)
    expected = float(wide.log_prob(x).mean()) + 2 * np.log(1 / 16)
    # 1/16 is a fifth of a standard deviation: the curvature within a bin costs w^2/(24 s^2) = 0.002 a coordinate.
    assert abs(found.densities[0].nats - expected) < 0.05
    assert found.densities[0].bits_per_dim == pytest.approx(-found.densities[0].nats / (2 * np.log(2)))
    assert found.densities[0].bits_stderr == pytest.approx(found.densities[0].stderr / (2 * np.log(2)))
