"""What pipelines do around a scheduler: images to images, inpainting, starts of another scale, lists of generators, fitted solvers, files."""

import logging
import sys
import warnings
from functools import partial

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.interop.diffusers import Scheduler, fitted_scheduler, model_of
from scoresde.sde.fingerprint import schedule_fingerprint
from scoresde.tableau.multistep_form import multistep
from scoresde.tuning.fitting import FittedSolver

from ..conftest import generator
from . import tiny
from .cases import BATCH, CASES, TEXT, case_layout, cases, event_of, expected, run, with_solver

STEPS = 6
LATE = solvers.LateFirstCall(solvers.IPNDM(order=3))


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max()) <= tolerance * (1 + float(b.abs().max()))


@cases
def test_the_default_solver_runs_in_every_pipeline(case):
    """Without a late first call, which pipelines that do not scale their noise could not start."""
    pipe = with_solver(case.make())
    seen = run(case, pipe, STEPS)
    assert len(seen.inputs) == STEPS
    solver, grid = pipe.scheduler._running, pipe.scheduler._tableau.grid
    assert not isinstance(solver, solvers.LateFirstCall)
    x = expected(case, pipe, solver, None, grid=grid)
    assert close(seen.states[-1][:BATCH], x)


# Late first calls: the pipeline holds the state of the first call, which is the start times a factor.


def with_velocity(**options):
    """Stable Diffusion, its network taken for one that predicts the velocity."""
    return CASES["StableDiffusion"], tiny.stable_diffusion(prediction_type="v_prediction", **options)


def table_grid(table):
    """The times of all steps and of a late first call, which the grid of a fitted solver leaves out."""
    return torch.tensor(sorted(set(table.times), reverse=True), dtype=torch.float64)


@tiny.needs_transformers
@pytest.mark.parametrize("name", ["late", "fitted late", "free", "default"])
def test_a_late_first_call_is_exact_where_the_pipeline_scales_its_noise(name):
    solver = {"late": LATE, "fitted late": late_fit(), "free": solvers.FreeFirstStep(solvers.IPNDM(order=2)), "default": None}[name]
    # Without signal at the end of the path the default's first call is late.
    case, pipe = with_velocity(rescale_betas_zero_snr=solver is None)
    scheduler = with_solver(pipe, solver, scaled_noise=solver is None, grid="trailing" if name == "free" else None).scheduler
    seen = run(case, pipe, STEPS)
    assert len(seen.inputs) == len(scheduler.timesteps) == STEPS
    if solver is None:
        assert isinstance(scheduler._running, solvers.LateFirstCall)
    table = scheduler._tableau
    assert table.evaluated[0] == 1
    assert seen.times[0] == float(scheduler.timesteps[0])
    assert close(
        seen.states[-1], expected(case, pipe, LATE if "late" in name else scheduler._running, None, grid=table_grid(table))
    )
    if "late" in name:
        gain = float(scheduler._reading.sde.sigma(table.times[1]) / scheduler._reading.sde.sigma(1.0))
        assert scheduler.init_noise_sigma == pytest.approx(gain, rel=1e-12)
        assert gain < 0.998


@tiny.needs_transformers
@pytest.mark.parametrize("name", ["StableDiffusion3", "Flux"])
def test_a_late_first_call_takes_scaled_latents_where_the_pipeline_does_not_scale(name):
    case = CASES[name]
    pipe = with_solver(case.make(), LATE)
    with pytest.raises(ValueError, match=r"late ipndm3 comes after a step.*scaled_noise=True"):
        run(case, pipe, STEPS)
    pipe = with_solver(case.make(), LATE, scaled_noise=True)
    model = case.model(pipe)
    z = case_layout(pipe, torch.randn(BATCH, *event_of(case, pipe, model), generator=generator()))
    pipe.scheduler.set_timesteps(STEPS)
    assert pipe.scheduler.init_noise_sigma == pytest.approx(10 / 11, rel=1e-12)
    seen = run(case, pipe, STEPS, latents=pipe.scheduler.init_noise_sigma * z)
    x = ss.sample(model, z.shape, LATE, nfe=STEPS, z=z)
    assert len(seen.inputs) == STEPS
    assert close(seen.states[-1], x)


