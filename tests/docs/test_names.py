"""docs/names.md: the library takes every name on the right; where a row says "same", both samplers have the same coefficients."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

import scoresde as ss
from benchmarks.peers import k_diffusion
from scoresde import analytic, grids, guidance, models, solvers
from scoresde.audit.hosts.azula import sampler_of as of_azula
from scoresde.audit.hosts.diffusers import sampler_of as of_scheduler
from scoresde.audit.hosts.functions import sampler_of as of_function
from scoresde.audit.levels import Levels
from scoresde.audit.named import sampler_of
from scoresde.audit.probe import NotLinearError, probe

PAGE = (Path(__file__).parents[2] / "docs" / "names.md").read_text()
CHAIN = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
NAMES = {"ss": ss, "torch": torch, "partial": partial, "grids": grids, "guidance": guidance, "models": models, "solvers": solvers}
# Audited from a level to one above 0, and to 0: which end a host's last steps are like ours at depends on the host.
ENDS = (0.02, 0.0)


def tables():
    """`(heading, rows)` of every table, a row a list of cells."""
    for section in PAGE.split("\n## ")[1:]:
        for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
            lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
            yield section.splitlines()[0], lines[0], lines[2:]


def cells(start, *, column=None):
    """The cells "here" of the tables below headings that begin with `start`, with the cells of another column."""
    for heading, header, rows in tables():
        if heading.startswith(start):
            at = next(i for i, name in enumerate(header) if name.startswith("here"))
            for row in rows:
                yield (row[at], row) if column is None else (row[at], row[column], row[-1])


def values(cell):
    """Every code of a cell, as Python."""
    return [eval(code, NAMES | {"sde": CHAIN}) for code in re.findall(r"`([^`]+)`", cell)]


SOLVERS = sorted({code for cell, _ in cells("Solvers") for code in re.findall(r"`([^`]+)`", cell)})


@pytest.mark.parametrize("code", SOLVERS)
def test_every_solver_samples(code):
    model = analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1)).model(CHAIN)
    budget = {"steps": 2000} if code == '"adaptive"' else {"steps": 4}
    x = ss.sample(model, (2, 2), eval(code, NAMES), seeds=range(2), **budget)
    assert x.shape == (2, 2)


def test_the_page_has_its_tables():
    assert len(SOLVERS) > 30
    assert len([heading for heading, _, _ in tables()]) == 8


def test_every_grid_makes_a_plan():
    for cell, row in cells("Grids"):
        for grid in values(cell):
            steps = {} if isinstance(grid, torch.Tensor) else {"steps": 6}
            # The shift of flow models would leave the chain.
            path = ss.RectifiedFlow() if "shift" in row[0] else CHAIN
            assert ss.plan(path, "ddim", grid=grid, **steps).nfe > 0, row


def test_every_prediction_and_time_is_taken():
    for cell, row in cells("Predictions"):
        for prediction in values(cell):
            assert ss.ScoreModel(torch.nn.Identity(), CHAIN, prediction), row
    for cell, row in cells("What the network"):
        for time in values(cell):
            assert ss.ScoreModel(torch.nn.Identity(), CHAIN, time=time).network_time(0.5).numel() == 1, row


def test_every_option_exists():
    names = NAMES | {"model": ss.ScoreModel(torch.nn.Identity(), CHAIN), "scale": 2.0}
    for cell, _ in cells("Options"):
        for code in re.findall(r"`([^`]+)`", cell):
            if not code.endswith("="):
                eval(code.removeprefix("rule="), names)


@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas", "use_beta_sigmas"])
def test_grids_of_diffusers_are_these(key):
    diffusers = pytest.importorskip("diffusers")
    from scoresde.interop.diffusers import read

    (name,) = (values(cell)[0] for cell, row in cells("Grids") if key in row[0])
    their = read(diffusers.DPMSolverMultistepScheduler(**{key: True})).grid(8)
    torch.testing.assert_close(their, ss.plan(CHAIN, "ddim", steps=8, grid=name).times, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_grids_of_k_diffusion_are_these(name):
    k = k_diffusion() or pytest.skip("k-diffusion is not installed")
    theirs = getattr(k, f"get_sigmas_{name}")(8, 0.002, 80.0)
    torch.testing.assert_close(80 * grids.get(name)(ss.EDM(), 8), theirs.double(), rtol=1e-4, atol=1e-6)


# --- coefficients ----------------------------------------------------------------------------------------------------------------------


def distance(a, b):
    """The largest difference between the coefficients of two runs; of noise, between the covariances of states."""
    if a.data.shape != b.data.shape:
        return float("inf")
    covariances = [run.noise @ run.noise.T / (1e-6 + torch.outer(run.sigmas, run.sigmas)) for run in (a, b)]
    pairs = ((a.start, b.start), (a.data, b.data), covariances, (a.sigmas, b.sigmas))
    return max(float((x - y).abs().max()) for x, y in pairs)


def nearest(theirs, ours):
    """The smaller of the distances to the two ends."""
    found = []
    for low in ENDS:
        with suppress(NotLinearError):
            found.append(distance(*(probe(sampler, Levels(20.0, low), 8) for sampler in (theirs, ours))))
    return min(found)


def their_sampler(call, column):
    """What a cell on the left names, as a sampler to audit."""
    name = call.split("(")[0]
    if column == "diffusers":
        host = partial(of_scheduler, getattr(pytest.importorskip("diffusers"), name))
    elif column == "k-diffusion":
        module = k_diffusion() or pytest.skip("k-diffusion is not installed")

        def host(**options):
            return of_function(partial(getattr(module, name), **options), name)

    else:
        module = pytest.importorskip("azula.sample", exc_type=ImportError)
        host = partial(of_azula, getattr(module, name))
    return eval(call, {name: host})


LIBRARIES = {"Solvers: diffusers": "diffusers", "Solvers: k-diffusion": "k-diffusion", "Solvers: azula": "azula"}
SAME = [
    (re.search("`([^`]+)`", left)[1], here.strip("`"), column)
    for start, column in LIBRARIES.items()
    for here, left, note in cells(start, column=0)
    if note.startswith("same")
]


@pytest.mark.filterwarnings("ignore")  # hosts warn of their own matters
@pytest.mark.parametrize(("call", "here", "column"), SAME, ids=[f"{column} {call}" for call, _, column in SAME])
def test_the_same_is_the_same(call, here, column):
    solver = eval(here, NAMES)
    ours = sampler_of(solvers.get(solver) if isinstance(solver, str) else solver)
    with torch.random.fork_rng([]):
        assert nearest(their_sampler(call, column), ours) < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_the_same_is_seen():
    """The comparison can fail: the two weights of DPM-Solver++ 2M, and another order."""
    ours = sampler_of("dpm++2m")
    assert nearest(sampler_of(solvers.DPMSolverPP(2, compat="midpoint")), ours) > 1e-3
    assert nearest(sampler_of("dpm++3m"), ours) > 1e-3
    assert nearest(sampler_of("ancestral"), sampler_of("ancestral-posterior")) > 1e-3


def accepted(name):
    """The solver that the library understands by a name of others; None where it refuses the name."""
    try:
        return solvers.get(name)
    except ValueError:
        return None


def test_an_understood_name_is_that_of_the_row():
    """A class of diffusers or a function of k-diffusion with its defaults, given by its name, is the solver on the right."""
    understood = []
    for start in ("Solvers: diffusers", "Solvers: k-diffusion"):
        for here, left, _ in cells(start, column=0):
            name = re.search(r"`(\w+)\(\)`", left)
            if name and (found := accepted(name[1])) is not None:
                (expected,) = values(here)
                assert found == (solvers.get(expected) if isinstance(expected, str) else expected), name[1]
                understood.append(name[1])
    assert len(understood) > 15


def test_the_names_of_the_introduction_are_understood():
    introduction = PAGE.split("\n## ")[0]
    names = re.findall(r'`"([^"]+)"`', introduction)
    assert len(names) == 3
    for name in names:
        assert ss.plan(CHAIN, name, steps=4).nfe == 4
    (prediction,), (time,) = (re.findall(f'{key}="(\\w+)"', introduction) for key in ("prediction", "time"))
    assert ss.ScoreModel(torch.nn.Identity(), CHAIN, prediction, time=time).prediction == "noise"


LEFT = [
    (name, column)
    for start, column in LIBRARIES.items()
    for _, left, _ in cells(start, column=0)
    for name in re.findall(r"`(\w+)", left)
    if not (start.startswith("Solvers: azula") and not name.endswith("Sampler"))
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "column"), LEFT)
def test_every_name_on_the_left_exists(name, column):
    if column == "diffusers":
        host = pytest.importorskip("diffusers")
    elif column == "k-diffusion":
        host = k_diffusion() or pytest.skip("k-diffusion is not installed")
    else:
        host = pytest.importorskip("azula.sample", exc_type=ImportError)
    assert getattr(host, name)
