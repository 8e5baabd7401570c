"""The pages of the API have every public name."""

import re
from types import ModuleType

from docs.make_api import PACKAGES, home, public_names, summary, write


def homes():
    """Every public object, by the package that describes it and its name."""
    names = [(name, value) for package in PACKAGES for name, value in public_names(package).items()]
    return {f"{home(name, value)}.{name}" for name, value in names if not isinstance(value, ModuleType)}


def test_the_landing_page_links_every_name_and_every_package(tmp_path):
    write(tmp_path)
    page = (tmp_path / "api.md").read_text()
    assert re.findall(r"\]\(api/([\w.]+)\.md\)", page) == re.findall(r"^api/(.+)$", page, re.MULTILINE) == list(PACKAGES)
    assert set(re.findall(r"^\| \{py:\w+\}`\w+ <([\w.]+)>`", page, re.MULTILINE)) == homes()


def test_every_name_is_described_once(tmp_path):
    write(tmp_path)
    described = [
        name
        for package in PACKAGES
        for name in re.findall(
            r"^\.\. (?:autoclass|autofunction|autodata|py:data):: (\S+)", (tmp_path / "api" / f"{package}.md").read_text(), re.M
        )
    ]
    assert sorted(described) == sorted(homes())


def test_pages_of_packages_that_are_gone_are_removed(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "scoresde.gone.md").write_text("# gone")
    write(tmp_path)
    assert not (tmp_path / "api" / "scoresde.gone.md").exists()


def test_the_summary_is_the_first_sentence():
    def function():
        """The error of Heun et al. (1900) | a bar. A second.

        More.
        """

    assert summary(function) == "The error of Heun et al. (1900) \\| a bar."
    assert all(summary(value) for package in PACKAGES for value in public_names(package).values())
