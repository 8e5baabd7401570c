"""Twenty samplers with one fault each: the audit must name the property that is broken."""

import itertools
import math

import pytest
import torch

from scoresde import audit


def grow(sigma, x):
    """Sigma for each sample, as the network wants it."""
    return sigma.to(x.dtype).expand(len(x))


def euler(denoiser, z, sigmas):
    """x_t = x_s + (t - s) (x_s - D)/s."""
    for s, t in itertools.pairwise(sigmas):
        z = z + (t - s) / s * (z - denoiser(z, grow(s, z)))
    return z


def heun(denoiser, z, sigmas, weight=0.5, last="euler"):
    """Trapezes; an Euler step to sigma = 0."""
    for s, t in itertools.pairwise(sigmas):
        first = (z - denoiser(z, grow(s, z))) / s
        end = z + (t - s) * first
        if t == 0:
            z = end if last == "euler" else z
            continue
        z = z + (t - s) * ((1 - weight) * first + weight * (end - denoiser(end, grow(t, z))) / t)
    return z


def two_m(denoiser, z, sigmas, ratio=lambda h, before: h / (2 * before), sign=1.0):
    """DPM-Solver++ 2M: x_t = (t/s) x_s + (1 - t/s) ((1 + r) D - r D_before), r = h/(2 h_before)."""
    old, before = None, None
    for s, t in itertools.pairwise(sigmas):
        data = denoiser(z, grow(s, z))
        h = torch.log(s / t)
        mixed = data if old is None or t == 0 else data + sign * ratio(h, before) * (data - old)
        z = t / s * z + (1 - t / s) * mixed
        old, before = data, h
    return z


def ancestral(denoiser, z, sigmas, seed=None, up=1.0, down=1.0, last=False, noise=None):
    """Ancestral steps with noise of a generator."""
    generator = torch.Generator().manual_seed(torch.initial_seed() if seed is None else seed)
    noise = noise or (lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype))
    for s, t in itertools.pairwise(sigmas):
        data = denoiser(z, grow(s, z))
        z = data + down * (t / s) ** 2 * (z - data)
        z = z + up * t * (1 - (t / s) ** 2).clamp(min=0).sqrt() * noise(z)
    return z + 0.05 * noise(z) if last else z


def reads_the_batch(denoiser, z, sigmas):
    """A "batch norm": the state is rescaled by its mean square over the batch."""
    return euler(lambda x, s: denoiser(x, s) * (x.square().mean() / x.square().mean().clamp(min=1e-3)) + 1e-3 * x.mean(), z, sigmas)


def draws_for_nothing(denoiser, z, sigmas):
    torch.randn_like(z)
    return euler(denoiser, z, sigmas)


def seeds_itself(denoiser, z, sigmas, generator=None):
    return ancestral(denoiser, z, sigmas, noise=torch.randn_like)


def writes_over(denoiser, z, sigmas):
    z.copy_(euler(denoiser, z, sigmas))
    return z


def writes_over_outputs(denoiser, z, sigmas):
    for s, t in itertools.pairwise(sigmas):
        data = denoiser(z, grow(s, z))
        z = z + (t - s) / s * (z - data)
        data.mul_(0)
    return z


def extra_call(denoiser, z, sigmas):
    for s, t in itertools.pairwise(sigmas):
        denoiser(z, grow(s, z))
        z = z + (t - s) / s * (z - denoiser(z, grow(s, z)))
    return z


def shifted_twice(denoiser, z, sigmas):
    """The network is told the level after a shift, and the state has the one before."""
    return euler(lambda x, s: denoiser(x, 1.3 * s / (1 + 0.3 * s / sigmas[0])), z, sigmas)


def clock_of(denoiser, z, sigmas):
    """The level of the next step."""
    for s, t in itertools.pairwise(sigmas):
        z = z + (t - s) / s * (z - denoiser(z, grow(0.9 * s, z)))
    return z


def one_step_missing(denoiser, z, sigmas):
    return euler(denoiser, z, sigmas[:-1])


def scaled_start(denoiser, z, sigmas):
    return euler(denoiser, 1.05 * z, sigmas)