def test_a_late_first_call_is_refused_where_nobody_scales():
    case = CASES["DDPM"]
    with pytest.raises(ValueError, match="starts from unit noise"):
        run(case, with_solver(tiny.ddpm("v_prediction"), LATE), STEPS)


# From images.


def image_to_image(**options):
    return tiny.stable_diffusion("StableDiffusionImg2ImgPipeline", **options)


def noised(pipe, x, call):
    """The start that the pipeline makes of the latents `x` for its first call, and that call's time."""
    sde, u = pipe.scheduler._reading.sde, pipe.scheduler.timesteps[call].double()
    t = pipe.scheduler._reading.time_of(u)
    noise = torch.randn(x.shape, generator=generator())
    return (sde.alpha(t) * x + sde.sigma(t) * noise).float(), float(t)


@tiny.needs_transformers
@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++2m", "unipc3", "ipndm3", "late", "fitted late"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_images_to_images(name, strength):
    """From call b on, the solver on the rest of the grid: no history, and no late call where there is no first step."""
    pipe = image_to_image(prediction_type="v_prediction")
    given = {"late": LATE, "fitted late": late_fit()}.get(name, name)
    scheduler = with_solver(pipe, given, grid=None if "late" in name else "trailing").scheduler
    x = 0.5 * torch.randn(BATCH, 4, 8, 8, generator=generator(5))
    case = CASES["StableDiffusion"]
    seen = run(case, pipe, STEPS, image=x, strength=strength)
    table = scheduler._tableau
    call = (STEPS - int(STEPS * strength)) * scheduler.order
    z, t = noised(pipe, x, call)
    rest = [t, *(time for time in table_grid(table).tolist() if time < t - 1e-6)]
    plain = solvers.IPNDM(order=3) if "late" in name else name
    expected = ss.sample(model_of(pipe, **case.prompts), z.shape, plain, z=z, grid=torch.tensor(rest, dtype=torch.float64))
    assert close(seen.states[-1], expected)
    assert len(seen.inputs) == len(scheduler.timesteps) - call


@tiny.needs_transformers
@pytest.mark.parametrize(("name", "steps", "first"), [("plms", 6, 3), ("edm", 20, 1), ("restart", 6, 5)])
def test_a_start_that_a_solver_does_not_have_is_refused_by_name(name, steps, first):
    """PLMS makes an extra call at the start, EDM's churn and restarts may need more noise than the start has."""
    pipe = with_solver(image_to_image(), name, seed=0)
    with pytest.raises(ValueError, match=name):
        run(CASES["StableDiffusion"], pipe, steps, image=torch.zeros(2, 4, 8, 8), strength=(steps - first) / steps)


@tiny.needs_transformers
@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++2m"])
def test_inpainting_edits_are_what_the_network_sees(name):
    """The pipeline blends the state that `step` returned with the image, noised to the time of the next call."""
    pipe = with_solver(tiny.stable_diffusion("StableDiffusionInpaintPipeline"), name, grid="trailing")
    blended, known = [], []
    add_noise = pipe.scheduler.add_noise

    def recorded(x, noise, timesteps):
        known.append((add_noise(x, noise, timesteps), x, noise, float(timesteps.reshape(-1)[0])))
        return known[-1][0]

    def see(pipeline, i, t, tensors):
        blended.append(tensors["latents"].clone())
        return tensors

    pipe.scheduler.add_noise = recorded
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    seen = run(
        CASES["StableDiffusion"],
        pipe,
        STEPS,
        image=torch.rand(1, 3, 16, 16),
        mask_image=mask,
        strength=1.0,
        callback_on_step_end=see,
    )
    states = [state[:BATCH] for state in seen.inputs]
    assert all(torch.equal(state, edited) for state, edited in zip(states[1:], blended[:-1], strict=True))
    assert not torch.equal(blended[0], seen.states[0])
    sde = pipe.scheduler._reading.sde
    assert [u for *_, u in known] == seen.times[1:]
    for noisy, x, noise, u in known:
        t = (u + 1) / 1000
        torch.testing.assert_close(noisy, (sde.alpha(t) * x + sde.sigma(t) * noise).float(), rtol=0, atol=1e-6)


