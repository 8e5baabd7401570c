"""Names of other libraries: each alias has their coefficients, on the same noise levels."""

import inspect

import pytest
import torch

import scoresde as ss
from benchmarks.peers import k_diffusion
from scoresde import grids, sampling, solvers
from scoresde.audit.hosts import diffusers as scheduler_host
from scoresde.audit.hosts import functions
from scoresde.audit.levels import Levels
from scoresde.audit.probe import of_tableau, probe
from scoresde.sampling import aliases, registry
from scoresde.solvers.on_grid import OnGrid

from ..conftest import linear_betas, mixture

# Their last step to 0 may use older values; ours is the data prediction.
LEVELS, STEPS = Levels(20.0, 0.05), 6


def ours(name, levels):
    """The coefficients of our solver of this name, in x = z/alpha."""
    sigmas = levels.sigmas(STEPS)
    sde = ss.EDM(float(sigmas[sigmas > 0][-1]), float(sigmas[0]))
    return of_tableau(solvers.get(name).tableau(sde, sigmas / sigmas[0]))


def assert_equal(name, theirs, levels=LEVELS):
    mine = ours(name, levels)
    noises = [made.noise[:, (made.noise.abs() > 1e-6).any(0)] for made in (mine, theirs)]  # they may draw what they do not use
    for a, b in ((mine.start, theirs.start), (mine.data, theirs.data), noises):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6 * max(1.0, float(b.abs().amax()) if b.numel() else 1.0))


def k_diffusion_sampler(name):
    module = k_diffusion() or pytest.skip("k-diffusion is not installed")
    theirs = getattr(module, f"sample_{name}")
    draws = "noise_sampler" in inspect.signature(theirs).parameters

    def sampler(model, x, sigmas):
        # Their Brownian tree has independent increments too.
        options = {"noise_sampler": lambda *_: torch.randn_like(x)} if draws else {}
        return theirs(model, x, sigmas, disable=True, **options)

    return sampler


@pytest.mark.parametrize(
    "name",
    [
        "euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms", "dpmpp_2s_ancestral", "dpmpp_2m", "dpmpp_2m_sde",
    ],
)  # fmt: skip
def test_names_of_k_diffusion_are_its_samplers(name):
    theirs = probe(functions.sampler_of(k_diffusion_sampler(name)), LEVELS, STEPS)
    for spelling in (name, f"sample_{name}", f"k_{name}", name.upper().replace("_", " ")):
        assert_equal(spelling, theirs)


def test_dpmpp_2s_is_that_of_k_diffusion_without_noise():
    module = k_diffusion() or pytest.skip("k-diffusion is not installed")

    def sampler(model, x, sigmas):
        return module.sample_dpmpp_2s_ancestral(model, x, sigmas, disable=True, eta=0.0)

    assert_equal("dpmpp_2s", probe(functions.sampler_of(sampler), LEVELS, STEPS))


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_3m_sde"])
def test_samplers_with_other_coefficients_are_no_aliases(name):
    """Their 3M SDE halves the quadratic term, and their noise of the stages is that of a Brownian tree in sigma."""
    suggested = registry.SIMILAR[{"dpmpp_sde": "dpm++ sde"}.get(name, name)][0]
    with pytest.raises(AssertionError):
        assert_equal(suggested, probe(functions.sampler_of(k_diffusion_sampler(name)), LEVELS, STEPS))
    with pytest.raises(ValueError, match=f"did you mean '{suggested.replace('+', '.')}'"):
        solvers.get(name)


SCHEDULERS = [name for name in aliases.ALIASES if name.endswith("Scheduler")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_classes_of_diffusers_are_their_schedulers(name):
    diffusers = pytest.importorskip("diffusers")
    # By default it makes its last steps by lower orders where there are few, as ours before the step to 0.
    options = {"lower_order_final": False} if "DEIS" in name else {}
    # A state of UniPC is corrected in the step after it.
    levels = Levels(20.0, 0.0) if "UniPC" in name else LEVELS
    theirs = probe(scheduler_host.sampler_of(getattr(diffusers, name), **options), levels, STEPS)
    assert_equal(name, theirs, levels)
    if name != "DDPMScheduler":  # "ddpm" is the paper, which takes the other variance
        assert solvers.get(name.removesuffix("Scheduler").lower()) == solvers.get(name)


def test_ddpm_is_the_formula_of_its_paper():
    """Ho et al. 2020, algorithm 2 with sigma_t^2 = beta_t: z = (z - beta/sqrt(1 - abar) eps)/sqrt(1 - beta) + sqrt(beta) xi."""
    sde = ss.VPSDE.from_betas(linear_betas(20))
    betas, bar = sde.betas, torch.cumprod(1 - sde.betas, 0)
    tableau = solvers.get("ddpm").tableau(sde, grids.ddpm(sde, 20))
    for n, row in enumerate(tableau.rows[:-1]):
        beta, abar = betas[19 - n], bar[19 - n]
        eps = -beta / (1 - abar).sqrt() / (1 - beta).sqrt()
        # eps = (z - sqrt(abar) D)/sqrt(1 - abar)
        assert row.data[n] == pytest.approx(float(-eps * abar.sqrt() / (1 - abar).sqrt()), rel=1e-9)
        assert row.z[n] == pytest.approx(float((1 - beta) ** -0.5 + eps / (1 - abar).sqrt()), rel=1e-9)
        assert next(iter(row.xi.values())) == pytest.approx(float(beta.sqrt()), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "solver", "grid"),
    [
        ("DPM++ 2M Karras", aliases.DPMPP_2M, "karras"),
        ("DPM++ 2M SDE Exponential", aliases.DPMPP_2M_SDE, "exponential"),
        ("dpmpp_2m_karras", aliases.DPMPP_2M, "karras"),
        ("Euler a Karras", solvers.Ancestral("posterior"), "karras"),
        ("LMS Karras", aliases.LMS, "karras"),
        ("DPM++ 2S a Karras", solvers.StepDown(solvers.DPMSolverPP2S()), "karras"),
        ("ddim linear", solvers.DDIM(), "uniform"),
        ("unipc2 half_log_snr", solvers.UniPC(2), "half_log_snr"),
    ],
)
def test_a_grid_at_the_end_of_a_name_is_the_grid(name, solver, grid):
    found = solvers.get(name)
    assert found == OnGrid(solver, grid)
    assert solvers.get(registry.spelled(name)) == found
    made = ss.plan(ss.VPSDE(), name, steps=5)
    assert (made.solver, made.grid_name) == (solver, grid)
    assert torch.equal(made.times, grids.get(grid)(ss.VPSDE(), 5))
    # A grid that is given wins.
    assert ss.plan(ss.VPSDE(), name, steps=5, grid="tangent").grid_name == "tangent"


