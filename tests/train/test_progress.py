"""What a run says, without a terminal and with one."""

import re

import pytest
import torch

import scoresde as ss
from scoresde import networks
from scoresde.train import Recipe, Trainer
from scoresde.train import progress as progress_module
from scoresde.train.progress import duration, progress


def trainer(iterations, validate_every, held_out=True):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(2, width=8), ss.VPSDE.cosine(50))
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(iterations=iterations, batch_size=8, validate_every=validate_every)
    return Trainer(model, x, recipe, held_out=x if held_out else None)


def test_without_a_terminal_there_are_lines_in_words(capsys):
    made = trainer(30, 15)
    made.run()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"iteration {i} of 30" for i in (1, 10, 15, 30)]
    row = made.history[0]
    said = f"loss {row['loss']:.3g}, held-out {row['validation']:.3g} (predicting zero: {row['zero']:.2f})"
    assert re.fullmatch(rf"iteration 15 of 30: {re.escape(said)}, \d+ samples/s, \d+ s left", lines[2])
    assert lines[3].endswith("samples/s")
    made.run()
    trainer(3, 3).run(progress=False)
    assert capsys.readouterr().out == ""


def test_there_is_a_line_a_minute(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with progress(True, 100, 1000) as tell:
        for i in range(101, 400):
            now[0] += 2
            row = {"validation": 0.25, "zero": 1.0} if i == 150 else None
            tell(i, 0.5, 1e-3, 55.4, 130.0, row)
    said = {int(line.split()[1]): line for line in capsys.readouterr().out.splitlines()}
    assert list(said) == [101, 110, 140, 150, 180, 210, 240, 270, 300, 330, 360, 390]
    assert said[140] == "iteration 140 of 1000: loss 0.5, 55 samples/s, 2 min left"
    assert said[180] == "iteration 180 of 1000: loss 0.5, held-out 0.25 (predicting zero: 1.00), 55 samples/s, 2 min left"


def test_on_a_terminal_there_is_a_bar_and_a_line_a_validation(capsys, monkeypatch):
    monkeypatch.setattr(progress_module.sys.stderr, "isatty", lambda: True)
    trainer(30, 15, held_out=False).run()
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["iteration 15 of 30", "iteration 30 of 30"]
    assert "held-out" not in out
    assert "30/30" in err


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36_000, "10.0 h")]
)
def test_times_have_the_unit_that_suits_them(seconds, said):
    assert duration(seconds) == said