# Noise.


@tiny.needs_transformers
def test_a_list_of_generators_makes_samples_that_do_not_depend_on_the_batch():
    case, pipe = CASES["StableDiffusion"], tiny.stable_diffusion()
    with_solver(pipe, "ancestral", grid="trailing")
    state = torch.get_rng_state()
    together = run(case, pipe, generator=[generator(1), generator(2)]).states[-1]
    for i, prompt in enumerate(TEXT["prompt"]):
        one = TEXT | {"prompt": prompt, "negative_prompt": "d", "generator": [generator(1 + i)]}
        assert close(run(case, pipe, **one).states[-1], together[i : i + 1])
    assert torch.equal(torch.get_rng_state(), state)


@tiny.needs_transformers
def test_a_seed_repeats_where_the_pipeline_passes_no_generator():
    case, runs = CASES["StableDiffusion3"], {}
    for seed in (1, 2, None):
        pipe = with_solver(case.make(), "ancestral", grid="trailing", seed=seed)
        runs[seed] = [run(case, pipe).states[-1] for _ in range(2)]
    assert torch.equal(*runs[1])
    assert not torch.equal(runs[1][0], runs[2][0])
    assert not torch.equal(*runs[None])


@tiny.needs_transformers
def test_times_do_not_pass_through_the_networks_precision():
    """750 is 752 in bfloat16."""
    case, pipe = CASES["StableDiffusion"], tiny.stable_diffusion()
    network = tiny.text_unet.__wrapped__().eval()
    pipe.unet = network.to(torch.bfloat16)
    pipe.text_encoder = tiny.text_encoder.__wrapped__().eval().to(torch.bfloat16)
    with_solver(pipe, "dpm++2m", grid=[0.751, 0.5005, 0.0])
    seen = run(case, pipe, 2)
    assert seen.times == pytest.approx([750.0, 499.5], abs=1e-4)
    assert seen.states[-1].dtype == torch.bfloat16


# Fitted solvers and files.


FIT = {"reference_steps": 16, "refine": 0, "progress": False}


def late_fit():
    """A fitted solver whose first call is late, its coefficients those of `LATE`."""
    sde = Scheduler.from_scheduler(tiny.sd_scheduler())._reading.sde
    table = LATE.tableau(sde, grids.late(sde, STEPS + 1))
    settings = {"theory": "late-ipndm3 late 1"}
    return FittedSolver(multistep(table), schedule_fingerprint(sde), False, 1.0, 1.0, ("late", 1.0, 1.0), settings, "")


