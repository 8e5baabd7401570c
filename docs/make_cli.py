"""docs/cli-reference.md from the help of every command. conf.py calls `write` in every build; the page is not committed.

The text is that of `scoresde COMMAND --help` at 88 columns, so that the page and the terminal never differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command

from scoresde.cli import app

WIDTH = 88
INTRODUCTION = """# Command reference

What `--help` prints, command by command. [The command line](cli.md) shows how they are used.
"""


def page() -> str:
    """The whole page."""
    group: Any = get_command(app)
    parts = [INTRODUCTION, "## scoresde", block(help_of(group, "scoresde"))]
    for name, command in group.commands.items():
        parts += [f"## scoresde {name}", block(help_of(command, f"scoresde {name}"))]
    return "\n\n".join(parts) + "\n"


def help_of(command: Any, name: str) -> str:
    """The help of a command, as a terminal of this width shows it."""
    with command.context_class(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH) as context:
        return str(command.get_help(context))


def block(text: str) -> str:
    """A literal block."""
    return f"```text\n{text}\n```"


def write(path: Path) -> None:
    """Write the page where it has changed."""
    text = page()
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    write(Path(__file__).with_name("cli-reference.md"))