def divides_by_the_number_of_steps(denoiser, z, sigmas):
    return euler(denoiser, z, sigmas) if len(sigmas) > 2 else z / (len(sigmas) - 2)


def half_inside(denoiser, z, sigmas):
    """Powers of sigma that overflow in half precision."""
    for s, t in itertools.pairwise(sigmas):
        slope = (z - denoiser(z, grow(s, z))) * (1e3 * z.new_ones(())) ** 2 / (1e3 * s) ** 2 * s
        z = z + (t - s) * slope
    return z


def other_seed(denoiser, z, sigmas):
    return ancestral(denoiser, z, sigmas, seed=0)


def fresh_seed(denoiser, z, sigmas):
    return ancestral(denoiser, z, sigmas, seed=torch.seed() % 2**40)


FAULTS = {
    "wrong weight of Heun": (lambda d, z, s: heun(d, z, s, weight=0.3), {"order": 2}, "order conditions"),
    "wrong ratio of 2M": (lambda d, z, s: two_m(d, z, s, lambda h, before: 0.3), {"order": 2}, "order conditions"),
    "wrong sign of 2M": (lambda d, z, s: two_m(d, z, s, sign=-1.0), {"order": 2}, "order conditions"),
    "steps taken for equal": (lambda d, z, s: two_m(d, z, s, lambda h, before: 1.0), {"order": 2}, "order conditions"),
    "order of the name": (euler, {"order": 2}, "order conditions"),
    "missing last step": (lambda d, z, s: heun(d, z, s, last="none"), {"order": 2}, "noise left"),
    "one step too few": (one_step_missing, {"order": 1}, "noise left"),
    "noise at the end": (lambda d, z, s: ancestral(d, z, s, last=True), {"order": 1}, "noise left"),
    "too much noise": (lambda d, z, s: ancestral(d, z, s, up=1.2), {"order": 1}, "point mass"),
    "too little contraction": (lambda d, z, s: ancestral(d, z, s, down=0.9), {"order": 1}, "bias"),
    "batch norm": (reads_the_batch, {"order": 1}, "batch"),
    "draws for nothing": (draws_for_nothing, {"order": 1}, "global state"),
    "global noise beside a generator": (seeds_itself, {"order": 1}, "global state"),
    "one seed for all": (other_seed, {"order": 1}, "seeds"),
    "a seed of its own": (fresh_seed, {"order": 1}, "seeds"),
    "start written over": (writes_over, {"order": 1}, "inputs"),
    "outputs written over": (writes_over_outputs, {"order": 1}, "inputs"),
    "two calls for one": (extra_call, {"order": 1, "calls_per_step": 1}, "calls"),
    "double shift": (shifted_twice, {"order": 1}, "point mass"),
    "another level": (clock_of, {"order": 1}, "point mass"),
    "start scaled": (scaled_start, {"order": 1}, "order conditions"),
    "one step divides by zero": (divides_by_the_number_of_steps, {"order": 1}, "steps"),
    "overflow in half precision": (half_inside, {"order": 1}, "precision"),
}
SOUND = {
    "Euler": (euler, {"order": 1, "calls_per_step": 1}),
    "Heun": (heun, {"order": 2}),
    "2M": (two_m, {"order": 2, "calls_per_step": 1}),
    "ancestral": (lambda d, z, s: ancestral(d, z, s), {"order": 1, "calls_per_step": 1}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault):
    sampler, claims, broken = FAULTS[fault]
    found = audit.run(sampler, name=fault, **claims)
    assert broken in found.broken, found.markdown()


def test_a_note_on_an_order_below_the_claim_says_so():
    found = audit.run(euler, order=2, calls_per_step=1)
    assert "order conditions" in found.broken
    assert "; below the claimed 2: the order conditions decide" in found.findings["order"].text
    assert "claimed" not in audit.run(euler, order=1, calls_per_step=1).findings["order"].text


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_sampler_is_not_accused(name):
    sampler, claims = SOUND[name]
    found = audit.run(sampler, name=name, **claims)
    assert not found.broken, found.markdown()
    if not found.stochastic:
        assert found.findings["order conditions"].numbers["order"] == pytest.approx(claims["order"], abs=0.2)
    assert math.isfinite(found.findings["bias"].numbers["error"])