@tiny.needs_transformers
def test_from_a_pipeline_to_its_own_solver_and_back(tmp_path, caplog, monkeypatch):
    """A model of the pipeline, a fit, its file, the file in the pipeline, the pipeline in a folder, and the same image from there."""
    monkeypatch.setattr("scoresde.tuning.search.TIME_MOVES", (0.4,))  # for speed
    case, pipe = with_velocity()
    model = model_of(pipe, **case.prompts)
    with pytest.warns(UserWarning, match="reference"):  # it is short
        fitted = solvers.fit(model, STEPS, shape=model.event, trajectories=8, cond=model.cond(8), **FIT)
    fitted.save(tmp_path / "six.safetensors")
    pipe.scheduler = Scheduler.from_scheduler(pipe.scheduler, tmp_path / "six.safetensors")
    seen = run(case, pipe, STEPS)
    assert len(seen.inputs) == STEPS
    noise = torch.randn(BATCH, 4, 8, 8, generator=generator())
    assert close(seen.states[-1], ss.sample(model_of(pipe, **TEXT), noise.shape, fitted, z=noise))
    with caplog.at_level(logging.WARNING):
        pipe.save_pretrained(tmp_path / "pipe")
        again = tiny.quiet(type(pipe).from_pretrained(tmp_path / "pipe"))
    assert not [
        record for record in caplog.records if "scoresde" in record.getMessage() or "scheduler" in record.getMessage().lower()
    ]
    assert sorted(path.name for path in (tmp_path / "pipe/scheduler").iterdir()) == ["scheduler_config.json", "solver.safetensors"]
    same = run(case, again, STEPS)
    assert close(same.states[-1], seen.states[-1])
    again.unet, again.text_encoder = pipe.unet, pipe.text_encoder
    assert torch.equal(run(case, again, STEPS).states[-1], seen.states[-1])
    with pytest.raises(ValueError, match="num_inference_steps=6"):
        run(case, pipe, 50)


def test_a_fit_for_a_pipeline_that_does_not_scale_its_noise_has_no_late_first_call(monkeypatch):
    """Its pilot tries none."""
    monkeypatch.setattr(
        "scoresde.tuning.selection.PORTFOLIO", {"late-ipndm3": (LATE, ("late 1",)), "ddim": (solvers.DDIM(), ("trailing 1",))}
    )
    pipe = tiny.ddpm("v_prediction")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = fitted_scheduler(pipe, 3, trajectories=8, fit_options=FIT)
        late = solvers.select(model_of(pipe), 3, (3, 8, 8), 2, reference_steps=16)
        plain = solvers.select(model_of(pipe), 3, (3, 8, 8), 2, reference_steps=16, late=False)
    assert scheduler._solver.form.t_start is None
    assert {entry.name for entry in late.ranking} == {"late-ipndm3 late 1", "ddim trailing 1"}
    assert {entry.name for entry in plain.ranking} == {"ddim trailing 1"}
    pipe.scheduler = scheduler
    assert len(run(CASES["DDPM"], pipe, 3).inputs) == 3


