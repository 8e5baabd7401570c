"""What `scoresde diagnose` says of its numbers."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scoresde as ss
from scoresde import analytic
from scoresde.cli import app
from scoresde.cli.report import Field, verdicts
from scoresde.cli.report.diagnosis import _field
from scoresde.diagnostics.by_time import Curve

run = CliRunner()
T = torch.tensor([0.1, 0.5, 1.0])


def curve(*means, stderr=0.01):
    return Curve(T, torch.tensor(means), torch.full((3,), stderr))


def diagnosis(*, residual=0.01, asymmetry=0.01, held_out=(0.2, 0.3, 0.4), samples=500):
    field = [Field(0.1, residual / 2, asymmetry / 2), Field(0.7, residual, asymmetry)]
    losses = {
        "training": SimpleNamespace(loss=curve(0.2, 0.3, 0.4)),
        "held-out": SimpleNamespace(loss=curve(*held_out), zero=curve(1.0, 1.0, 1.0)),
    }
    return SimpleNamespace(field=field, losses=losses, samples=samples)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({}, ["at most 0.01, at t = 0.7. Nearly a gradient", "belong to one density that diffuses", "agree within their errors"]),
        ({"asymmetry": 0.3}, ["Not quite a gradient: there 9% of the squared Jacobian"]),
        ({"asymmetry": 0.7}, ["No gradient: there 49%"]),
        (
            {"residual": 0.5},
            [
                "at most 0.5 of the larger of ds/dt and f s, at t = 0.7. The scores of neighbouring times do not quite belong together"
            ],
        ),
        ({"residual": 1.2}, ["The scores of neighbouring times do not belong together"]),
        ({"held_out": (0.2, 1.0, 1.2)}, ["at t = 0.5 to 1 the network is no better than one that returns 0"]),
        ({"held_out": (0.2, 0.3, 0.5)}, ["at 1 of 3 times, by more than 3 standard errors: the network has memorised"]),
        ({"held_out": (0.2, 0.3, 0.42)}, ["agree within their errors"]),
        # Nobody can tell the noise at the first time.
        ({"held_out": (1.0, 0.3, 0.42)}, ["at 1 of 3 times, by more than 3 standard errors"]),
        ({"samples": 99}, ["Few samples: 99 held out."]),
    ],
)
def test_numbers_have_a_verdict(numbers, said):
    text = "\n".join(verdicts(diagnosis(**numbers)))
    for part in said:
        assert part in text
    assert ("Few samples" in text) == ("samples" in numbers)


def test_the_residual_of_an_exact_model_with_errors_is_small_at_the_prior():
    """At t = 1 the score hardly changes. An error of 1 % of the score is small there, as it is elsewhere."""
    chain = ss.VPSDE.from_betas(torch.linspace(1e-3, 0.2, 100, dtype=torch.float64))
    exact = analytic.GaussianMixture(torch.tensor([[-0.5, 0.0], [0.5, 0.3]]), torch.tensor([0.3, 0.4])).model(chain)

    class Rough(torch.nn.Module):
        def forward(self, z, t):
            return exact.noise(z, t) + 0.01 * torch.sin(3 * z)

    model = ss.ScoreModel(Rough(), chain, "noise", time="t")
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = _field(model, chain, x, torch.Generator().manual_seed(1), {})
    assert field[-1].t > 0.99
    assert field[-1].residual < 0.2


def test_the_command_prints_and_keeps_them(tmp_path):
    few = ["--iterations", "2", "--batch-size", "8", "--width", "8", "--held-out", "20", "--device", "cpu"]
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 2)))
    chain, edm = (str(tmp_path / name) for name in ("chain", "edm"))
    for folder, process in ((chain, "linear"), (edm, "edm")):
        assert run.invoke(app, ["train", str(tmp_path / "x.npy"), "--out", folder, "--process", process, *few]).exit_code == 0
    result = run.invoke(app, ["diagnose", chain, "--samples", "8"], catch_exceptions=False)
    page = (tmp_path / "chain" / "diagnosis.md").read_text()
    for text in (result.output, page):
        assert re.search(r"Asymmetry of the Jacobian: at most [0-9.e-]+, at t = [0-9.e-]+\.", text)
        assert "Few samples: 8 held out" in text
    # Hardly trained: the network does not know more than 0.
    assert "no better than one that returns 0" in result.output
    with pytest.raises(ValueError, match=r"is on EDM.*: diagnose takes chains"):
        run.invoke(app, ["diagnose", edm], catch_exceptions=False)
