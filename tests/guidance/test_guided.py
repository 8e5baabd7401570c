"""Guidance against its formula on exact mixtures, and against the closed forms of Gaussians."""

import math

import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, guidance, networks
from scoresde.guidance import Guided
from scoresde.numerics.cost import counted

from ..conftest import SDES, generator, rotated, sdes
from .conftest import Conditional, labels, states

NULL = {"label": -1}
WEIGHTS = (-1.0, 0.0, 0.5, 1.0, 3.0, 8.0)
PREDICTIONS = ("data", "noise", "velocity", "edm")


def same(a, b, tolerance=1e-12):
    """Equal up to `tolerance` of the size of what is compared."""
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize(("sde", "prediction", "w"), list(rotated(SDES.values(), PREDICTIONS, WEIGHTS, each=6)))
def test_guided_data_is_the_formula_whatever_the_network_predicts(sde, prediction, w):
    model, z, label = Conditional(sde, prediction), states(sde), labels(16)
    guided = Guided(model, w, uncond=NULL)
    for t in (0.05, 0.4, 0.9):
        c, u = (model.data(z, t, label=k) for k in (label, torch.full_like(label, -1)))
        # Noise predictions lose alpha/sigma of their digits in a data prediction.
        lost = 1e-12 * max(1.0, float(sde.sigma(t) / sde.alpha(t)))
        same(guided.data(z, t, label=label), u + w * (c - u), 100 * lost)
    assert guided.prediction == model.prediction


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_ends_are_the_models_themselves_for_one_call(prediction, batched):
    sde = SDES["cosine"]
    model, z, label = Conditional(sde, prediction), states(sde), labels(16)
    for w, own in ((1.0, label), (0.0, torch.full_like(label, -1))):
        guided = Guided(model, w, uncond=NULL, batched=batched)
        expected = model.output(z, 0.3, label=own)
        model.calls = 0
        assert torch.equal(guided.output(z, 0.3, label=label), expected)
        assert model.calls == 1
        assert torch.equal(guided.output(z, torch.full((16,), 0.3, dtype=torch.float64), label=label), expected)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_call_at_twice_the_batch_is_two_calls(prediction):
    sde = SDES["ddpm"]
    model, z, label = Conditional(sde, prediction), states(sde), labels(16)
    one, two = (Guided(model, 3.0, uncond=NULL, batched=batched) for batched in (True, False))
    times = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)
    weights = torch.linspace(-1, 4, 16, dtype=torch.float64)
    for t in (0.3, times):
        for given in ({}, {"guidance_weight": weights}):
            model.calls = 0
            a = one.output(z, t, label=label, **given)
            assert model.calls == 1
            b = two.output(z, t, label=label, **given)
            assert model.calls == 3
            same(a, b)
            rows = [
                two.output(
                    z[i : i + 1], t if isinstance(t, float) else t[i], label=label[i : i + 1], **{k: v[i] for k, v in given.items()}
                )
                for i in range(16)
            ]
            same(torch.cat(rows), b)
    prepared = one.prepare([0.8, 0.3], z)
    same(one.output(z, prepared[1], label=label), two.output(z, 0.3, label=label))


@pytest.mark.parametrize("name", ["dpm++2m", "ancestral", "heun", "adaptive"])
def test_parts_of_a_batch_are_the_batch(name):
    sde = SDES["ddpm"]
    model, guided = Conditional(sde), Guided(Conditional(sde), 2.0, uncond=NULL)
    given = {
        "label": labels(10),
        "uncond_label": torch.tensor([-1, 0, 1, 2, -1, 0, 1, 2, -1, 0]),
        "guidance_weight": torch.linspace(0, 3, 10, dtype=torch.float64),
    }
    steps = {} if name == "adaptive" else {"steps": 8}
    whole = ss.sample(guided, (10, 2), name, seeds=range(10), **steps, **given)
    same(ss.sample(guided, (10, 2), name, seeds=range(10), batch_size=3, **steps, **given), whole, 1e-10)
    alone = [ss.sample(guided, (1, 2), name, seeds=[i], **steps, **{k: v[i : i + 1] for k, v in given.items()}) for i in range(10)]
    same(torch.cat(alone), whole, 1e-10)
    # Negative conditions of every sample: u is the model under them.
    t, z = 0.4, states(sde, 10)
    c, u = model.data(z, t, label=given["label"]), model.data(z, t, label=given["uncond_label"])
    same(guided.data(z, t, **given), u + given["guidance_weight"][:, None] * (c - u))


