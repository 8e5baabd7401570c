"""A scheduler of ours in the loops that pipelines write by hand: from the middle, with edits, in half precision, copied, saved."""

import copy
import logging

import numpy as np
import pytest
import torch

import scoresde as ss
from scoresde import analytic, grids, solvers
from scoresde.numerics.random import BatchNoise
from scoresde.tableau.executor import run

from ..conftest import generator

diffusers = pytest.importorskip("diffusers")

from scoresde.interop.diffusers import Scheduler, fitted_scheduler, read  # noqa: E402

from . import tiny  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
SHAPE = (3, 1, 4, 4)


def chain():
    return diffusers.DDPMScheduler(clip_sample=False, timestep_spacing="trailing")


def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


class Network:
    """The exact score of a mixture in the prediction of a scheduler, called as a pipeline calls its network."""

    def __init__(self, source, rounds=None):
        self.reading, self.seen = read(source), []
        self.model = ss.ScoreModel(
            self.module, self.reading.sde, self.reading.prediction, time=lambda sde, t: self.reading.network_time(t)
        )
        self.rounds = rounds

    def module(self, z, u):
        self.seen.append(z.clone())
        z = z if self.rounds is None else z.to(self.rounds).float()
        t = float(self.reading.time_of(torch.as_tensor(u).double().reshape(-1)[0]))  # one for all
        sde = self.reading.sde
        mixture = analytic.GaussianMixture(torch.tensor([[[[-0.5]]], [[[0.6]]]]), torch.tensor([0.04, 0.1]))
        x = mixture.model(sde).data(z.reshape(-1, 1, 1, 1), t).reshape(z.shape)
        a, b = (float(part) for part in ss.sde.direction(sde, t, self.reading.prediction))
        out = (a * x + b * (z - float(sde.alpha(t)) * x) / float(sde.sigma(t))).to(z.dtype)
        return out if self.rounds is None else out.to(self.rounds)


def host(scheduler, network, z, first=0, edit=None, gen=None):
    """The loop of a pipeline, from call `first` on."""
    for t in scheduler.timesteps[first:]:
        out = network.module(scheduler.scale_model_input(z, t), t.expand(1))
        z = scheduler.step(out, t, z, generator=gen).prev_sample
        z = z if edit is None else edit(z)
    return z


def start(seed=0, dtype=torch.float32):
    return torch.randn(SHAPE, generator=generator(seed)).to(dtype)


@pytest.mark.parametrize("source", [chain, flow])
@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++2m", "unipc3", "ipndm3", "dpm3"])
@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
def test_a_loop_from_the_middle_is_the_solver_on_the_rest_of_the_grid(source, name, strength):
    network, steps = Network(source()), 8
    scheduler = Scheduler.from_scheduler(source(), name, grid="trailing")
    scheduler.set_timesteps(steps)
    grid = grids.trailing(network.reading.sde, steps)
    n = steps - int(steps * strength)
    first = scheduler._tableau.evaluated.index(scheduler._tableau.step_evals[n])
    x, noise = 0.3 * start(1), start(2)
    z = scheduler.add_noise(x, noise, scheduler.timesteps[first : first + 1])
    ours = host(scheduler, network, z, first)
    expected = ss.sample(network.model, SHAPE, name, grid=grid[n:], z=z, t_start=float(grid[n]))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_a_start_that_a_solver_does_not_have_is_refused():
    for name, first, message in (("heun", 3, "in the middle of a step"), ("plms", 2, "plms"), ("restart", 5, "restart")):
        scheduler = Scheduler.from_scheduler(chain(), name, grid="trailing", seed=0)
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(first)
        with pytest.raises(ValueError, match=message):
            host(scheduler, Network(chain()), start(), first)


