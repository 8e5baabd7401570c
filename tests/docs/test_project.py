"""What the files around the code say of the project is what pyproject.toml and the code say."""

import re
from pathlib import Path

import pytest

import scoresde

from ..test_floors import FLOORS, FRONT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version():
    cited = dict(re.findall(r'^(\w+): "?(.*?)"?$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert cited["version"] == scoresde.__version__
    assert cited["license"] == PROJECT["license"]
    assert cited["url"] == PROJECT["urls"]["Documentation"]
    assert cited["title"].startswith(f"{PROJECT['name']}: score-based generative models in PyTorch")


def test_the_map_has_every_floor():
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    mapped = {(int(floor), name.removeprefix("scoresde/")) for floor, cell in rows for name in re.findall(r"`(.*?)`", cell)}
    built = {(k, room) for k, floor in enumerate(FLOORS, 1) for room in floor}
    without = {(1, "deprecation"), (10, "legacy")} | {(k, room) for k, room in built if room in FRONT}  # modules, not folders
    assert mapped == built - without


def test_the_workflow_runs_what_make_runs_on_the_oldest_torch():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    makefile = (ROOT / "Makefile").read_text()
    for command in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "pytest -n auto",
        "sphinx-build -q -W --keep-going -b html docs docs/_build/html",
    ):
        assert command in runs, command
        assert f"$(BIN)/{command}" in makefile, command
    oldest = next(re.search(r"torch>=([\d.]+)", entry)[1] for entry in PROJECT["dependencies"] if entry.startswith("torch>"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert any(f"torch=={oldest}.*" in entry["install"] for entry in matrix["include"] if entry["torch"] == "oldest")