def test_a_sample_that_is_not_finite_stays_alone():
    sde = SDES["ddpm"]
    z, label = states(sde, 7), labels(7)
    for rule in (None, guidance.rescaled(), guidance.apg(0.3, 0.5), guidance.zero_star()):
        guided = Guided(Conditional(sde), 3.0, uncond=NULL, rule=rule)
        whole = guided.data(z, 0.4, label=label)
        broken = z.clone()
        broken[2] = torch.nan
        rest = [0, 1, 3, 4, 5, 6]
        same(guided.data(broken, 0.4, label=label)[rest], whole[rest], 1e-10)


@pytest.mark.parametrize(("sde", "solver"), [(ss.EDM(sigma_max=4000.0), "dpm++2m"), (ss.RectifiedFlow(), "dpm++2m")])
def test_equal_variances_make_guidance_exact(sde, solver):
    """p(x|c) = N(1, 1) and p(x) = N(0, 1): every w samples N(w, 1)."""
    model = Guided(_gaussian(sde, 1.0, 1.0), 3.0, weak=_gaussian(sde, 0.0, 1.0))
    z = sde.prior_std * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    ends = ss.sample(model, z.shape, solver, steps=2000, z=z, dtype=torch.float64)[:, 0]
    assert float(ends[1]) == pytest.approx(3.0, abs=2e-3)
    assert float((ends[2] - ends[0]) / 2) == pytest.approx(1.0, abs=2e-3)


def test_the_flow_of_guidance_ends_at_the_geometric_variance_and_not_at_the_tilt():
    """p(x|c) = N(1, 1), p(x) = N(0, 2), w = 2: the flow ends at N(1 + asinh(1)/sqrt(2), 1/2); the tilt is N(4/3, 2/3)."""
    sde = ss.RectifiedFlow()
    model = Guided(_gaussian(sde, 1.0, 1.0), 2.0, weak=_gaussian(sde, 0.0, 2.0))
    z = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    ends = ss.sample(model, z.shape, "dpm++2m", steps=2000, z=z, dtype=torch.float64)[:, 0]
    mean, variance = float(ends[1]), float(((ends[2] - ends[0]) / 2) ** 2)
    assert mean == pytest.approx(1 + math.asinh(1) / math.sqrt(2), abs=1e-4)
    assert variance == pytest.approx(0.5, abs=1e-4)
    assert abs(mean - 4 / 3) > 0.2
    assert abs(variance - 2 / 3) > 0.1


def test_the_reverse_sde_of_guidance_ends_at_another_law_again():
    """The same Gaussians under ancestral sampling with ever smaller steps: N(3/2, 7/12), to the variance of a step's weak order 1.

    Moments are exact here: the model is linear, so that three states give its A and b, and the law stays Gaussian.
    """
    sde = ss.RectifiedFlow()
    model = Guided(_gaussian(sde, 1.0, 1.0), 2.0, weak=_gaussian(sde, 0.0, 2.0))
    found = {}
    for steps in (400, 800):
        table = ss.plan(sde, "ancestral", grid=grids.half_log_snr(sde, steps)).tableau
        mean, variance = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        for k, row in enumerate(table.rows):
            zero, one = model.data(torch.tensor([[0.0], [1.0]], dtype=torch.float64), table.times[k])[:, 0]
            a, b = row.z.get(k, 0.0), row.data[k]
            noise = sum(c**2 for c in row.xi.values())
            mean, variance = (a + b * (one - zero)) * mean + b * zero, (a + b * (one - zero)) ** 2 * variance + noise
        found[steps] = (float(mean), float(variance))
    mean, variance = (2 * b - a for a, b in zip(found[400], found[800], strict=True))
    assert mean == pytest.approx(1.5, abs=2e-2)
    assert variance == pytest.approx(7 / 12, abs=2e-2)