def test_edited_states_are_what_the_next_call_sees():
    """Inpainting replaces half of the state by noised data at the time of the state that `step` returned."""
    network, x, noise = Network(chain()), 0.3 * start(1), start(2)
    scheduler = Scheduler.from_scheduler(chain(), "dpm++2m", grid="trailing")
    scheduler.set_timesteps(6)
    times, i, wanted = scheduler.timesteps, 0, []

    def blend(z):
        nonlocal i
        i += 1
        if i < len(times):
            known = scheduler.add_noise(x, noise, times[i : i + 1])
            t = network.reading.time_of(times[i].double())
            sde = network.reading.sde
            torch.testing.assert_close(known, (sde.alpha(t) * x + sde.sigma(t) * noise).float(), rtol=0, atol=1e-6)
            z = torch.cat([known[..., :2], z[..., 2:]], -1)
        wanted.append(z)
        return z

    host(scheduler, network, start(), edit=blend)
    assert all(torch.equal(seen, state) for seen, state in zip(network.seen[1:], wanted[:-1], strict=True))


@pytest.mark.parametrize("edit", [lambda z: z * 0.9 + 0.1, lambda z: z.mul_(0.9).add_(0.1)], ids=["another tensor", "in place"])
@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "heun", "unipc3"])
def test_a_solver_goes_on_from_edited_states(name, edit):
    """With every state of a call edited, the result is that of the library's own loop whose states are edited."""
    network = Network(chain())
    scheduler = Scheduler.from_scheduler(chain(), name, grid="trailing")
    scheduler.set_timesteps(6)
    table = scheduler._tableau
    edited = {*table.evaluated, len(table.rows)}
    x = host(scheduler, network, start(), edit=edit)
    replay = run(table, network.model, start(), BatchNoise(), on_state=lambda k, z: edit(z.clone()) if k in edited else z).x
    torch.testing.assert_close(x, replay, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dpm++2m", "heun", "unipc3", "ipndm3"])
def test_half_precision_does_not_add_up(name):
    """The state inside is that of the float32 loop whose network alone is rounded."""
    network = Network(chain(), rounds=torch.bfloat16)
    scheduler = Scheduler.from_scheduler(chain(), name, grid="trailing")
    scheduler.set_timesteps(6)
    assert scheduler.timesteps.dtype == torch.float32
    z = start(dtype=torch.bfloat16)
    x = host(scheduler, network, z)
    inner = ss.sample(network.model, SHAPE, name, steps=6, grid="trailing", z=z.float())
    assert x.dtype == torch.bfloat16
    assert torch.equal(x, inner.to(torch.bfloat16))


def test_runs_copies_and_batches_are_independent():
    network = Network(chain())
    scheduler = Scheduler.from_scheduler(chain(), "unipc3", grid="trailing")
    scheduler.set_timesteps(5)
    first = host(scheduler, network, start())
    twin = copy.deepcopy(scheduler)
    for again in (scheduler, twin):
        again.set_timesteps(5)
        assert torch.equal(host(again, network, start()), first)
        again.set_timesteps(5)
        torch.testing.assert_close(host(again, network, start()[:1]), first[:1], rtol=0, atol=1e-6)
    with pytest.raises(RuntimeError, match="all 5 steps are done"):
        scheduler.step(first, scheduler.timesteps[-1], first)
    scheduler.set_timesteps(5)
    scheduler.step(first, scheduler.timesteps[0], start())
    for wrong in (0, 2):
        with pytest.raises(ValueError, match="is next"):
            scheduler.step(first, scheduler.timesteps[wrong], start())
    with pytest.raises(RuntimeError, match="call set_timesteps"):
        Scheduler.from_scheduler(chain(), "ddim").step(first, 999, first)


def test_generators_seeds_and_the_global_state():
    network, state = Network(chain()), torch.get_rng_state()
    scheduler = Scheduler.from_scheduler(chain(), "ancestral", grid="trailing")
    scheduler.set_timesteps(5)
    together = host(scheduler, network, start(), gen=[generator(s) for s in range(3)])
    for i in range(3):
        scheduler.set_timesteps(5)
        alone = host(scheduler, network, start()[i : i + 1], gen=[generator(i)])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-6)
    seeded = Scheduler.from_scheduler(flow(), "ancestral", grid="trailing", seed=3)
    runs = []
    for _ in range(2):
        seeded.set_timesteps(5)
        runs.append(host(seeded, Network(flow()), start()))
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), state)


