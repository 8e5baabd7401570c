"""`scoresde audit`, and what names and files are read."""

import itertools
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import scoresde as ss
from scoresde import audit, solvers
from scoresde.cli import app

from ..conftest import mixture

run = CliRunner()
OWN = """
def euler(denoiser, z, sigmas, shift=1.0):
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        z = z + (t - s) / s * (z - denoiser(z, shift * s.expand(len(z))))
    return z
"""


def test_a_function_of_a_file_ends_with_the_exit_code_of_its_verdict(tmp_path):
    """In a process of its own, as a CI job runs it: the module is in the working directory."""
    (tmp_path / "own.py").write_text(OWN)

    def command(*options):
        return subprocess.run(
            [sys.executable, "-m", "scoresde", "audit", "own:euler", "--order", "1", "--calls-per-step", "1", *options],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    sound = command("--out", "found")
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "| order | holds | order 1.00" in sound.stdout
    assert {file.name for file in (tmp_path / "found").iterdir()} == {"audit.md", "audit.json", "audit.png"}
    (found,) = json.loads((tmp_path / "found" / "audit.json").read_text())
    assert found["findings"]["order"]["numbers"]["order"] == pytest.approx(1, abs=0.05)
    broken = command("--option", "shift=0.8")
    assert broken.returncode == 1
    assert "broken: own:euler: " in broken.stdout
    assert "point mass" in broken.stdout.splitlines()[-1]


def test_a_file_may_be_in_a_folder(tmp_path, monkeypatch):
    """Its folder can be imported from, as when Python runs it."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside_audited.py").write_text("SCALE = 1.0\n")
    (tmp_path / "code" / "audited.py").write_text("from beside_audited import SCALE\n" + OWN)
    monkeypatch.chdir(tmp_path)
    assert audit.sampler_of("code/audited.py:euler").name == "code/audited.py:euler"
    for text in ("code/other.py:euler", "code/audited.py:heun"):
        with pytest.raises(ValueError, match=text):
            audit.sampler_of(text)


def test_wrong_arguments_are_one_line():
    for arguments, message in (
        (["dpm+++2m"], "no solver is called"),
        (["json:dumps"], "a sampler is a function"),
        (["own:missing"], "own:missing"),
        (["json:loads", "--option", "novalue"], "must be NAME=VALUE"),
    ):
        result = run.invoke(app, ["audit", *arguments])
        assert isinstance(result.exception, ValueError | TypeError)
        assert message in str(result.exception)


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.RectifiedFlow()], ids=repr)
def test_a_fitted_solver_is_audited_on_its_own_levels(tmp_path, sde):
    """Also on a flow, which starts at an infinite level."""
    model = mixture().model(sde)
    fitted = solvers.fit(model, 5, shape=(2,), trajectories=64, refine=0, progress=False)
    fitted.save(tmp_path / "fit.safetensors")
    found = audit.run(tmp_path / "fit.safetensors")
    assert found.findings["calls"].numbers["calls"] == 5
    assert found.findings["linear"].verdict == "holds"
    assert "order" not in found.findings
    # What few calls leave is their error, and no fault; there is no order where there is one number of steps.
    assert found.broken == []
    assert found.findings["noise left"].verdict == "note"
    assert "the error of so few calls" in found.findings["noise left"].text
    assert "inf" not in found.findings["point mass"].text
    assert "the error of so few calls" in found.findings["point mass"].text


def test_a_sampler_of_comfy_is_an_object_with_its_function():
    class KSampler:
        extra_options = {"weight": 0.5}  # noqa: RUF012

        def sampler_function(self, model, x, sigmas, extra_args=None, callback=None, disable=None, weight=1.0):
            assert float(model.inner_model.model_sampling.sigma_max) == pytest.approx(float(sigmas[0]))
            for s, t in itertools.pairwise(sigmas):
                x = x + weight * 2 * (t - s) / s * (x - model(x, s.expand(len(x))))
            return x

    assert audit.run(KSampler(), order=1).findings["order conditions"].verdict == "holds"


def test_the_command_line_describes_itself():
    result = run.invoke(app, ["audit", "--help"])
    assert result.exit_code == 0
    assert "exit code 1" in " ".join(result.output.split())


def test_a_class_of_solvers_is_audited_as_its_object():
    named, of_class = audit.sampler_of("ddim"), audit.sampler_of("scoresde.solvers:DDIM")
    assert of_class.order == named.order == 1
    assert audit.run(solvers.DDIM).findings["order"].numbers == audit.run("ddim").findings["order"].numbers


@pytest.mark.parametrize(("option", "value"), [("--order", 3), ("--calls-per-step", 5), ("--option", "foo=1")])
def test_claims_are_refused_for_what_says_its_own(option, value):
    with pytest.raises(ValueError, match=r"--.*: ddim says its own order, calls and options; claims are for MODULE:NAME"):
        run.invoke(app, ["audit", "ddim", option, str(value)], catch_exceptions=False)