def _gaussian(sde, mean, variance):
    return analytic.GaussianMixture(torch.tensor([[mean]]), torch.tensor([variance])).model(sde)


INTERVAL = (0.25, 0.6)


def test_outside_its_interval_guidance_is_the_conditional_model():
    sde = SDES["ddpm"]
    model, z, label = Conditional(sde, "noise"), states(sde), labels(16)
    guided = Guided(model, 3.0, uncond=NULL, interval=INTERVAL)
    for r in (0.2, 0.25, 0.26, 0.59, 0.6, 0.61, 3.0):
        t = float(sde.time(-math.log(r)))
        inside = INTERVAL[0] < float(sde.sigma(t) / sde.alpha(t)) <= INTERVAL[1]
        model.calls = model.samples = 0
        out = guided.output(z, t, label=label)
        assert (model.calls, model.samples) == (1, 32 if inside else 16)
        assert torch.equal(out, model.output(z, t, label=label)) is not inside
    grid = grids.half_log_snr(sde, 24)
    r = (sde.sigma(grid[:-1]) / sde.alpha(grid[:-1])).tolist()
    run = ss.sample(guided, z.shape, "dpm++2m", grid=grid, z=z, label=label, trajectory=True)
    assert run.nfe == 24
    assert run.network_calls == 24 + sum(INTERVAL[0] < each <= INTERVAL[1] for each in r)
    assert run.vjps == 0


def test_a_ramp_restores_the_order_that_an_interval_costs():
    sde = SDES["linear"]
    label = labels(64)
    z = states(sde, 64)

    def errors(**options):
        guided = Guided(Conditional(sde), 3.0, uncond=NULL, **options)

        def end(steps, name="dpm++2m"):
            return ss.sample(guided, z.shape, name, grid=grids.half_log_snr(sde, steps), z=z, label=label)

        fine = end(1280)
        return [float((end(steps) - fine).square().mean().sqrt()) for steps in (160, 320)]

    constant, jump, ramp = (errors(**o) for o in ({}, {"interval": INTERVAL}, {"interval": INTERVAL, "ramp": 1.0}))
    assert math.log2(ramp[0] / ramp[1]) >= 1.8
    assert ramp[1] <= 1.5 * constant[1]
    assert jump[1] >= 5 * constant[1]


def test_the_share_of_an_interval_is_the_formula():
    sde = SDES["edm"]
    r = torch.tensor([0.01, 0.2, 0.5, 1.0, 2.0, 5.0, 70.0], dtype=torch.float64)
    t = sde.time(-r.log())
    hard = guidance.Interval(0.5, 2.0).share(sde, t)
    assert hard.tolist() == [
        0,
        0,
        float(sde.sigma(t[2]) / sde.alpha(t[2]) > 0.5),
        1,
        float(sde.sigma(t[4]) / sde.alpha(t[4]) <= 2),
        0,
        0,
    ]
    soft = guidance.Interval(0.5, 2.0, 1.0).share(sde, t)
    inside = torch.minimum((r / 0.5).log(), (2.0 / r).log())
    same(soft, (inside + 0.5).clamp(0, 1), 1e-9)
    open_ended = guidance.Interval(0.0, math.inf, 1.0).share(sde, t)
    assert open_ended.tolist() == [1.0] * 7
    with pytest.raises(ValueError, match=r"interval\[1\] must be larger than 2"):
        guidance.Interval(2.0, 1.0)


@sdes
def test_a_weight_may_depend_on_time(sde):
    model, z, label = Conditional(sde), states(sde), labels(16)
    guided = Guided(model, lambda sde, t: 1 + 3 * t, uncond=NULL)
    for t in (0.1, 0.7):
        same(guided.data(z, t, label=label), Guided(model, 1 + 3 * t, uncond=NULL).data(z, t, label=label), 1e-10)
    times = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)
    rows = [guided.data(z[i : i + 1], float(times[i]), label=label[i : i + 1]) for i in range(16)]
    same(guided.data(z, times, label=label), torch.cat(rows), 1e-9)


