"""Names in the glossary are those of the library: objects exist, and names of solvers are accepted."""

import re
from pathlib import Path

import pytest

import scoresde as ss
from scoresde import diagnostics, grids, guidance, inverse, loops, losses, report, solvers, tableau, train

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
OBJECTS = {
    "ss": ss, "diagnostics": diagnostics, "grids": grids, "guidance": guidance, "inverse": inverse, "loops": loops, "losses": losses,
    "report": report, "solvers": solvers, "tableau": tableau, "train": train,
}  # fmt: skip


def test_every_object_exists():
    names = re.findall(r"`(\w+(?:\.\w+)+)`", PAGE)
    assert len(names) > 20
    for name in names:
        found = OBJECTS[name.split(".")[0]]
        for part in name.split(".")[1:]:
            found = getattr(found, part)


SOLVERS = re.findall(r'`"([^"]+)"`', PAGE.split("## Names of solvers")[1].split("\n## ")[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_exists(name):
    assert solvers.get(name)
