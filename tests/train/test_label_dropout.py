"""Labels that are left out in training, for guidance."""

import pytest
import torch

import scoresde as ss
from scoresde import losses, networks
from scoresde.train import Recipe, Trainer

from ..conftest import SDES, generator


def trainer(folder=None, classes=2, **options):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(3, width=8, classes=classes), SDES["ddpm"])
    x, label = torch.randn(400, 3, generator=generator()), torch.arange(400) % 2
    recipe = Recipe(iterations=12, batch_size=100, warmup=3, validate_every=6, save_every=4, **options)
    return Trainer(
        model,
        x,
        recipe,
        cond={"label": label} if classes else {},
        held_out=x[:10],
        held_out_cond={"label": label[:10]} if classes else {},
        folder=folder,
    )


def seen(monkeypatch, **options):
    """The labels of every training step."""
    labels, denoising = [], losses.denoising

    def watched(model, x, *args, **cond):
        if len(x) == 100:
            labels.append(cond["label"].clone())
        return denoising(model, x, *args, **cond)

    monkeypatch.setattr(losses, "denoising", watched)
    trainer(**options).run(progress=False)
    return torch.stack(labels)


def test_the_share_of_labels_that_are_left_out_is_the_recipes(monkeypatch):
    labels = seen(monkeypatch, label_dropout=0.3)
    # 1200 labels: a standard error of sqrt(.3 .7/1200) = .013.
    assert float((labels == -1).double().mean()) == pytest.approx(0.3, abs=5 * 0.0133)
    assert len({tuple(row.tolist()) for row in labels == -1}) == len(labels)
    assert torch.equal(labels, seen(monkeypatch, label_dropout=0.3))
    assert bool((seen(monkeypatch) >= 0).all())
    assert bool((seen(monkeypatch, label_dropout=1.0) == -1).all())


def test_a_run_with_label_dropout_goes_on_to_the_same_weights(tmp_path):
    whole = trainer(label_dropout=0.4).run(progress=False)
    first = trainer(tmp_path, label_dropout=0.4)
    for _ in range(4):
        first._iterate(lambda *_: None)
    again = trainer(tmp_path, label_dropout=0.4)
    assert again.iteration == 4
    again.run(progress=False)
    for a, b in zip(whole.parameters(), again.averaged.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="label_dropout"):
        trainer(tmp_path, label_dropout=0.2)
    assert "label_dropout" not in Recipe().entries()


def test_it_needs_labels_and_a_network_that_knows_none():
    with pytest.raises(ValueError, match="label_dropout needs the condition label"):
        trainer(classes=None, label_dropout=0.1)
    with pytest.raises(ValueError, match=r"label_dropout must lie in \[0, 1\]"):
        Recipe(label_dropout=1.5)
