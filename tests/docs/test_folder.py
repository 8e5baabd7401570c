"""Every command of docs/howto/folder.md runs, with options after it that make it short: the last of an option counts."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from scoresde.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "folder.md"
SHORT = {
    "train": "--size 8 --held-out 40 --iterations 4 --batch-size 8 --width 8 --pictures 4 --device cpu",
    "sample": "--nfe 4 --count 4 --device cpu",
    "sample fitted": "--count 4 --device cpu",
    "compare": "--samples 4 --no-curves --device cpu",
    "fit": "--trajectories 8 --refine 0 --teacher-steps 16 --device cpu",
    "check": "--samples 40 --device cpu",
    "diagnose": "--samples 8 --device cpu",
}


def commands():
    """The lines of the shell blocks, with their continuations."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line.split() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.filterwarnings("ignore")  # of a network that is hardly trained
def test_every_command_of_the_page_runs(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for k in range(100):
        image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(f"photos/{k}.png")
    found = commands()
    assert {words[1] for words in found} == {"train", "sample", "compare", "fit", "check", "diagnose"}
    for words in found:
        assert words[0] == "scoresde"
        kind = "sample fitted" if words[1] == "sample" and "--solver" in words else words[1]
        result = CliRunner().invoke(app, [*words[1:], *SHORT[kind].split()], catch_exceptions=False)
        # `check` finds fault with a network of four iterations.
        assert result.exit_code == 0 or words[1] == "check", f"{' '.join(words)}: {result.output}"
    assert len(list((tmp_path / "drawn").rglob("*.png"))) == 4
    for name in ("samples.png", "fitted.png", "photos-8.safetensors", "runs/photos/fitted/compare.png", "runs/photos/diagnosis.md"):
        assert (tmp_path / name).exists(), name
