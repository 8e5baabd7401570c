"""What goes to stderr: options in place of arguments of Python, one line for a warning, and a hint only where it is close."""

import os
import re
import subprocess
import sys
import warnings

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import scoresde as ss
from scoresde.cli import app, main, messages

COMMANDS = get_command(app).commands


@pytest.mark.parametrize(
    ("command", "said", "shown"),
    [
        ("sample", "give steps= or nfe=, one of the two (or a tensor as grid=)", "give --steps or --nfe, one of the two"),
        ("sample", "steps=10, but the grid has 4 intervals", "--steps 10, but the grid has 4 intervals"),
        ("sample", "more than nfe=3. Then", "more than --nfe 3. Then"),
        ("fit", "off (reference_steps=64): give reference_steps=128 or more", "off (--teacher-steps 64): give --teacher-steps 128 or more"),
        ("report", "another. Give reference_steps=512 or more; if", "another. Give scoresde fit --teacher-steps 512 or more; if"),
        ("sample", "called 'foo': solvers.names() lists all, and", "called 'foo': scoresde sample --help lists all, and"),
        ("train", "held_out must be at least 1", "--held-out must be at least 1"),
        (
            "train",
            "recipe.label_dropout drops class labels: set conditional=True",
            "--label-dropout drops class labels: set --conditional",
        ),
        ("convert", "give clip=False to sample without, or clip=True", "give --no-clip to sample without, or --clip"),
        ("train", "the network has no weights", "the network has no weights"),
        ("train", "recipe.held_out is 5", "--held-out is 5"),
        ("train", "/tmp/held_out/x.npy has 3 steps, steps=10", "/tmp/held_out/x.npy has 3 steps, --steps 10"),
        (
            "train",
            "(width: 8 there, 16 here, network: unet there, dit here)",
            "(--width: 8 there, 16 here, --network: unet there, dit here)",
        ),
        ("train", "size='x' or held_out=N", "--size x or --held-out N"),
        ("train", "--steps must be 3", "--steps must be 3"),
        ("compare", "make the steps larger; steps=3 or t_steps=4", "make the steps larger; steps=3 or t_steps=4"),
    ],
)  # fmt: skip
def test_arguments_are_said_as_options(command, said, shown):
    assert COMMANDS[command].line(said) == shown


def test_a_message_is_one_line_and_not_a_page():
    line = COMMANDS["train"].line(MemoryError("no\n  more " + "x" * 1000))
    assert line.startswith("not enough memory, some number is too large: no more xxx")
    assert len(line) == messages.LONGEST


@pytest.mark.parametrize(
    ("command", "wrong", "hint"),
    [("train", "--wandering", None), ("train", "--learnin-rate", "--learning-rate"), ("sample", "--step", "--steps"),
     ("sample", "--bach-size", "--batch-size"), ("train", "--lr", "--learning-rate"), ("train", "--amp", "--bfloat16"),
     ("train", "--epochs", "--iterations"), ("train", "--image-size", "--size"), ("train", "--fid", "scoresde compare"),
     ("sample", "--class", "--label"), ("sample", "--guidance-scale", "--guidance"), ("fit", "--class", None),
     ("train", "--data", "DATA"), ("check", "--data", None), ("fit", "--ckpt", "RUN"), ("train", "--batch", "--batch-size"),
     ("train", "--cond", "--conditional"), ("sample", "--cond", "--label"), ("fit", "--calls", "--nfe"), ("sample", "--calls", "--nfe"),
     ("compare", "--nfe", "--solver NAME:STEPS"), ("compare", "--steps", "--solver NAME:STEPS"), ("check", "--nfe", None)],
)  # fmt: skip
def test_a_hint_is_close_or_there_is_none(capsys, monkeypatch, command, wrong, hint):
    monkeypatch.setattr(sys, "argv", ["scoresde", command, wrong, "3"])
    with pytest.raises(SystemExit) as exit_:
        main()
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert f"No such option: {wrong}" in error
    assert bool(re.search(rf"[( ]{hint}[,)?]", error)) if hint else "Possible" not in error and "mean" not in error


def test_every_hint_is_an_option_or_a_command():
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    hints = {hint for hints in messages.ELSEWHERE.values() for hint in hints}
    assert hints <= known | {"DATA", "RUN", "--solver NAME:STEPS"} | {f"scoresde {name}" for name in COMMANDS}
    # What an option is called here needs no hint, but in compare, where the steps are those of each solver.
    assert {"--steps"} == {f"--{name}" for name in messages.ELSEWHERE} & {
        option for parameter in COMMANDS["train"].params for option in parameter.opts
    }


def test_an_end_is_no_error(capsys, monkeypatch):
    made = typer.Typer(rich_markup_mode=None, add_completion=False)

    @made.command(cls=messages.Command)
    def ended() -> None:
        raise typer.Exit(1)

    for program, words, code in ((main, ["sample", "--help"], 0), (made, [], 1)):
        monkeypatch.setattr(sys, "argv", ["scoresde", *words])
        with pytest.raises(SystemExit) as exit_:
            program()
        assert exit_.value.code == code
        assert capsys.readouterr().err == ""


def test_a_warning_is_one_line_without_a_place(capsys, monkeypatch):
    made = typer.Typer(rich_markup_mode=None, add_completion=False)

    @made.command(cls=messages.Command)
    def warned(steps: int = 3) -> None:
        warnings.warn("too few:\n  give steps=20 (Triggered internally at /somewhere/x.cpp:3.)", stacklevel=1)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("always")
        patch.setattr(sys, "argv", ["made"])
        with pytest.raises(SystemExit):
            made()
    assert capsys.readouterr().err == "scoresde: warning: too few: give --steps 20\n"


def scoresde(*arguments, **environment):
    command = [sys.executable, "-m", "scoresde", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_what_is_no_sampler_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scoresde", "audit", "scoresde.grids:names"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("scoresde: a sampler is a function f(denoiser, z, sigmas)")


def test_version_and_completion():
    assert CliRunner().invoke(app, ["--version"]).output == f"scoresde {ss.__version__}\n"
    page = CliRunner().invoke(app, ["--help"], prog_name="scoresde").output
    assert "--install-completion" in page
    assert "--show-completion" in page
    script = scoresde("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    # The name of the program, however it was started.
    assert script.strip().endswith("complete -o default -F _scoresde_completion scoresde")
    typed = {"COMP_WORDS": "scoresde sample run --solver dpm++", "COMP_CWORD": "4", "_SCORESDE_COMPLETE": "complete_bash"}
    assert scoresde(**typed).stdout.split() == [name for name in ss.sampling.names() if name.startswith("dpm++")]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_in_one_line_of_a_narrow_terminal(name):
    text = COMMANDS[name].get_short_help_str(limit=80 - len("  diagnose  ") - 2)
    assert not text.endswith("..."), text
