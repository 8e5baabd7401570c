"""The page of a comparison: its numbers are computed here once more, and a browser shows all of it and asks nobody for anything."""

import dataclasses
import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde import networks
from scoresde.cli import app, commands, report
from scoresde.cli.report import paired
from scoresde.cli.report.distances import Yardstick
from scoresde.cli.report.paired import fine_solve, paired_error
from scoresde.train import Experiment

from ..conftest import SDES, generator, mixture

run = CliRunner()
TRAIN = ["--iterations", "4", "--batch-size", "8", "--width", "8", "--multipliers", "1", "--device", "cpu"]


class Exact(torch.nn.Module):
    """The exact data prediction of a mixture on a chain, as a network."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, z, t):
        return self.model.data(z, t)


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.open = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def exact():
    chain = SDES["ddpm"]
    return ss.ScoreModel(Exact(mixture().model(chain)), chain, "data", time="t")


@pytest.fixture(scope="module")
def compared(exact):
    x = mixture().sample(400, generator())
    entries = [report.Entry("ddim", 6), report.Entry("ancestral", 5), report.Entry("heun", 3, "karras")]
    return report.compare(
        exact, entries, x[200:], (x[:200], x[200:]), seeds=range(7, 307), batch_size=64, curve_nfe=(4,), progress=False
    )


def test_the_headline_is_the_distance_to_the_fine_solve(exact, compared):
    """Measured here once more, by other means: the moments of the squared distances of 256 seeds."""
    shape, seeds = (256, 2), range(7, 263)
    fine = ss.sample(exact, shape, "dpm++3m", steps=paired.FINE_STEPS, seeds=seeds)
    rows = Elements(
        report.html_page("a run", report.lead(compared), report.comparison_sections(Path("run"), EXPERIMENT, exact, compared))
    ).rows
    assert rows[0] == ["solver", "calls", "rms error", "95 % interval", "median", "n"]
    shown = {row[0]: row for row in rows[1:5]}
    for name, solver, options in (("ddim", "ddim", {"steps": 6}), ("heun (karras)", "heun", {"steps": 3, "grid": "karras"})):
        squares = (ss.sample(exact, shape, solver, seeds=seeds, **options) - fine).square().double().mean(1)
        rms, error = float(squares.mean().sqrt()), float(squares.std() / 16)
        _, calls, shown_rms, interval, median, n = shown[name]
        assert (calls, n) == (str({"ddim": 6, "heun (karras)": 5}[name]), "256")
        assert float(shown_rms) == pytest.approx(rms, rel=0.05)
        assert float(median) == pytest.approx(float(squares.sqrt().median()), rel=0.05)
        # By the central limit theorem for the mean square; the digits shown cost 5 %.
        low, high = ((float(squares.mean()) + sign * 1.96 * error) ** 0.5 for sign in (-1, 1))
        assert [float(end) for end in interval.split(" to ")] == pytest.approx([low, high], rel=0.12)
    assert shown["ancestral"][2:] == ["stochastic", "", "", ""]
    assert f"{shown['ddim'][4]} from the fine solve" in report.lead(compared)
    assert "n = 256 samples" in report.lead(compared)
    assert "interval" in report.lead(compared)
    assert f"rms {shown['ddim'][2]}" in report.lead(compared)


def test_an_outlier_does_not_make_the_headline(compared):
    """128 errors of 0.01 and one large one, against 128 of 0.03: the rms says the second, within its interval, and the median the first."""
    few, even, far = torch.full((128, 2), 0.01), torch.full((128, 2), 0.03), torch.full((128, 2), 1.0)
    few[5] = 0.4
    fine = dataclasses.replace(compared.fine, x=torch.zeros(128, 2))
    rows = [report.Entry(name, 8) for name in ("ddim", "heun", "dpm++2m")]
    found = dataclasses.replace(
        compared,
        entries=rows,
        rows=[{"NFE": 8}, {"NFE": 8}, {"NFE": 9}],
        fine=fine,
        paired={str(entry): paired_error(x, fine) for entry, x in zip(rows, (few, even, far), strict=True)},
    )
    said = report.lead(found)
    assert said.startswith("With 8 network calls, ddim is 0.010 from")
    assert "; heun 0.030 (rms 0.030, 95 % interval 0.030 to 0.030)" in said
    assert said.endswith("By rms heun is first: a few samples of ddim decide that.")
    assert "dpm++2m" not in said
    few[5] = 0.01
    alike = dataclasses.replace(found, paired=found.paired | {"ddim 8": paired_error(few, fine)})
    assert "By rms" not in report.lead(alike)


def test_the_interval_covers_the_rms_of_new_seeds(exact):
    """20 intervals of 100 seeds, against the rms over all 2000; a few large errors make such intervals hold in 91 % of cases."""
    fine = fine_solve(exact, (2,), range(2000), batch_size=2000)
    x = ss.sample(exact, (2000, 2), "ddim", steps=6, seeds=range(2000))
    whole, covered = paired_error(x, fine), 0
    for k in range(20):
        part = slice(100 * k, 100 * (k + 1))
        found = paired_error(x[part], dataclasses.replace(fine, x=fine.x[part]))
        assert found.low < found.rms < found.high < 2 * found.low
        covered += found.low < whole.rms < found.high
    assert covered >= 15


def test_the_floor_of_the_fine_solve_is_below_all_errors(compared):
    assert 0 < compared.fine.floor < 0.1 * min(error.rms for error in compared.paired.values())
    assert compared.fine.scale == pytest.approx(float((2 * compared.fine.x.var(0).mean()).sqrt()), rel=0.1)


def test_distances_are_shown_where_there_are_samples_enough():
    x = torch.randn(100, 1, 4, 4, generator=generator())
    few, many = Yardstick.of(x, (x[:50], x[50:]), 16), Yardstick.of(x, (x[:50], x[50:]), 17)
    assert few.no_frechet == "No Frechet distance: the smallest set has 16 samples in 16 dimensions, and 17 or more are needed."
    assert not many.no_frechet
    assert Yardstick.of(x, (x[:9], x[50:]), 60).no_frechet.startswith("No Frechet distance: the smallest set has 9 samples")
    assert Yardstick.of(x, (x[:3], x[50:]), 60).no_kernel.startswith("No kernel distance: the smallest set has 3 samples")
    assert few.no_kernel == "No kernel distance: the smallest set has 16 samples, and 20 or more are needed."
    assert not Yardstick.of(x, (x[:50], x[50:]), 20).no_kernel
    same, other = many.kernel(torch.randn(50, 1, 4, 4, generator=generator(1))), many.kernel(x[:50] + 1)
    assert abs(same.value) < 4 * same.stderr
    assert other.value > 5 * other.stderr


def test_the_kernel_distance_of_points_has_no_unit_and_noise_is_not_shown_as_a_number(exact):
    """Points in other units and around another mean have one kernel distance. Equal laws are not told apart."""
    x = mixture().sample(800, generator())

    def measured(x):
        yardstick = Yardstick.of(x[:400], (x[:400], x[400:]), 400)
        assert yardstick.name == "the coordinates"
        return yardstick.kernel(x[400:] * 1.5), yardstick.kernel_floor

    (far, floor), (scaled, same) = measured(x), measured(500 * x)
    assert scaled.value == pytest.approx(far.value, rel=1e-6)
    assert same.value == pytest.approx(floor.value, rel=1e-6)
    entry = report.Entry("ddim", 8)
    found = report.compare(exact, [entry], x[:400], (x[:400], x[400:]), seeds=range(100), curve_nfe=(), progress=False)
    (section,) = (
        s for s in report.comparison_sections(Path("run"), EXPERIMENT, exact, found) if s.title == "Distance to real data"
    )
    assert "Distances in the coordinates." in section.note
    assert "divided by its standard deviation" in section.note
    for value, cell in (
        (1.0, "1.0 ± 0.3"), (0.5, "within its error (0.3)"), (-5.0, "within its error (0.3)"),
    ):  # fmt: skip
        kernel = {str(entry): dataclasses.replace(far, value=value, stderr=0.3)}
        (section,) = (
            s
            for s in report.comparison_sections(Path("run"), EXPERIMENT, exact, dataclasses.replace(found, kernel=kernel))
            if s.title == "Distance to real data"
        )
        assert section.table.rows[0][3] == cell


def test_the_page_shows_no_distance_of_few_samples():
    model = ss.ScoreModel(networks.UNet(3, width=8), SDES["ddpm"], "data")
    x = torch.randn(40, 3, 8, 8, generator=generator())
    found = report.compare(model, [report.Entry("ddim", 2)], x, (x[:20], x[20:]), seeds=range(4), curve_nfe=(), progress=False)
    text = report.html_page("a run", report.lead(found), report.comparison_sections(Path("run"), EXPERIMENT, model, found))
    assert len([row for row in Elements(text).rows if row[0] == "ddim"]) == 1
    assert "No Frechet distance: the smallest set has 4 samples in 192 dimensions, and 193 or more are needed." in text
    assert "No kernel distance: the smallest set has 4 samples, and 20 or more are needed." in text
    assert "Frechet distance" not in found.rows[0]


EXPERIMENT = Experiment("digits", event=(1, 8, 8))


SECTIONS = {
    "compare": ["Error of each solver", "Samples", "Error against network calls", "Distance to real data", "The run", "Terms"],
    "report": [
        "Error of each solver", "Samples", "Error against network calls", "Distance to real data", "A bound for each sample",
        "Classes, with guidance", "Inpainting", "The run", "Terms",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A conditional run on digits, hardly trained."""
    out = tmp_path_factory.mktemp("run")
    train = ["train", "digits", "--out", str(out), "--prediction", "velocity", "--conditional", "--label-dropout", "0.2", *TRAIN]
    assert run.invoke(app, train, catch_exceptions=False).exit_code == 0
    return out