def test_autoguidance_takes_a_weak_model_of_any_prediction():
    sde = SDES["ddpm"]
    strong, z, label = Conditional(sde, "noise"), states(sde), labels(16)
    same(Guided(strong, 2.5, weak=strong).noise(z, 0.3, label=label), strong.noise(z, 0.3, label=label), 1e-14)
    weak = analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(sde)

    class Weak(ss.Model):
        """A wider distribution, which takes any label."""

        sde = SDES["ddpm"]
        prediction = "velocity"

        def output(self, z, t, label=None):
            return weak.velocity(z, t)

    guided = Guided(strong, 2.5, Weak())
    c, u = strong.data(z, 0.3, label=label), weak.data(z, 0.3)
    same(guided.data(z, 0.3, label=label), u + 2.5 * (c - u), 1e-11)
    prepared = guided.prepare([0.9, 0.3], z)[1]
    same(guided.output(z, prepared, label=label), guided.output(z, 0.3, label=label), 1e-11)
    with counted() as cost:
        guided.output(z, 0.3, label=label)
    assert (cost.network, cost.vjps) == (16, 0)
    with pytest.raises(ValueError, match="the weak model was made for a process"):
        Guided(strong, 2.0, Conditional(SDES["edm"]))


CFGPP = [("ddim", "ddim"), ("ancestral-posterior", "ancestral")]


@pytest.mark.parametrize("sde", [SDES["ddpm"], SDES["cosine"], SDES["edm"], SDES["flow"]])
@pytest.mark.parametrize("rule", [grids.half_log_snr, grids.uniform])
def test_cfgpp_is_the_loop_of_the_paper(sde, rule):
    """z_s = alpha_s D_lam + sigma_s eps_u, by hand (Chung et al. 2024, algorithm 2)."""
    grid, lam, z, label = rule(sde, 12), 0.6, states(sde), labels(16)
    model = Conditional(sde)
    hand = z
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        c, u = model.data(hand, t, label=label), model.data(hand, t)
        noise = (hand - sde.alpha(t) * u) / sde.sigma(t)
        hand = sde.alpha(s) * (u + lam * (c - u)) + sde.sigma(s) * noise
    guided = Guided(model, guidance.cfgpp(sde, grid, lam), uncond=NULL)
    same(ss.sample(guided, z.shape, "ddim", grid=grid, z=z, label=label), hand, 1e-12)


def test_cfgpp_of_ancestral_sampling_takes_the_noise_of_the_unconditional_model():
    sde = SDES["ddpm"]
    grid, lam, z, label = grids.uniform(sde, 12), 0.6, states(sde), labels(16)
    model, stream = Conditional(sde), generator(5)
    hand = z
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        c, u = model.data(hand, t, label=label), model.data(hand, t)
        v = sde.sigma(s) ** 2 * (1 - sde.sigma(s) ** 2 * sde.alpha(t) ** 2 / (sde.sigma(t) ** 2 * sde.alpha(s) ** 2))
        noise = (hand - sde.alpha(t) * u) / sde.sigma(t)
        hand = sde.alpha(s) * (u + lam * (c - u)) + (sde.sigma(s) ** 2 - v).sqrt() * noise
        if s > 0:
            hand = hand + v.sqrt() * torch.randn(hand.shape, generator=stream, dtype=torch.float64)
    guided = Guided(model, guidance.cfgpp(sde, grid, lam, "ancestral-posterior"), uncond=NULL)
    ours = ss.sample(guided, z.shape, "ancestral-posterior", grid=grid, z=z, label=label, generator=generator(5))
    same(ours, hand, 1e-12)