@pytest.mark.parametrize(
    ("solver", "grid"),
    [
        ("unipc3", None),
        (None, "karras"),
        (solvers.SEEDS(order=2), [1.0, 0.5, 0.0]),
        (solvers.LateFirstCall(solvers.IPNDM(order=2)), partial(grids.late, rule=grids.trailing, ratio=15.0)),
        (solvers.StepDown(solvers.DPMSolver(order=2), eta=0.5), grids.quadratic),
        (solvers.DPMSolverPP(order=2, compat="midpoint"), partial(grids.karras, rho=5.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_configuration_keeps_any_solver_and_any_grid(solver, grid, tmp_path):
    source = tiny.ddpm().scheduler
    ours = Scheduler.from_scheduler(source, solver, grid=torch.tensor(grid) if isinstance(grid, list) else grid, seed=4)
    ours.save_pretrained(tmp_path)
    loaded = Scheduler.from_pretrained(tmp_path)
    swapped = Scheduler.from_config(ours.config)
    for other in (loaded, swapped):
        assert other._solver == ours._solver
        assert other.config["seed"] == 4
        for each in (ours, other):
            each.set_timesteps(2 if isinstance(grid, list) else 5)
        assert torch.equal(ours.timesteps, other.timesteps)
        assert ours._tableau.rows == other._tableau.rows


@pytest.mark.parametrize("subfolder", [None, "scheduler"])
def test_a_fitted_solver_comes_from_a_folder_and_from_the_hub(subfolder, tmp_path, monkeypatch):
    ours = Scheduler.from_scheduler(tiny.sd_scheduler(), late_fit())
    ours.save_pretrained(tmp_path / (subfolder or ""))

    def download(repository, filename, *, subfolder=None, revision=None, **options):
        assert (repository, revision) == ("owner/name", "v1")
        return str(tmp_path / (subfolder or "") / filename)

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", download)
    monkeypatch.setattr("scoresde.interop.diffusers.source.hf_hub_download", download)
    for loaded in (
        Scheduler.from_pretrained(tmp_path, subfolder=subfolder),
        Scheduler.from_pretrained("owner/name", subfolder=subfolder, revision="v1"),
    ):
        loaded.set_timesteps(STEPS)
        ours.set_timesteps(STEPS)
        assert loaded._tableau.rows == ours._tableau.rows
        assert loaded.init_noise_sigma == ours.init_noise_sigma < 1


def test_a_plan_brings_its_times():
    sde = Scheduler.from_scheduler(tiny.ddpm().scheduler)._reading.sde
    plan = ss.plan(sde, "unipc3", steps=4, grid="quadratic")
    ours = Scheduler.from_scheduler(tiny.ddpm().scheduler, plan)
    ours.set_timesteps(4)
    assert ours._tableau.rows == plan.tableau.rows
    with pytest.raises(ValueError, match="num_inference_steps=4"):
        ours.set_timesteps(5)
    with pytest.raises(ValueError, match="give no grid="):
        Scheduler.from_scheduler(tiny.ddpm().scheduler, plan, grid="trailing")


def test_what_a_configuration_cannot_hold_is_refused():
    source = tiny.ddpm().scheduler

    class Own(solvers.DDIM):
        pass

    for options in ({"solver": Own()}, {"solver": "ddim", "grid": lambda sde, steps: None}):
        with pytest.raises(TypeError, match="configuration holds"):
            Scheduler.from_scheduler(source, **options)
    with pytest.raises(TypeError, match="from_scheduler"):
        Scheduler.from_config(source.config)
    with pytest.raises(TypeError, match="from_scheduler"):
        Scheduler()


def test_their_schedulers_find_their_configuration_in_ours():
    """`X.from_config(pipe.scheduler.config)`, as pipelines do it themselves, keeps the betas of the source."""
    import diffusers

    source = diffusers.DDPMScheduler(beta_start=2e-4, beta_end=0.03, clip_sample=False)
    ours = Scheduler.from_scheduler(source, "unipc3")
    back = diffusers.DDIMScheduler.from_config(ours.config)
    assert torch.equal(back.alphas_cumprod, source.alphas_cumprod)
    assert len(ours) == 1000
    assert torch.equal(Scheduler.from_scheduler(ours, "ddim")._reading.sde.betas, ours._reading.sde.betas)


def test_without_diffusers_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("scoresde.interop.diffusers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install diffusers"):
        __import__("scoresde.interop.diffusers.scheduler")


# model_of.


def test_model_of_refuses_what_it_does_not_know():
    class OtherPipeline:
        pass

    with pytest.raises(ValueError, match="not OtherPipeline: use from_diffusers"):
        model_of(OtherPipeline())
    with pytest.raises(ValueError, match="has no guidance"):
        model_of(tiny.ddpm(), guidance_scale=2.0)


@tiny.needs_transformers
def test_prompts_take_turns_by_their_numbers():
    model = model_of(tiny.stable_diffusion(), **TEXT)
    z = torch.randn(4, 4, 8, 8, generator=generator())
    numbers = torch.tensor([1, 0, 1, 1])
    out = model.output(z, 0.5, prompt=numbers)
    for i, number in enumerate(numbers):
        alone = model_of(tiny.stable_diffusion(), **TEXT | {"prompt": TEXT["prompt"][number], "negative_prompt": "d"})
        assert close(alone.output(z[i : i + 1], 0.5), out[i : i + 1])
    with pytest.raises(ValueError, match="2 prompts for a batch of 4"):
        model.output(z, 0.5)
    assert model.cond(5)["prompt"].tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(ValueError, match="sees 9 channels for 4"):
        model_of(tiny.stable_diffusion("StableDiffusionInpaintPipeline", channels=9), prompt="a")
