"""Every public object is one line of text, and no message holds a tensor."""

from functools import partial

import pytest
import torch

import scoresde as ss
from scoresde import data, grids, guidance, losses, models, networks, report, sampling, solvers, train, tuning
from scoresde.numerics import brief
from scoresde.sde import prediction

from .conftest import SDES, linear_betas, mixture

VP, CHAIN = ss.VPSDE(), ss.VPSDE.from_betas(linear_betas(1000))
EXACT = mixture().model(VP)


def declared(sde=CHAIN, **options):
    return ss.ScoreModel(networks.MLP(2, width=8), sde, **options)


@pytest.fixture(scope="module")
def tuned():
    selected = solvers.select(EXACT, 4, (2,), 8)
    fitted = solvers.fit(EXACT, 4, shape=(2,), trajectories=16, refine=0, progress=False)
    cascade = solvers.calibrate(EXACT, (2,), confidence=0.8, noises=32, levels=[selected, fitted])
    return selected, fitted, cascade


def processes():
    return [
        *SDES.values(),
        ss.CoefficientsSDE(lambda t: -1.0, lambda t: 1.5),
        ss.ScalesSDE(lambda t: torch.cos(1.5 * t), lambda t: torch.sin(1.5 * t)),
        ss.CLD(),
        ss.HOLD(),
    ]


def wrappers():
    model = declared(VP)
    labels = torch.zeros(300, dtype=torch.long)
    return [
        mixture(), EXACT, model, declared(), declared(VP, prediction=prediction.Direction(lambda s, t: -1.0, lambda s, t: 1.0)),
        ss.LearnedVariance(networks.MLP(2, width=8), CHAIN), models.ThresholdedModel(model), models.TimeWarped(model, ss.EDM()),
        models.ZeroModel(VP), models.ReverseSDE(EXACT), guidance.Guided(model, 3.0), guidance.conditioned(model, label=labels),
        guidance.Guided(model, guidance.cfgpp(VP, grids.uniform(VP, 40), 0.5)), guidance.product([model, model], [0.5, 0.5]),
    ]  # fmt: skip


def plans():
    named = [ss.plan(VP, name, steps=5) for name in ("dpm++2m", "DPM++ 2M Karras", "pc", "seeds3", "late")[:4]]
    own = ss.plan(VP, "ddim", steps=5, grid=partial(grids.trailing, power=1.5))
    matrices = ss.plan(ss.CLD(), nfe=4).tableau
    return [*named, own, ss.plan(VP, nfe=8), ss.plan(VP, "adaptive"), named[0].tableau, *named[3].tableau.rows, *matrices.rows]


def others():
    noise_power = solvers.NoisePower.of(EXACT, mixture().sample(20).float(), torch.linspace(1, 0.01, 30))
    return [
        *map(solvers.get, solvers.names()), noise_power, solvers.Ancestral(noise_power), solvers.LateFirstCall(solvers.IPNDM(3)),
        losses.Times(torch.rand(100), torch.rand(100)), losses.Adaptive(), train.Recipe(clip=2.0), train.Experiment("digits"),
        report.Moments(64), sampling.Samples(torch.randn(10, 2), torch.arange(10)), data.Memory(torch.randn(100, 2)),
        ss.sample(EXACT, (3, 2), nfe=4, trajectory=True), ss.log_likelihood(EXACT, torch.randn(3, 2)),
        tuning.solve_reference(EXACT, torch.randn(4, 2), {}), ss.unroll(EXACT, ss.plan(VP, "ddim", steps=3)),
    ]  # fmt: skip


def assert_one_line(made):
    text = repr(made)
    assert "\n" not in text, text
    assert len(text) <= brief.WIDTH, text
    assert " at 0x" not in text, text
    assert "tensor([" not in text, text


@pytest.mark.parametrize("make", [processes, wrappers, plans, others])
def test_a_repr_is_one_short_line(make):
    for made in make():
        assert_one_line(made)


def test_tuned_solvers_and_their_parts_are_one_line(tuned):
    selected, fitted, cascade = tuned
    solver = cascade.within(0.1)
    parts = [
        selected.ranking,
        *selected.ranking[:2],
        *cascade.levels,
        fitted.form,
        ss.plan(EXACT, selected),
        ss.plan(EXACT, cascade, tol=0.1),
    ]
    for made in (*tuned, solver, *parts):
        assert_one_line(made)
    assert repr(cascade) == "Cascade(4, 4 network calls, confidence 0.8)"
    assert repr(solver) == "CascadeSolver(Cascade(4, 4 network calls, confidence 0.8), tol=0.1)"
    assert repr(selected).startswith(f"Selected('{selected.name}', 4 network calls, rms ")


def test_the_ranking_prints_as_a_table(tuned):
    ranking = tuned[0].ranking
    head, first, *rest = str(ranking).splitlines()
    assert head.split() == ["solver", "and", "grid", "median", "rms"]
    assert first.startswith(ranking[0].name)
    assert first.split()[-2:] == [f"{ranking[0].median:.3g}", f"{ranking[0].rms:.3g}"]
    assert len(rest) == len(ranking) - 1
    assert len({len(row) for row in (head, first, *rest)}) == 1


def test_names_stand_for_functions_and_shapes_for_tensors():
    sde = ss.CoefficientsSDE(lambda t: -1.0, lambda t: 1.5)
    assert repr(sde) == "CoefficientsSDE(drift_rate=<lambda>, diffusion=<lambda>)"
    assert repr(declared(prediction="epsilon")).startswith("ScoreModel(MLP of ")
    assert repr(declared(prediction="epsilon")).endswith("'noise', time=index)")
    assert repr(train.Recipe(clip=2.0)) == "Recipe(clip=2)"
    assert brief.shown(torch.zeros(2, 3)) == "tensor(2, 3)"
    assert brief.shown(partial(grids.trailing, power=2.0)) == "trailing(power=2)"
    assert len(brief.line("A", "b" * 500)) == brief.WIDTH


def test_two_noise_powers_have_two_texts():
    """A folder of samples knows its solver by its text."""
    one, other = (solvers.NoisePower((-1.0, 0.0, 1.0), (0.5, 0.6, end)) for end in (0.7, 0.8))
    assert repr(one) != repr(other)
    assert repr(one) == repr(solvers.NoisePower((-1.0, 0.0, 1.0), (0.5, 0.6, 0.7)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tuned: ss.sample(EXACT, (2, 2), tuned[2], nfe=8, tol=0.1),
        lambda tuned: ss.sample(EXACT, (2, 2), tuned[2], nfe=8),
        lambda tuned: ss.sample(EXACT, (2, 2), tuned[2].within(0.1), nfe=8),
        lambda tuned: ss.sample(EXACT, (2, 2), tuned[0], steps=99),
        lambda tuned: ss.sample(EXACT, (2, 2), tuned[1], nfe=3),
        lambda tuned: ss.plan(tuned[0], "ddim", steps=3),
        lambda tuned: solvers.calibrate(EXACT, (2,), levels=[tuned[2]]),
        lambda tuned: ss.sample(tuned[0], (2, 2), "ddim", steps=3),
    ],
)
def test_messages_hold_no_kilobytes(tuned, wrong):
    with pytest.raises((TypeError, ValueError)) as error:
        wrong(tuned)
    assert len(str(error.value)) < 400
    assert "tensor(" not in str(error.value)