def test_cfgpp_belongs_to_its_grid_and_to_one_step_solvers():
    sde = SDES["ddpm"]
    weight = guidance.cfgpp(sde, grids.uniform(sde, 5), 0.5)
    # The weight grows with the number of steps, as lam/h.
    finer = guidance.cfgpp(sde, grids.uniform(sde, 50), 0.5)
    assert finer.weights[25] > 3 * weight.weights[2]
    assert weight.weights[-1] == pytest.approx(0.5)
    guided = Guided(Conditional(sde), weight, uncond=NULL)
    with pytest.raises(ValueError, match=r"t=0\.95 is none"):
        guided.data(states(sde), 0.95, label=labels(16))
    for solver in ("dpm++2m", "heun", "pc"):
        with pytest.raises(ValueError, match="CFG"):
            guidance.cfgpp(sde, grids.uniform(sde, 5), 0.5, solver)


def test_a_network_of_ours_knows_the_label_that_means_none():
    network = networks.MLP(2, width=16, classes=3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator())
    model = ss.ScoreModel(network.double(), SDES["cosine"]).eval().requires_grad_(False)
    guided = Guided(model, 2.0)
    z, label = states(model.sde), labels(16)
    c, u = model.noise(z, 0.4, label=label), model.noise(z, 0.4)
    same(guided.noise(z, 0.4, label=label), u + 2 * (c - u))
    ours = ss.sample(guided, z.shape, "dpm++2m", steps=5, z=z, label=label)
    theirs = ss.sample(Guided(model, 2.0, batched=False), z.shape, "dpm++2m", steps=5, z=z, label=label)
    same(ours, theirs, 1e-11)
    assert guided.dtype == torch.float64
    assert "weight=2.0" in repr(guided)
    bare = ss.ScoreModel(networks.MLP(2, width=16), SDES["cosine"])
    with pytest.raises(ValueError, match="nothing makes the weak prediction different"):
        Guided(bare, 2.0).noise(z.float(), 0.4)


def test_prompts_and_negative_prompts_are_tensors_of_any_shape():
    class Prompted(torch.nn.Module):
        calls = 0

        def forward(self, z, t, context, scale=1.0):
            Prompted.calls += 1
            return scale * (z * context.mean((1, 2))[:, None] + context[:, 0, :2])

    model = ss.ScoreModel(Prompted(), SDES["cosine"])
    z = states(model.sde)
    prompt, negative = (torch.randn(16, 5, 4, dtype=torch.float64, generator=generator(k)) for k in (1, 2))
    empty = torch.zeros(1, 5, 4)
    for guided, given, other in (
        (Guided(model, 7.5, uncond={"context": empty}), {}, empty.double().expand(16, 5, 4)),
        (Guided(model, 7.5, uncond={"context": empty[0]}), {}, empty.double().expand(16, 5, 4)),
        (Guided(model, 7.5), {"uncond_context": negative}, negative),
    ):
        Prompted.calls = 0
        ours = guided.noise(z, 0.3, context=prompt, scale=0.5, **given)
        assert Prompted.calls == 1
        c, u = model.noise(z, 0.3, context=prompt, scale=0.5), model.noise(z, 0.3, context=other, scale=0.5)
        same(ours, u + 7.5 * (c - u))
    # Prompts of another length cannot share a batch.
    Prompted.calls = 0
    long = torch.randn(16, 9, 4, dtype=torch.float64, generator=generator(3))
    ours = Guided(model, 7.5).noise(z, 0.3, context=prompt, uncond_context=long)
    assert Prompted.calls == 2
    c, u = model.noise(z, 0.3, context=prompt), model.noise(z, 0.3, context=long)
    same(ours, u + 7.5 * (c - u))
    with pytest.raises(TypeError, match="unexpected keyword"):
        Guided(model, 7.5, uncond={"context": empty}).noise(z, 0.3, context=prompt, unknown=3)


