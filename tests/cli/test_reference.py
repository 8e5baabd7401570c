"""The page of commands is the help of every command, and fits its width."""

import importlib.util
from pathlib import Path

import scoresde
from scoresde.cli import app

spec = importlib.util.spec_from_file_location("make_cli", Path(scoresde.__file__).parents[1] / "docs" / "make_cli.py")
make_cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_cli)


def test_every_command_and_every_option_is_on_the_page(tmp_path):
    make_cli.write(tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    group = make_cli.get_command(app)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "scoresde",
        *(f"scoresde {name}" for name in group.commands),
    ]
    sections = dict(zip(group.commands, text.split("\n## scoresde ")[1:], strict=True))
    for name, command in group.commands.items():
        assert all(option in sections[name] for parameter in command.params for option in parameter.opts if option.startswith("--"))
    assert max(map(len, text.split("```text\n", 1)[1].splitlines())) <= make_cli.WIDTH
