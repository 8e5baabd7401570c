"""What the pages say of a run: its process, and what its densities are of."""

import pytest

from scoresde.cli.report.diagnosis import DensityEstimate, Diagnosis
from scoresde.cli.report.page import density_table, markdown
from scoresde.cli.report.sections import about
from scoresde.diagnostics.range import SampleRange
from scoresde.train import Experiment


@pytest.mark.parametrize(
    ("process", "said"), [("flow", "flow"), ("edm", "edm"), ("blur", "blur"), ("cosine", "cosine chain of 500 steps")]
)
def test_only_a_chain_has_a_length(tmp_path, process, said):
    experiment = Experiment("digits", process=process, steps=500, event=(1, 8, 8), held_out=5, classes=10)
    page = markdown(tmp_path, experiment, "", "", False)
    assert f"(5 samples held out): {said},\n" in page
    facts = about(tmp_path, experiment, experiment.model()).facts
    assert facts["process"] == said


@pytest.mark.parametrize(("given", "said"), [((), ""), (("label",), " Each is of a sample given its label.")])
def test_densities_that_are_given_a_label_say_so(given, said):
    found = Diagnosis({}, [], [DensityEstimate("ELBO", -3.0, 0.1, None, None)], SampleRange(-1, 1, -1, 1, 0, 0, 1), 9, given)
    _, note = density_table(found, None)
    assert f"Log densities in the units of the data.{said} Range," in note