def test_a_loop_takes_its_grid_by_keyword():
    with pytest.raises(ValueError, match="'pc' is a loop, which takes its grid by grid='karras'"):
        solvers.get("pc karras")


def test_our_names_are_ours_in_every_spelling():
    assert solvers.get("DPM++2M") == solvers.DPMSolverPP(2)
    assert solvers.get("DPM++ 2M") == solvers.get("dpmpp_2m") == solvers.DPMSolverPP(2, compat="midpoint")
    assert solvers.get("Euler_Maruyama") is solvers.get("euler-maruyama")
    assert solvers.get("k_heun") is solvers.get("HEUN")
    assert all(solvers.get(name.upper()) is solvers.get(name) for name in solvers.names())
    assert not set(aliases.ALIASES) & set(solvers.names())


def test_every_alias_is_found_and_has_a_name():
    for alias in aliases.ALIASES:
        found = solvers.get(alias)
        assert solvers.get(sampling.registry.name_of(found)) == found
        assert solvers.get(registry.spelled(alias)) == found


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("ddpm2", ["ddpm"]), ("dpmsolver", ["dpm2", "dpm3", "dpm2m", "dpmsolver++"]), ("PNDMScheduler", ["plms", "ipndm4"]),
        ("DPM fast", ["dpm3", "dpm2"]), ("rk45", ["adaptive", "heun"]), ("defualt", ["default"]), ("DPM++", ["dpmpp_2m", "dpm++2m"]),
        ("unipc4", ["unipc", "unipc2", "unipc3"]),
    ],
)  # fmt: skip
def test_names_are_suggested_by_meaning(name, suggested):
    with pytest.raises(ValueError, match=f"no solver is called '{name.replace('+', '.')}'; did you mean") as error:
        solvers.get(name)
    said = str(error.value)
    assert set(suggested) & {word.strip("'?") for word in said.split()}
    assert said.count("'") <= 2 * (1 + registry.SUGGESTIONS)
    assert "solvers.names()" in said
    assert len(said) < 300


def test_nonsense_gets_no_list_of_all_solvers():
    with pytest.raises(ValueError, match=r"no solver is called 'xyzzy': solvers.names\(\) lists all") as error:
        solvers.get("xyzzy")
    assert len(str(error.value)) < 160


@pytest.mark.parametrize("name", ["LCM", "lcm", "LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler", "sample_lcm"])
def test_solvers_of_distilled_networks_are_refused_as_such(name):
    with pytest.raises(ValueError, match=f"'{name}' is for distilled networks, which are not here"):
        solvers.get(name)


def test_every_suggestion_is_a_name():
    assert all(solvers.get(name) for similar in aliases.SIMILAR.values() for name in similar)


def test_default_and_auto_are_names_wherever_there_is_a_model(capsys):
    model = mixture().model(ss.VPSDE())
    assert ss.plan(model, "Default", nfe=4).nfe == 4
    assert registry.spelled("AUTO") == "auto"
    picked = ss.plan(model, "AUTO", nfe=4, event=(2,))
    assert picked.nfe == 4
    x = ss.sample(model, (2, 2), "auto", nfe=4, seeds=range(2))
    assert torch.equal(ss.sample(model, (2, 2), picked, seeds=range(2)), x)
    assert "auto: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="'auto' needs the model in place of its path"):
        ss.plan(ss.VPSDE(), "auto", nfe=4)


def test_auto_is_a_name_in_sample_to(tmp_path):
    model = mixture().model(ss.VPSDE())
    ss.sample_to(tmp_path / "x", model, 3, (2,), "auto", nfe=4)
    (rows,) = ss.read_samples(tmp_path / "x")
    torch.testing.assert_close(rows.x, ss.sample(model, (3, 2), "auto", nfe=4, seeds=range(3)))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("linear", "uniform"),
        ("Karras", "karras"),
        ("half-log-snr", "half_log_snr"),
        ("logSNR", "half_log_snr"),
        ("quad", "quadratic"),
    ],
)
def test_grids_have_aliases(name, ours):
    assert grids.get(name) is grids.get(ours)
    assert ss.plan(ss.VPSDE(), "ddim", steps=3, grid=name).grid_name == ours


@pytest.mark.parametrize(
    ("name", "hint"), [("leading", "spacing='leading'"), ("sgm_uniform", "trailing, power=1"), ("karas", "karras")]
)
def test_grids_are_suggested(name, hint):
    with pytest.raises(ValueError, match=f"no grid is called '{name}'; did you mean .*{hint}"):
        grids.get(name)