@pytest.fixture(scope="module", params=SECTIONS)
def page(folder, tmp_path_factory, request):
    """The name of a command and its page."""
    options = {
        "compare": ["--samples", "4", "--solver", "ddim:3", "--solver", "ancestral:3"],
        "report": ["--samples", "16", "--trajectories", "40"],
    }[request.param]
    out = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # Of an untrained network the fits and the reference solutions are poor, and they say so.
        warnings.simplefilter("ignore")
        # Short fits: how good they are is not what the page is tested for.
        patch.setattr(commands.report, "FITTED_CALLS", (3, 4))
        patch.setattr(commands.report, "REFINE", 0)
        result = run.invoke(app, [request.param, str(folder), "--out", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert "report.html" in result.output
    return request.param, out / "report.html"


def test_a_page_is_one_file(page):
    command, file = page
    text = file.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*)</h2>", text) == SECTIONS[command]
    for tag, attributes in Elements(text).tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert tag != "img" or attributes["alt"]
    assert "url(" not in text
    assert "@import" not in text


def test_every_term_that_a_page_explains_is_on_it(page):
    """And none but those: the words of a term are in the page before the terms, or in the label of a file of a fitted solver."""
    body, terms = page[1].read_text(encoding="utf-8").split("<h2>Terms</h2>")
    explained = re.findall(r"<dt>(.*?)</dt>", terms)
    assert "calls" in explained
    text = re.sub(r"<[^>]*>", " ", re.sub(r"data:[^\"]*", "", body)).lower()
    for term in explained:
        assert re.search(term.lower().removesuffix(" solver"), text), term


def test_a_classifier_that_is_often_wrong_judges_no_samples(monkeypatch):
    from scoresde.cli.report import showcase

    class Judge:
        """Right on the held-out samples up to a share."""

        def __init__(self, share):
            self.share = share

        def probabilities(self, x):
            label = torch.arange(len(x)) % 2
            wrong = torch.arange(len(x)) >= self.share * len(x)
            return torch.nn.functional.one_hot(torch.where(wrong, 1 - label, label), 2).float()

    monkeypatch.setattr(showcase, "sample", lambda model, shape, **_: torch.zeros(shape))
    model, held_out = (
        ss.ScoreModel(networks.UNet(1, width=8, classes=3), SDES["ddpm"], "data"),
        ss.data.Data(torch.zeros(100, 1, 8, 8), torch.arange(100) % 2),
    )
    doubtful, sure = (report.guided(model, Judge(share), held_out, 2, 4, 4).note for share in (0.57, 0.9))
    assert "57% of 100 held-out samples. That is below 80%, so that the column means little." in doubtful
    assert sure.endswith("90% of 100 held-out samples.")


@pytest.mark.filterwarnings("error")
def test_bounds_are_shown_without_a_tolerance_that_nobody_set(exact):
    """The data are wide: their bounds are far above 1, and nothing warns of it."""
    wide = ss.analytic.GaussianMixture(1000 * torch.tensor([[-1.0], [1.0]]), torch.full((2,), 100.0**2)).model(SDES["ddpm"])
    solver = ss.solvers.fit(wide, 2, shape=(1,), trajectories=16, reference_steps=256, refine=0, progress=False)
    section = report.bounds(wide, solver, fine_solve(wide, (1,), range(20)), 40, {})
    assert max(map(float, section.table.rows[0][1:])) > 1


def test_a_wheel_has_every_file_that_is_no_module():
    tomllib = pytest.importorskip("tomllib")
    package = Path(ss.__file__).parent
    declared = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["scoresde"]
    assert {p.relative_to(package).as_posix() for p in package.rglob("*.*") if p.suffix not in (".py", ".pyc")} == set(declared)


def browser(monkeypatch):
    """Chromium without a window; it may not look for a driver on the net."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-quic", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    monkeypatch.setenv("SE_OFFLINE", "true")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def test_a_browser_shows_all_and_asks_nobody(page, monkeypatch):
    driver = browser(monkeypatch)
    try:
        for width in (400, 1400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get(page[1].as_uri())
            assert driver.execute_script("return innerWidth") == width
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            widths = driver.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
            assert widths
            assert all(widths)
        assert driver.get_log("browser") == []
        messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = {m["params"]["request"]["url"].split(":")[0] for m in messages if m["method"] == "Network.requestWillBeSent"}
        assert urls <= {"file", "data"}
        assert "file" in urls
    finally:
        driver.quit()