def test_gradients_densities_compile_and_fingerprints_go_through(monkeypatch):
    sde = SDES["ddpm"]
    guided = Guided(Conditional(sde), 2.0, uncond=NULL)
    z = states(sde, 3).requires_grad_()
    label = labels(3)
    assert torch.autograd.gradcheck(lambda z: ss.sample(guided, z.shape, "ddim", steps=3, z=z, label=label, grad=True), z)
    x = 0.3 * states(sde, 4)
    # w = 1 is the conditional model; its density is known.
    ours = ss.log_likelihood(Guided(Conditional(sde), 1.0, uncond=NULL), x, label=torch.zeros(4, dtype=torch.int64)).nats
    same(ours, ss.log_likelihood(guidance.conditioned(Conditional(sde), label=0), x).nats, 1e-9)
    assert bool(ss.log_likelihood(guided, x, label=labels(4)).nats.isfinite().all())
    network = networks.MLP(2, width=8, classes=3)
    model = ss.ScoreModel(network, sde)
    fingerprint = ss.tuning.fitting.fingerprint
    marks = {fingerprint(m) for m in (model, Guided(model, 2.0), Guided(model, 3.0), Guided(model, 2.0, rule=guidance.apg()))}
    assert len(marks) == 4
    torch._dynamo.reset()
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compile_network(network, backend="eager"))
    options = {"steps": 3, "seeds": range(4), "label": labels(4)}
    torch.testing.assert_close(
        ss.sample(Guided(model, 2.0), (4, 2), "ddim", compile=True, **options),
        ss.sample(Guided(model, 2.0), (4, 2), "ddim", **options),
    )


def test_solvers_are_chosen_fitted_and_unrolled_for_a_guided_model():
    sde = SDES["linear"]
    guided = Guided(Conditional(sde), 2.0, uncond=NULL)
    options = {"cond": {"label": labels(32)}, "progress": False}
    fitted = ss.tuning.fit(guided, 5, shape=(2,), trajectories=32, refine=0, late=False, **options)
    z, label = states(sde, 64, 7), labels(64)
    fine = ss.sample(guided, z.shape, "dpm++3m", steps=300, grid="half_log_snr", z=z, label=label)
    rms = {
        name: float((ss.sample(guided, z.shape, solver, z=z, label=label, **calls) - fine).square().mean().sqrt())
        for name, solver, calls in (("fitted", fitted, {}), ("ddim", "ddim", {"nfe": 5}))
    }
    assert rms["fitted"] < 0.7 * rms["ddim"], rms
    network = networks.MLP(2, width=16, classes=3)
    model = Guided(ss.ScoreModel(network, sde).eval().requires_grad_(False), 2.0)
    plan = ss.plan(model, "dpm++2m", steps=4)
    z = torch.randn(6, 2, generator=generator())
    unrolled = ss.unroll(model, plan)(z, cond={"label": labels(6)})
    torch.testing.assert_close(unrolled, ss.sample(model, z.shape, plan, z=z, label=labels(6)))


def test_wrong_arguments_are_refused_by_name():
    model = Conditional(SDES["ddpm"])
    z, label = states(model.sde), labels(16)
    with pytest.raises(TypeError, match="model must be a ScoreModel"):
        Guided(networks.MLP(2), 2.0)
    with pytest.raises(TypeError, match="weight must be a number"):
        Guided(model, "much")
    with pytest.raises(ValueError, match="guidance_weight=weight"):
        Guided(model, torch.ones(16))
    with pytest.raises(ValueError, match=r"interval must be \(low, high\)"):
        Guided(model, 2.0, interval=(1.0,))
    with pytest.raises(ValueError, match="give interval= too"):
        Guided(model, 2.0, ramp=1.0)
    with pytest.raises(TypeError, match="batched must be True or False"):
        Guided(model, 2.0, batched=2)
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        Guided(model, 2.0, uncond=NULL).data(z, 0.4, label=label, guidance_weight=torch.ones(3))
    with pytest.raises(TypeError, match="unknown conditions color"):
        Guided(model, 2.0, uncond=NULL).data(z, 0.4, label=label, color=1)
    with pytest.raises(TypeError, match="label is given for good"):
        guidance.conditioned(model, label=0).data(z, 0.4, label=label)
