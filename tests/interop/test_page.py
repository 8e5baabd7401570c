"""The table of pipelines in docs/interop.md is what the pipelines do.

`python -m tests.interop.test_page` writes it.
"""

import functools
import inspect
from dataclasses import replace
from pathlib import Path

import torch

from . import tiny
from .cases import CASES, run, with_solver

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- pipelines: written by tests/interop/test_page.py -->\n", "<!-- end of pipelines -->"
FROM_IMAGES = {
    "StableDiffusionImg2ImgPipeline": {"image": torch.zeros(2, 4, 8, 8), "strength": 1.0},
    "StableDiffusionInpaintPipeline": {
        "image": torch.zeros(1, 3, 16, 16), "mask_image": torch.ones(1, 1, 16, 16), "strength": 1.0
    },
}  # fmt: skip


def all_cases():
    """The cases that are compared with `sample`, with pipelines that start from images."""
    yield from CASES.values()
    text = CASES["StableDiffusion"]
    for kind, call in FROM_IMAGES.items():
        yield replace(text, make=functools.partial(tiny.stable_diffusion, kind), call=text.call | call)


def row(case):
    """What a pipeline reads of its scheduler and passes to it, seen in a run."""
    pipe = with_solver(case.make(), "ancestral", grid="trailing", seed=0)
    given = set()
    step = pipe.scheduler.step

    @functools.wraps(step)
    def watched(*args, generator=None, **options):
        given.add(generator is not None)
        return step(*args, generator=generator, **options)

    pipe.scheduler.step = watched
    run(case, pipe, 3)
    scheduler = pipe.scheduler
    noise = "`generator=`" if given == {True} else "`seed=`"
    late = (
        "yes" if scheduler._start_is_scaled or scheduler._start_is_noised
        else "`scaled_noise=True`" if "latents" in inspect.signature(type(pipe).__call__).parameters
        else "no"
    )  # fmt: skip
    return type(pipe).__name__, noise, late


def table():
    header = ("pipeline", "noise of a stochastic solver", "late first call")
    rows = [header, ("---",) * len(header), *map(row, all_cases())]
    return "\n".join(["", *(f"| {' | '.join(cells)} |" for cells in rows), "\n"])


def around():
    """The page before and after the table, and the table."""
    before, rest = PAGE.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


@tiny.needs_transformers
def test_the_page_has_the_table():
    assert around()[1] == table(), "renew with `python -m tests.interop.test_page`"


if __name__ == "__main__":
    before, _, after = around()
    PAGE.write_text(before + BEGIN + table() + END + after)
