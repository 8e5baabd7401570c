"""Every Python block of the README and of the documentation runs, page by page and in order."""

from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.myst import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]
# Text and tables alone.
WITHOUT_BLOCKS = (
    "CONTRIBUTING.md", "index.md", "api.md", "benchmarks.md", "changelog.md", "choosing.md", "cli.md", "cli-reference.md", "fitted.md",
    "folder.md", "gallery.md", "glossary.md", "names.md", "negative.md", "scope.md",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import diffusers" in page.read_text():
        pytest.importorskip("diffusers")
    examples = list(Document.parse(str(page), PythonCodeBlockParser()).examples())
    assert examples or page.name in WITHOUT_BLOCKS
    for example in examples:
        example.evaluate()


def test_files_that_the_pages_name_exist():
    import re

    for page in PAGES:
        for name in re.findall(r"\b(?:tests|examples|scoresde|docs|benchmarks)/[\w/]+\.\w+", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_tests_that_the_pages_name_exist():
    import re

    for page in PAGES:
        for file, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
            assert f"def {test}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{test}"
