"""What the how-to guides say beyond what their blocks run."""

from pathlib import Path

import pytest
import torch
from sybil import Document
from sybil.parsers.myst import PythonCodeBlockParser

import scoresde as ss
from scoresde.interop import formats

HOWTO = Path(__file__).parents[2] / "docs" / "howto"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Blocks write files."""
    monkeypatch.chdir(tmp_path)


def names_of(page):
    """The names that a page has defined after its last block."""
    document = Document.parse(str(HOWTO / page), PythonCodeBlockParser())
    for example in document.examples():
        example.evaluate()
    return document.namespace


def test_every_row_of_the_flow_page_reads_its_network():
    found = names_of("flow.md")
    exact = found["exact"]

    class Network(torch.nn.Module):
        def __init__(self, sign, noise_at):
            super().__init__()
            self.sign, self.noise_at = sign, noise_at

        def forward(self, z, t):
            return self.sign * exact.velocity(z, t if self.noise_at == 1 else 1 - t)

    rows = [
        formats.velocity(Network(1, 1), direction="data_to_noise"),
        formats.velocity(Network(-1, 0), direction="noise_to_data"),
        ss.ScoreModel(Network(1, 0), ss.RectifiedFlow(), "velocity", time=found["remaining"]),
        ss.ScoreModel(Network(-1, 1), ss.RectifiedFlow(), found["Direction"](found["plus"], found["minus"])),
    ]
    z = torch.randn(8, 2, dtype=torch.float64)
    for model in rows:
        torch.testing.assert_close(model.data(z, 0.6), exact.data(z, 0.6), rtol=0, atol=1e-5)
