"""A loss of the user's own in the trainer."""

import pytest
import torch

import scoresde as ss
from scoresde import losses, networks
from scoresde.train import Recipe, Trainer

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


def sliced(model, x, generator):
    """Sliced score matching at times of its own."""
    t = torch.rand(len(x), generator=generator)
    z = model.sde.alpha(t)[:, None] * x + model.sde.sigma(t)[:, None] * torch.randn(x.shape, generator=generator)
    return losses.sliced(model, z, t, generator=generator)


def plain(model, x, generator, **cond):
    t = losses.times.uniform(model.sde, len(x), generator)
    return losses.denoising(model, x, t=t, generator=generator, **cond)


def trainer(loss, folder=None, cond=None, accumulate=1, **recipe):
    torch.manual_seed(0)
    model = ss.ScoreModel(networks.MLP(2, 16, classes=2 if cond else None), ss.VPSDE(), "score")
    recipe = Recipe(**{"iterations": 6, "batch_size": 8, "validate_every": 3, "save_every": 3, "warmup": 1} | recipe)
    return Trainer(
        model, X, recipe, cond=cond, held_out=X[:10], held_out_cond=cond and {"label": cond["label"][:10]}, folder=folder,
        accumulate=accumulate, loss=loss,
    )  # fmt: skip


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("loss", [sliced, plain])
def test_a_loss_of_ones_own_trains_validates_and_goes_on(tmp_path, loss, accumulate):
    whole = trainer(loss, accumulate=accumulate)
    before = weights(whole.model)
    whole.run(progress=False)
    assert not torch.equal(weights(whole.model), before)
    assert [sorted(row) for row in whole.history] == [["iteration", "loss", "validation"]] * 2

    def stop(made, row):
        if made.iteration == 6:
            raise KeyboardInterrupt

    broken = trainer(loss, tmp_path, accumulate=accumulate)
    broken.callbacks = (stop,)
    with pytest.raises(KeyboardInterrupt):
        broken.run(progress=False)
    resumed = trainer(loss, tmp_path, accumulate=accumulate)
    assert resumed.iteration == 3
    resumed.run(progress=False)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.history == whole.history


def test_it_gets_the_samples_of_the_batch_their_conditions_and_a_seeded_generator():
    seen = []

    def loss(model, x, generator, label):
        seen.append((x, label, generator.initial_seed()))
        return losses.denoising(model, x, generator=generator, label=label)

    label = (torch.arange(40) % 2).long()
    for _ in range(2):
        trainer(loss, cond={"label": label}).run(progress=False)
    half = len(seen) // 2
    assert len({seed for *_, seed in seen[:3]}) == 3
    for (x, y, seed), (x2, y2, seed2) in zip(seen[:half], seen[half:], strict=True):
        assert seed == seed2
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
        rows = [int((one == X).all(1).nonzero()) for one in x]
        assert torch.equal(label[rows], y)


@pytest.mark.parametrize(
    ("loss", "error", "said"),
    [
        (
            lambda model, x, generator: model(x, torch.full((len(x),), 0.5)).mean(),
            ValueError,
            r"each of the 8 samples, .* \(8,\), got \(\)",
        ),
        (lambda model, x, generator: model(x, torch.full((len(x),), 0.5)), ValueError, r"got \(8, 2\)"),
        (lambda model, x, generator: 1.0, TypeError, "got float"),
        (lambda model, x, generator: torch.zeros(len(x)).long(), TypeError, r"got torch\.int64"),
        (lambda model, x, generator: torch.zeros(len(x)), ValueError, "must depend on the weights"),
        ("sliced", TypeError, "loss must be a function"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(loss, error, said):
    with pytest.raises(error, match=said):
        trainer(loss).run(progress=False)


@pytest.mark.parametrize(("loss", "third"), [(losses.sliced, "t"), (losses.denoising, "weighting")])
def test_a_loss_with_other_arguments_is_refused_before_the_first_step(loss, third):
    with pytest.raises(
        TypeError, match=rf"the third argument of {loss.__name__} is {third}: wrap it, lambda model, x, generator, "
    ):
        trainer(loss)


def test_a_loss_of_two_arguments_and_a_second_weighting_are_refused():
    with pytest.raises(TypeError, match=r"loss must take \(model, x, generator\), and takes \(model, x\)"):
        trainer(lambda model, x: x)
    with pytest.raises(ValueError, match="has a weighting of its own: leave out the recipe's weighting='likelihood'"):
        trainer(sliced, weighting="likelihood")


def test_another_loss_is_another_run(tmp_path):
    trainer(plain, tmp_path).run(progress=False)
    with pytest.raises(ValueError, match=r"its loss is .*plain, here .*sliced"):
        trainer(sliced, tmp_path)
    with pytest.raises(ValueError, match=r"its loss is .*plain, here denoising"):
        trainer(None, tmp_path)
    with pytest.raises(ValueError, match="draws its times itself"):
        trainer(plain, time_sampler="uniform")