def test_given_times_are_used_as_given_and_a_shift_once():
    scheduler = Scheduler.from_scheduler(flow(), "euler")
    scheduler.set_timesteps(4)
    plain = np.linspace(1, 0.25, 4)
    np.testing.assert_allclose(scheduler.timesteps / 1000, 3 * plain / (1 + 2 * plain), atol=1e-6)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.25, 4).tolist())
    np.testing.assert_allclose(scheduler.timesteps / 1000, [1, 0.9, 0.75, 0.5], atol=1e-6)
    on_chain = Scheduler.from_scheduler(chain(), "ddim")
    on_chain.set_timesteps(timesteps=[900.5, 400.0, 7.25])
    assert on_chain.timesteps.tolist() == [900.5, 400.0, 7.25]
    # A list may end with the sigma of the data.
    for sigmas in ([10.0, 1.0, 0.1], [10.0, 1.0, 0.1, 0.0]):
        on_chain.set_timesteps(sigmas=sigmas)
        np.testing.assert_allclose(on_chain.sigmas, [10, 1, 0.1, 0], rtol=1e-5)
    # EDM's own class takes given sigmas for the ramp of its rule.
    edm = Scheduler.from_scheduler(diffusers.EDMEulerScheduler(), "euler")
    edm.set_timesteps(sigmas=[80.0, 10.0, 1.0])
    np.testing.assert_allclose((4 * edm.timesteps).exp(), [80, 10, 1], rtol=1e-6)


def test_what_cannot_be_stepped_is_refused_by_name():
    for solver in ("adaptive", "pc", "torchsde-euler-heun"):
        if solver in solvers.names():
            with pytest.raises(ValueError, match="loop of its own"):
                Scheduler.from_scheduler(chain(), solver)
    with pytest.raises(ValueError, match=r"clip_sample=True.*clip=False"):
        Scheduler.from_scheduler(diffusers.DDPMScheduler(), "ddim")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        Scheduler.from_scheduler(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False), "ddim")
    with pytest.raises(TypeError, match="needs a scheduler of diffusers"):
        Scheduler.from_scheduler("DDPMScheduler", "ddim")
    # A pipeline that starts from unit noise does not start a path of another scale.
    scheduler = Scheduler.from_scheduler(diffusers.EDMEulerScheduler(), "euler")
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="starts from unit noise"):
        scheduler.step(start(), scheduler.timesteps[0], start())


def test_a_pipeline_with_a_fitted_solver_is_kept_and_loaded(tmp_path, caplog, monkeypatch):
    """From a pipeline's network to a solver of six calls in it, in one call; the saved pipeline makes the same image."""
    monkeypatch.setattr("scoresde.tuning.search.TIME_MOVES", (0.4,))  # for speed
    pipe = tiny.ddpm()
    pipe.unet.eval()
    options = {"reference_steps": 16, "refine": 0, "progress": False}
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match="reference is off by"):
        pipe.scheduler = fitted_scheduler(pipe, 6, trajectories=8, fit_options=options)
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    image = pipe(batch_size=2, num_inference_steps=6, generator=generator(), output_type="np").images
    handle.remove()
    assert len(calls) == 6
    with pytest.raises(ValueError, match="num_inference_steps=6"):
        pipe(num_inference_steps=5)
    caplog.clear()
    pipe.save_pretrained(tmp_path / "pipe")
    again = tiny.quiet(diffusers.DDPMPipeline.from_pretrained(tmp_path / "pipe"))
    assert (tmp_path / "pipe/scheduler").is_dir()
    loaded = again(batch_size=2, num_inference_steps=6, generator=generator(), output_type="np").images
    # The sums inside the network are rounded by where its weights lie in memory.
    np.testing.assert_allclose(loaded, image, rtol=0, atol=1e-4)
    assert torch.equal(again.scheduler.timesteps, pipe.scheduler.timesteps)
    again.unet = pipe.unet
    assert np.array_equal(again(batch_size=2, num_inference_steps=6, generator=generator(), output_type="np").images, image)
    named = Scheduler.from_scheduler(chain(), "unipc3", grid="trailing")
    named.save_pretrained(tmp_path / "named")
    loaded, network = Scheduler.from_pretrained(tmp_path / "named"), Network(chain())
    for each in (named, loaded):
        each.set_timesteps(5)
    assert torch.equal(host(loaded, network, start()), host(named, network, start()))
