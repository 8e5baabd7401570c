"""Errors and warnings in the words of the command line: one line each, with options in place of arguments of Python.

Every command is a `Command`, so that none has to translate by itself.
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperCommand

from ..data import DataError

# What the package raises on purpose, the errors of files, those of torch for want of memory, and those of networks that users bring.
ERRORS = (
    ValueError, TypeError, DataError, OSError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError,
)  # fmt: skip
# Typer ends a command with these, which are errors of Python too.
ENDS = (typer.Exit, typer.Abort)
# Characters of a message. Torch adds its own traceback to some.
LONGEST = 600
# An option is suggested for another where their names are at least as similar as this: --step for --steps, and not --width for --fid.
SIMILAR = 0.75
# Of compare, where every solver has steps or calls of its own.
BUDGET = "--solver NAME:STEPS"
# What an option of other tools is called here, or one of a command in another: an option, an argument or a command.
ELSEWHERE = {
    **dict.fromkeys(("lr", "learning-rate-peak"), ("--learning-rate",)),
    **dict.fromkeys(("epochs", "num-epochs", "num-iterations", "max-steps", "train-steps"), ("--iterations",)),
    **dict.fromkeys(("amp", "mixed-precision"), ("--bfloat16", "--float16")),
    **dict.fromkeys(("fp16", "half"), ("--float16",)),
    "bf16": ("--bfloat16",),
    **dict.fromkeys(("image-size", "resolution"), ("--size",)),
    **dict.fromkeys(("flip", "random-flip", "hflip"), ("--mirrored",)),
    **dict.fromkeys(("cond", "condition", "class-conditional"), ("--conditional", "--label")),
    **dict.fromkeys(("class", "class-label", "classes"), ("--label", "--conditional")),
    **dict.fromkeys(("guidance-scale", "cfg", "cfg-scale"), ("--guidance",)),
    "num-samples": ("--count", "--samples"),
    "num-inference-steps": ("--steps", "--nfe", BUDGET),
    **dict.fromkeys(("calls", "nfe", "budget"), ("--nfe", BUDGET)),
    "steps": (BUDGET,),
    **dict.fromkeys(("sampler", "scheduler"), ("--solver",)),
    **dict.fromkeys(("output", "output-dir"), ("--out",)),
    "ema-decay": ("--ema",),
    "model": ("--network",),
    "channels": ("--width",),
    "objective": ("--prediction",),
    "loss": ("--weighting",),
    "noise-schedule": ("--process",),
    **dict.fromkeys(("dataset", "data", "data-dir"), ("DATA",)),
    **dict.fromkeys(("checkpoint", "ckpt"), ("RUN",)),
    "gpu": ("--device",),
    **dict.fromkeys(("batch", "bs"), ("--batch-size",)),
    **dict.fromkeys(("fid", "kid"), ("scoresde compare",)),
}
# Arguments of functions whose option has another name.
ARGUMENTS = {"reference_steps": "teacher_steps", "n": "count", "noises": "trajectories"}
# Arguments that are options of another command only.
OF_OTHERS = {"reference_steps": "scoresde fit --teacher-steps"}
# Where a program finds the names of all solvers.
LIST_OF_SOLVERS = "solvers.names() lists all"
# What only a program can give.
OF_PROGRAMS = re.compile(r" [(]or a tensor as grid=[)]| or a function of [(][a-z, ]+[)]")
# What follows the name of an argument at the beginning of a message.
VERBS = "must|needs|has|takes|drops"


class Refused(ValueError):
    """A command that cannot be carried out. Its text is one line for the user."""


class Command(TyperCommand):
    """A command whose errors are `Refused` and whose warnings are one line each on stderr."""

    def make_context(self, *arguments: Any, **options: Any) -> typer.Context:
        try:
            context: typer.Context = super().make_context(*arguments, **options)  # type: ignore[assignment]
        except ENDS:
            raise
        except ERRORS as error:  # of a file or a preset with options
            raise Refused(self.line(error)) from error
        except Exception as error:
            if getattr(error, "possibilities", None):
                error.possibilities = similar(error.option_name, error.possibilities)  # type: ignore[attr-defined]
            name = str(getattr(error, "option_name", "")).lstrip("-")
            own = {option for parameter in self.params for option in (*parameter.opts, parameter.metavar)} | {"scoresde compare"}
            own |= {f"{parameter.opts[0]} {parameter.metavar}" for parameter in self.params}
            if named := [option for option in ELSEWHERE.get(name, ()) if option in own]:
                error.possibilities = named  # type: ignore[attr-defined]
            raise
        return context

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = self._show_warning
            try:
                return super().invoke(ctx)
            except ENDS:
                raise
            except ERRORS as error:
                raise Refused(self.line(error)) from error

    def line(self, message: object) -> str:
        """An error or a warning in one line."""
        line = self.in_words(" ".join(str(message).split()))
        if isinstance(message, MemoryError) or (isinstance(message, RuntimeError) and "allocate" in line):
            line = f"not enough memory, some number is too large: {line}"
        return line[:LONGEST]

    def in_words(self, text: str) -> str:
        """A text with the options of this command in place of arguments: `--steps 7` for steps=7, `--nfe` for nfe=.

        A name that may be a word of English too, such as `network`, is an argument where it has a value, differs between two runs, or begins
        a sentence. A name with an underscore is none.
        """
        options = {parameter.name: parameter.opts[0] for parameter in self.params if parameter.opts[0].startswith("--")}
        negative = {parameter.name: parameter.secondary_opts[0] for parameter in self.params if parameter.secondary_opts}
        options |= {argument: options[name] for argument, name in ARGUMENTS.items() if name in options}
        options = OF_OTHERS | options
        text = OF_PROGRAMS.sub("", text).replace(LIST_OF_SOLVERS, "scoresde sample --help lists all")
        for name, option in options.items():
            text = re.sub(rf"(^|: )(recipe\.)?{name}(?= ({VERBS})\b)", rf"\1{option}", text)
            if name in negative:
                text = re.sub(rf"(?<![\w.-]){name}=False\b", negative[name], text)
            text = re.sub(rf"(?<![\w.-]){name}=(True\b|(?=$|[\s,.;:)]))", option, text)
            text = re.sub(rf"(?<![\w.-]){name}='?([^\s,;:')]*)'?", rf"{option} \1", text)
            text = re.sub(rf"(?<![\w./-])(recipe\.)?{name}(?=: [^:]* there, )", option, text)
            if "_" in name:
                text = re.sub(rf"(?<![\w./-])(recipe\.)?{name}\b", option, text)
        return text

    def _show_warning(self, message: Warning | str, *_where: Any, **_more: Any) -> None:
        # Warnings of torch's C++ end in the place that they come from.
        print(f"scoresde: warning: {re.sub(r' [(]Triggered internally at .*', '', self.line(message))}", file=sys.stderr)


def similar(option: str, options: list[str]) -> list[str]:
    """The options whose names are close to a wrong one. Their dashes do not count."""
    names = {name.lstrip("-"): name for name in options}
    return [names[name] for name in difflib.get_close_matches(option.lstrip("-"), names, cutoff=SIMILAR)]
