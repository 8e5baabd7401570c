"""Power-function averages: their profile, and any length from snapshots after training."""

import math

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import scoresde as ss
from scoresde import networks
from scoresde.numerics.files import read_tensors, write_tensors
from scoresde.train import Recipe, Trainer, load_average
from scoresde.train.average import Average, PowerAverages, gamma_of
from scoresde.train.posthoc import Profile, combination, inner_product


def model():
    torch.manual_seed(0)
    return ss.ScoreModel(networks.MLP(2, width=8), ss.VPSDE.cosine(50))


def move(model, generator):
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn(weight.shape, generator=generator)


def weights(model):
    return torch.cat([weight.detach().double().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("sigma_rel", [0.28, 0.1, 0.05, 1e-3])
def test_the_length_is_the_standard_deviation_of_the_profile(sigma_rel):
    """By the moments of (gamma + 1) t^gamma on [0, 1] as a beta distribution with a = gamma + 1, b = 1."""
    a = gamma_of(sigma_rel) + 1
    assert math.sqrt(a / ((a + 1) ** 2 * (a + 2))) == pytest.approx(sigma_rel, rel=1e-9)


@pytest.mark.parametrize("length", [0.0, 12**-0.5, -0.1, 1.0])
def test_lengths_that_no_profile_has(length):
    with pytest.raises(ValueError, match="the length of an average must be above 0 and below"):
        gamma_of(length)


def test_the_average_has_weights_in_proportion_to_differences_of_powers():
    """The weight of step j at step k is (j^(gamma+1) - (j-1)^(gamma+1)) / k^(gamma+1), the integral of the profile over that step."""
    net, g = model(), torch.Generator().manual_seed(0)
    averages, seen = PowerAverages(net, [0.1]), []
    for k in range(1, 31):
        move(net, g)
        averages.update(net, k)
        seen.append(weights(net))
    power = gamma_of(0.1) + 1
    profile = torch.tensor([(j**power - (j - 1) ** power) / 30**power for j in range(1, 31)], dtype=torch.float64)
    assert float(profile.sum()) == pytest.approx(1)
    found = torch.cat([averages.state_dict()[f"0/{name}"].double().flatten() for name in averages.names])
    assert torch.allclose(found, profile @ torch.stack(seen), atol=1e-5)


def test_inner_products_are_integrals():
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * 90

    def density(p):
        return torch.where(t < p.step, (p.gamma + 1) * (t / p.step) ** p.gamma / p.step, 0.0)

    for a in (Profile(30, 2.0), Profile(90, 16.97)):
        for b in (Profile(60, 6.94), Profile(90, 0.5)):
            assert inner_product(a, b) == pytest.approx(float((density(a) * density(b)).sum()) * 90 / 200_000, rel=1e-4)


def test_a_snapshot_is_its_own_combination():
    snapshots = [Profile(100 * (i // 2 + 1), gamma_of((0.05, 0.1)[i % 2])) for i in range(8)]
    x, error = combination(snapshots, snapshots[-1])
    assert torch.allclose(x, torch.eye(8, dtype=torch.float64)[-1], atol=1e-6)
    assert error < 1e-6


def test_any_length_after_training(tmp_path):
    """The average of another length that the same training tracked, from snapshots of two lengths."""
    recipe = Recipe(iterations=64, batch_size=8, snapshot_every=2, validate_every=64, save_every=64, learning_rate=1e-2)
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    trainer = Trainer(model(), x, recipe, folder=tmp_path)
    tracked = PowerAverages(trainer.model, [0.15, 0.07])
    step = trainer._step

    def followed():
        value = step()
        tracked.update(trainer.model, trainer.iteration + 1)
        return value

    trainer._step = followed
    trainer.run(progress=False)
    last = weights(trainer.model)
    for i, length in enumerate((0.15, 0.07)):
        found, error = load_average(tmp_path, model(), length)
        wanted = torch.cat([tracked.state_dict()[f"{i}/{name}"].double().flatten() for name in tracked.names])
        # The error of the weights is that of the profile, in units of their way.
        assert error < 0.02
        assert float((weights(found) - wanted).norm()) < 0.02 * float((last - wanted).norm())
    assert not found.training
    early, _ = load_average(tmp_path, model(), 0.1, iteration=32)
    assert float((weights(early) - weights(found)).norm()) > 1e-3
    with pytest.raises(ValueError, match=r"the first snapshot of .* is later than iteration 1"):
        load_average(tmp_path, model(), 0.1, iteration=1)
    with pytest.raises(FileNotFoundError, match="train with snapshot_every"):
        load_average(tmp_path / "none", model(), 0.1)


def test_snapshots_of_a_wrapped_network_fit_the_network_without_its_wrapper(tmp_path):
    recipe = Recipe(iterations=6, batch_size=8, snapshot_every=2, validate_every=6, save_every=6)
    wrapped = model()
    wrapped.network = torch.nn.DataParallel(wrapped.network)
    Trainer(wrapped, torch.randn(32, 2, generator=torch.Generator().manual_seed(1)), recipe, folder=tmp_path).run(progress=False)
    inside, _ = load_average(tmp_path, model(), 0.1)
    outside, _ = load_average(tmp_path, wrapped, 0.1)
    assert torch.equal(weights(inside), weights(outside))


def test_snapshots_of_another_network_are_named(tmp_path):
    recipe = Recipe(iterations=4, batch_size=8, snapshot_every=2, validate_every=4, save_every=4)
    Trainer(model(), torch.zeros(32, 2), recipe, folder=tmp_path).run(progress=False)
    file = tmp_path / "averages" / "000000004.safetensors"
    tensors = {name: value[..., :1] for name, value in read_tensors(file, "json")[0].items()}
    write_tensors(file, tensors, {"iteration": 4, "gammas": [6.94, 16.97]}, "json")
    with pytest.raises(ValueError, match="is of another network"):
        load_average(tmp_path, model(), 0.1)


def test_a_run_that_goes_on_has_the_same_snapshots(tmp_path):
    def run(folder, iterations_before=None):
        recipe = Recipe(iterations=12, batch_size=8, snapshot_every=4, save_every=6, validate_every=12)
        trainer = Trainer(model(), torch.randn(32, 2, generator=torch.Generator().manual_seed(1)), recipe, folder=folder)
        if iterations_before is not None:
            steps, step = iter(range(iterations_before)), trainer._step

            def stops():
                if next(steps, None) is None:
                    raise KeyboardInterrupt
                return step()

            trainer._step = stops
            with pytest.raises(KeyboardInterrupt):
                trainer.run(progress=False)
        else:
            trainer.run(progress=False)

    run(tmp_path / "whole")
    run(tmp_path / "broken", 9)
    run(tmp_path / "broken")
    names = [file.name for file in sorted((tmp_path / "whole" / "averages").iterdir())]
    assert names == ["000000004.safetensors", "000000008.safetensors", "000000012.safetensors"]
    for name in names:
        assert (tmp_path / "broken" / "averages" / name).read_bytes() == (tmp_path / "whole" / "averages" / name).read_bytes()


def test_the_exponential_average_is_that_of_torch():
    net, g = model(), torch.Generator().manual_seed(0)
    ours = Average(net)

    def lerp(averaged, current, _):
        torch._foreach_lerp_(averaged, current, 1 - 0.7)

    theirs = AveragedModel(net, multi_avg_fn=lerp)
    for _ in range(4):
        move(net, g)
        ours.update(net, 0.7)
        theirs.update_parameters(net)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
