"""Solvers on linear SDEs: measured orders, exact laws of results, stacked tables, and what has no meaning."""

import math
from functools import cache

import pytest
import torch

import scoresde as ss
from scoresde import grids, solvers
from scoresde.models.in_basis import in_basis
from scoresde.numerics.coefficients import add, apply, compose, congruent, root
from scoresde.numerics.quadrature import lagrange, lagrange_slopes
from scoresde.numerics.random import BatchNoise
from scoresde.solvers import DDIM, GDDIM, Ancestral, DPMSolver
from scoresde.solvers.blocks import stacked, table
from scoresde.tableau import run
from scoresde.tableau.analysis import block_moments, block_w2
from scoresde.tableau.tensors import from_tensors, to_tensors

from ..conftest import SDES, generator
from ..linear import COUPLED, DIAGONAL, EVENT, MEAN, NAMES, STD, exact_flow, gaussian, processes, two_modes

T_END = 0.05


def solved(sde, solver, steps, z):
    """The state at T_END in the basis, from the state `z` at 1, on a grid that is uniform in lambda.

    The first interval is divided, as multistep methods need starting values: the first step has order 1, and would leave an error h^2.
    """
    model = in_basis(gaussian().model(sde))
    first, last = (float(sde.half_log_snr(t)) for t in (1.0, T_END))
    lam = torch.linspace(first, last, steps + 1, dtype=torch.float64)
    divided = lam[0] + (lam[1] - lam[0]) * torch.tensor([1 / 64, 1 / 16, 1 / 4], dtype=torch.float64)
    inside = sde.time(torch.cat([divided, lam[1:-1]]))
    grid = torch.cat([torch.ones(1, dtype=torch.float64), inside, torch.tensor([T_END], dtype=torch.float64)])
    return run(table(solver, model.sde, grid), model, z, BatchNoise()).x


@cache
def start_and_end(name):
    """States at 1 and where the exact flow takes them, once for all orders."""
    sde = processes()[name]
    z = sde.in_basis().prior((8, *EVENT), generator(), dtype=torch.float64)
    return z, exact_flow(sde, z, T_END)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_measured_orders(name, order):
    """The slope over a doubling against the exact flow of Gaussian data, where no start changes mode; .15 as asked."""
    sde, (z, exact) = processes()[name], start_and_end(name)
    counts = (64, 128) if name in COUPLED or order == 3 else (256, 512) if order == 2 else (128, 256)
    errors = [float((solved(sde, GDDIM(order), n, z) - exact).square().mean().sqrt()) for n in counts]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["gddim2", "sde-gddim2", "em"])
def test_moments_are_those_of_samples(name, solver):
    """25,000 samples in eight steps, within five standard errors: sqrt(v/n) of a mean, v sqrt(2/n) of a variance."""
    sde, n = processes()[name], 25_000
    chosen = solvers.EulerMaruyama() if solver == "em" else solvers.get(solver)
    grid = grids.trailing(sde, 8)
    tableau = table(chosen, sde, grid)
    mean, covariance = block_moments(tableau, torch.tensor(0.0), torch.tensor(STD))
    data = ss.analytic.GaussianMixture(torch.zeros(1, *EVENT), torch.tensor([STD**2]))
    x = ss.sample(data.model(sde), (n, *EVENT), tableau, generator=generator(1), dtype=torch.float32, batch_size=10_000)
    in_the_basis = sde.basis.to(x.double()).reshape(n, -1)
    variance = covariance[:, 0, 0].expand(6)
    assert float((in_the_basis.mean(0) / (variance / n).sqrt()).abs().max()) < 5
    assert float(((in_the_basis.var(0) / variance - 1) / (2 / n) ** 0.5).abs().max()) < 5
    assert float(mean.abs().max()) == 0


def test_w2_falls_with_the_order_of_the_solver():
    spectrum = torch.full((6,), STD**2, dtype=torch.float64)
    for name in ("coloured", "cld"):
        sde = processes()[name]
        first, second = (block_w2(table(GDDIM(k), sde, grids.trailing(sde, 64)), spectrum) for k in (1, 2))
        assert second < first / 3
        assert table(GDDIM(2), sde, grids.trailing(sde, 64)).gaussian_w2(spectrum) == second


def test_block_moments_are_those_of_a_path_of_numbers():
    vp = ss.VPSDE()
    one = ss.OUSDE(torch.ones(1))
    grid = grids.trailing(vp, 7)
    for solver in (GDDIM(2), GDDIM(2, 0.7), DDIM(0.5)):
        m, s = solver.tableau(vp, grid).moments(MEAN, STD)
        mean, covariance = block_moments(table(solver, one, grid), torch.tensor(MEAN), torch.tensor(STD))
        # The prior of `OUSDE` has sigma(1) = .99998 in the place of 1.
        assert float(mean) == pytest.approx(m, abs=1e-4)
        assert float(covariance) ** 0.5 == pytest.approx(s, abs=1e-4)
    with pytest.raises(TypeError, match=r"one coefficient: Tableau"):
        block_moments(DDIM().tableau(vp, grid), torch.tensor(0.0), torch.tensor(1.0))


@pytest.mark.parametrize("name", [name for name in SDES if name != "zero terminal"])
def test_on_numbers_it_is_ddim_and_ancestral_sampling(name):
    sde = SDES[name]
    grid = grids.trailing(sde, 6)
    for ours, theirs in ((GDDIM(1), DDIM()), (GDDIM(1, 1.0), Ancestral(variance="posterior"))):
        for mine, row in zip(ours.tableau(sde, grid).rows, theirs.tableau(sde, grid).rows, strict=True):
            for a, b in zip(mine, row, strict=True):
                assert set(a) == set(b)
                assert all(abs(a[j] - b[j]) <= 1e-9 * max(1, abs(b[j])) for j in a)


@pytest.mark.parametrize("order", [2, 3])
def test_on_the_classical_sde_it_is_deis(order):
    """DEIS interpolates noise predictions in t; where both take first-order values the steps are DDIM's, so that only the quadrature of data
    predictions is compared: with the weights of an integral by scipy."""
    from scipy.integrate import quad

    sde = ss.VPSDE()
    grid = grids.trailing(sde, 8)
    row, s, t = GDDIM(order).tableau(sde, grid).rows[4], float(grid[4]), float(grid[5])
    nodes = [float(grid[j]) for j in sorted(row.data)]
    for j, node in zip(sorted(row.data), nodes, strict=True):

        def slope(u, node=node):
            # sigma_t l_j d(alpha/sigma), with d(alpha/sigma)/dt = -g^2/(2 sigma^2) alpha/sigma.
            polynomial = math.prod((u - other) / (node - other) for other in nodes if other != node)
            ratio = float(sde.alpha(u) / sde.sigma(u))
            return -polynomial * float(sde.sigma(t)) * 0.5 * float(sde.diffusion(u) / sde.sigma(u)) ** 2 * ratio

        assert row.data[j] == pytest.approx(quad(slope, s, t)[0], rel=1e-8)


@pytest.mark.parametrize("name", DIAGONAL)
@pytest.mark.parametrize(("solver", "same"), [(DDIM(), GDDIM(1)), (Ancestral(variance="posterior"), GDDIM(1, 1.0))])
def test_stacked_tables_are_those_of_the_writer(name, solver, same):
    sde = processes()[name]
    grid = grids.trailing(sde, 6)
    for mine, row in zip(stacked(solver, sde, grid).rows, same.tableau(sde, grid).rows, strict=True):
        for a, b in zip(mine, row, strict=True):
            for j in {*a, *b}:
                ours, theirs = (torch.as_tensor(part.get(j, 0.0), dtype=torch.float64).expand(6) for part in (a, b))
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


STAGES = ("dpm2", "dpm3", "dpm++2s", "seeds2", "seeds3", "dpm2-ancestral", "dpm++2s-ancestral", "edm", "restart")


def test_which_solvers_stack():
    """All but those with stages at a lambda of their own."""
    sde = ss.OUSDE(torch.ones(2), torch.tensor([1.0, 1.5]))
    grid = grids.trailing(sde, 4)
    for name in solvers.names():
        solver = solvers.get(name)
        if not isinstance(solver, solvers.Solver):
            continue
        if name in STAGES:
            with pytest.raises(ValueError, match="differ from block to block"):
                table(solver, sde, grid)
        else:
            assert table(solver, sde, grid).has_blocks


def test_a_stacked_table_does_to_a_block_what_the_solver_does_to_a_path():
    """Coordinate k of an OU process with rate theta is a VP SDE with betas times theta."""
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    sde = ss.OUSDE(torch.ones(3), rates)
    grid = grids.trailing(ss.VPSDE(), 6)
    made = table(solvers.get("unipc3"), sde, grid)
    for k, rate in enumerate(rates.tolist()):
        alone = solvers.get("unipc3").tableau(ss.VPSDE(0.1 * rate, 20 * rate), grid)
        for mine, row in zip(made.rows, alone.rows, strict=True):
            for a, b in zip(mine, row, strict=True):
                assert all(float(torch.as_tensor(a[j]).expand(3)[k]) == pytest.approx(c, rel=1e-9) for j, c in b.items())


@pytest.mark.parametrize("name", COUPLED)
def test_what_has_no_meaning_on_several_channels(name):
    sde = processes()[name]
    grid = grids.trailing(sde, 4)
    for solver in (DPMSolver(order=2), Ancestral(), DDIM(0.5), solvers.get("unipc3"), solvers.get("edm")):
        with pytest.raises(ValueError, match=r"needs the lambda of a path of numbers.*gddim1"):
            table(solver, sde, grid)
    for solver in (DDIM(), DDIM(1.0), Ancestral(variance="posterior"), solvers.get("deis2"), solvers.EulerMaruyama()):
        assert table(solver, sde, grid).nfe == 4
    with pytest.raises(ValueError, match="loop for paths of numbers"):
        ss.plan(sde, "adaptive", steps=10)


def test_a_block_without_noise_needs_the_writer():
    sde = ss.TimesSDE.inpainting(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="take GDDIM"):
        table(solvers.get("dpm++2m"), sde, grids.trailing(sde, 4))
    x = torch.randn(50, 2, dtype=torch.float64, generator=generator())
    data = ss.analytic.GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[[1.0, 0.9], [0.9, 1.0]]]))
    z, _ = sde.perturb(x, 1.0, generator(1))
    for solver in ("gddim2", "sde-gddim1"):
        out = ss.sample(data.model(sde), x.shape, solver, steps=6, z=z)
        torch.testing.assert_close(out[:, 0], x[:, 0], rtol=0, atol=1e-12)


def test_inpainting_draws_from_the_conditional():
    """With correlation .9, x_2 | x_1 ~ N(.9 x_1, .19): the path of `TimesSDE` needs no method for inpainting."""
    sde, n = ss.TimesSDE.inpainting(torch.tensor([True, False])), 20_000
    covariance = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]], dtype=torch.float64)
    model = ss.analytic.GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), covariance).model(sde)
    x = torch.full((n, 2), 1.5, dtype=torch.float64)
    z, _ = sde.perturb(x, 1.0, generator())
    out = ss.sample(model, (n, 2), "gddim3", steps=60, z=z)[:, 1]
    # Five standard errors, and the bias of 60 steps.
    assert float(out.mean()) == pytest.approx(1.35, abs=5 * (0.19 / n) ** 0.5 + 1e-2)
    assert float(out.var()) == pytest.approx(0.19, abs=5 * 0.19 * (2 / n) ** 0.5 + 1e-2)


@pytest.mark.parametrize("name", ["cld", "hold", "blurring"])
def test_a_point_mass_takes_one_step(name):
    """gDDIM (arXiv 2206.05564, section 4): with R from R' = (F + G G^T Sigma^{-1}/2) R the noise eps = R^{-1} (z - A x) stays along the flow of
    a point mass, so that one step is exact. With the Cholesky factor of Sigma it turns, and many steps are needed."""
    sde = processes()[name].in_basis()
    x = torch.full((4, *EVENT), 0.7, dtype=torch.float64)
    z = sde.prior((4, *EVENT), generator(), dtype=torch.float64)
    start, end = torch.ones(1, dtype=torch.float64), torch.tensor([T_END], dtype=torch.float64)

    def after(steps):
        grid = torch.linspace(1, T_END, steps + 1, dtype=torch.float64)
        state = z
        for row in GDDIM(1).tableau(sde, grid).rows:
            ((_, a),), ((_, b),) = row.z.items(), row.data.items()
            state = apply(a, state) + apply(b, x)
        return state

    torch.testing.assert_close(after(1), after(40), rtol=0, atol=1e-8)
    if sde.channels == 1:
        return

    def noises(factor):
        return [apply(torch.linalg.inv(factor(t)), at - sde.times(sde.signal(t), x)) for t, at in ((start, z), (end, after(1)))]

    by_cholesky = noises(lambda t: root(sde.covariance(t)))
    by_flow = noises(
        lambda t: sde.backward(start, t) @ root(sde.covariance(start)) if float(t) < 1 else root(sde.covariance(start))
    )
    torch.testing.assert_close(by_flow[1], by_flow[0], rtol=0, atol=1e-8)
    assert float((by_cholesky[1] - by_cholesky[0]).abs().max()) > 0.3


def test_a_table_with_blocks_goes_through_a_file():
    for name in ("cld", "coloured"):
        made = table(GDDIM(2, 1.0), processes()[name], grids.trailing(processes()[name], 5))
        again = from_tensors(processes()[name], to_tensors(made))
        for a, b in zip(made.rows, again.rows, strict=True):
            for mine, theirs in zip(a, b, strict=True):
                assert set(mine) == set(theirs)
                assert all(torch.equal(torch.as_tensor(mine[j]), torch.as_tensor(theirs[j])) for j in mine)


def test_coefficients_compose_and_add():
    z = torch.randn(5, 2, 3, 4, dtype=torch.float64, generator=generator())
    matrix, numbers = torch.randn(4, 2, 2, dtype=torch.float64, generator=generator(1)), torch.randn(4, dtype=torch.float64)
    single = torch.randn(1, 2, 2, dtype=torch.float64, generator=generator(2))
    for a, b in ((matrix, numbers), (numbers, matrix), (matrix, single), (0.3, matrix), (single, -2.0), (numbers, 0.5)):
        torch.testing.assert_close(apply(compose(a, b), z), apply(a, apply(b, z)))
    for a, b in ((matrix, single), (0.3, matrix), (single, -2.0), (numbers, 0.5)):
        torch.testing.assert_close(apply(add(a, b), z), apply(a, z) + apply(b, z))
    each = torch.randn(5, 4, 2, 2, dtype=torch.float64, generator=generator(3))
    torch.testing.assert_close(apply(each, z)[3], apply(each[3], z[3:4])[0])
    x = z[:, 0]
    column = matrix[:, :, :1]
    torch.testing.assert_close(apply(column, x), torch.stack([apply(column[:, 0, 0], x), apply(column[:, 1, 0], x)], 1))
    torch.testing.assert_close(apply(column.mT, z), apply(column[:, 0, 0], z[:, 0]) + apply(column[:, 1, 0], z[:, 1]))


def test_a_root_without_full_rank_is_triangular():
    v = torch.tensor([[[0.0, 0.0], [0.0, 3.0]], [[1.0, 2.0], [2.0, 4.0]], [[2.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)[None]
    r = root(v)
    torch.testing.assert_close(congruent(r, torch.eye(2, dtype=torch.float64).expand_as(v)), v)
    assert float(r[..., 0, 1].abs().max()) == 0


def test_the_slopes_of_lagrange_polynomials():
    nodes, at = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), torch.linspace(-2, 2, 9, dtype=torch.float64)
    h = 1e-6
    numeric = (lagrange(nodes, at + h) - lagrange(nodes, at - h)) / (2 * h)
    torch.testing.assert_close(lagrange_slopes(nodes, at), numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_same_in_any_batch(name):
    model = two_modes().model(processes()[name])
    whole = ss.sample(model, (6, *EVENT), "sde-gddim2", steps=4, seeds=range(6), dtype=torch.float64)
    parts = ss.sample(model, (6, *EVENT), "sde-gddim2", steps=4, seeds=range(6), dtype=torch.float64, batch_size=4)
    alone = ss.sample(model, (1, *EVENT), "sde-gddim2", steps=4, seeds=[4], dtype=torch.float64)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(alone[0], whole[4])
    torch.testing.assert_close(ss.sample(model, (6, *EVENT), steps=4, seeds=range(6)).shape, whole.shape)


def test_a_basis_is_a_rotation_of_the_event():
    """An OU process with a full covariance samples what one with its eigenvalues samples in rotated coordinates."""
    sde = processes()["ou"]
    turned = two_modes()
    inside = ss.analytic.GaussianMixture(
        sde.basis.to(turned.means.reshape(2, *EVENT)),
        sde.basis.matrix @ turned.full_covariances() @ sde.basis.matrix.T,
        turned.weights,
    )
    x = ss.sample(turned.model(sde), (4, *EVENT), "sde-gddim2", steps=6, seeds=range(4), dtype=torch.float64)
    y = ss.sample(inside.model(sde.in_basis()), (4, *EVENT), "sde-gddim2", steps=6, seeds=range(4), dtype=torch.float64)
    torch.testing.assert_close(sde.basis.to(x), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["cld", "coloured"])
def test_paths_and_callbacks_show_the_events_own_coordinates(name):
    sde, seen = processes()[name], []
    model = two_modes().model(sde)
    z = sde.prior((3, *EVENT), generator(), dtype=torch.float64)
    out = ss.sample(model, (3, *EVENT), "gddim2", steps=5, z=z, trajectory=True, callback=lambda *step: seen.append(step))
    torch.testing.assert_close(out.path[0], z)
    for n, t, state, data in seen:
        torch.testing.assert_close(state, out.path[n])
        torch.testing.assert_close(data, model.data(state, t), rtol=1e-8, atol=1e-8)
    end = out.path[-1] if sde.channels == 1 else out.path[-1][:, 0]
    torch.testing.assert_close(end, out.x)
    assert (out.nfe, out.x.shape) == (5, (3, *EVENT))
    with pytest.raises(ValueError, match="still depends on the data"):
        ss.sample(model, (3, *EVENT), "gddim2", steps=5, t_start=0.2)
    late = ss.sample(model, (3, *EVENT), "gddim2", steps=5, t_start=0.2, z=sde.perturb(out.x, 0.2, generator())[0])
    assert late.shape == out.x.shape


@pytest.mark.parametrize("name", ["cld", "blurring"])
def test_on_every_device(device, name):
    """Coefficients follow the states to their device."""
    sde = processes()[name]
    network = ss.networks.SideBySide(ss.networks.MLP((2, 2, 3), 16)) if sde.channels == 2 else ss.networks.MLP(EVENT, 16)
    model = ss.ScoreModel(network, sde).to(device).eval()
    x = ss.sample(model, (3, *EVENT), "sde-gddim2", steps=3, seeds=range(3))
    assert x.device.type == device.type
    torch.testing.assert_close(
        x.cpu(), ss.sample(model.cpu(), (3, *EVENT), "sde-gddim2", steps=3, seeds=range(3)), rtol=1e-3, atol=1e-3
    )


def test_a_start_needs_noise_in_every_block():
    """The block that forgets last decides, and what is known has no noise to start from."""
    slow = ss.OUSDE(torch.ones(2), torch.tensor([0.01, 4.0]))
    data = ss.analytic.GaussianMixture(torch.zeros(1, 2), torch.ones(1))
    with pytest.raises(ValueError, match="in some block"):
        ss.sample(data.model(slow), (3, 2), steps=4, t_start=0.9)
    known = ss.TimesSDE.inpainting(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="in some block"):
        ss.sample(data.model(known), (3, 2), steps=4)
    with pytest.raises(ValueError, match="without noise at t = 1"):
        known.prior((3, 2))


def test_inference_mode_changes_nothing():
    """Derivatives of scales need a graph, which inference mode does not record."""
    model, x = two_modes().model(processes()["coloured"]), two_modes().sample(2, generator())
    z = ss.encode(model, x, t_end=T_END)
    euler = ss.sample(model, (2, *EVENT), "euler-maruyama", steps=5, seeds=range(2))
    with torch.inference_mode():
        torch.testing.assert_close(ss.encode(model, x, t_end=T_END), z)
        torch.testing.assert_close(ss.sample(model, (2, *EVENT), "euler-maruyama", steps=5, seeds=range(2)), euler)


@pytest.mark.parametrize("name", ["coloured", "cld"])
def test_an_unrolled_model_is_the_sampler(name):
    sde = processes()[name]
    model = two_modes().model(sde)
    z = sde.prior((3, *EVENT), generator(), dtype=torch.float64)
    unrolled = ss.unroll(model, ss.plan(sde, "gddim2", steps=4))
    torch.testing.assert_close(unrolled(z), ss.sample(model, (3, *EVENT), "gddim2", steps=4, z=z))
    with pytest.raises(TypeError, match="no single"):
        _ = unrolled.start_std


@pytest.mark.parametrize("name", ["coloured", "cld"])
def test_what_is_written_for_numbers_refuses_by_name(name):
    """Nothing that asks for one alpha or sigma answers for blocks in silence."""
    sde = processes()[name]
    model, x = two_modes().model(sde), two_modes().sample(2, generator())
    z = sde.prior((2, *EVENT), generator(), dtype=torch.float64)
    likelihood = ss.inverse.Gaussian(ss.inverse.operators.mask(torch.ones(EVENT)), 0.1)
    for ask in (
        lambda: ss.losses.elbo(model, x, grid=grids.uniform(sde, 4)),
        lambda: ss.losses.finite_difference(model, z, 0.5),
        lambda: ss.losses.draw_times(sde, 4, "likelihood"),
        lambda: ss.models.ReverseSDE(model).drift(z, 0.5),
        lambda: ss.sample(ss.inverse.pigdm(model, likelihood), (2, *EVENT), "gddim1", steps=2, y=x),
        lambda: ss.models.thresholded(model, -1, 1).data(z, 0.5),
    ):
        with pytest.raises((TypeError, ValueError), match=type(sde).__name__):
            ask()


def test_guidance_takes_every_process():
    """Classifier-free guidance combines outputs, whatever the process: at weight 0 and 1 one of the two models, between them their mix."""

    class Two(torch.nn.Module):
        null = -1

        def forward(self, z, t, label):
            out = z[:, -1] if z.ndim > 4 else z
            return out * (label.reshape(-1, *(1,) * (out.ndim - 1)) + 1.0) * 0.1

    for name in ("cld", "coloured"):
        sde = processes()[name]
        model = ss.ScoreModel(Two(), sde)
        label = torch.tensor([0, 2])
        z = sde.prior((2, *EVENT), generator())
        guided = ss.guidance.Guided(model, 2.0)
        with_class, without = model.noise(z, 0.5, label=label), model.noise(z, 0.5, label=torch.full((2,), -1))
        torch.testing.assert_close(guided.noise(z, 0.5, label=label), without + 2 * (with_class - without), rtol=1e-4, atol=1e-5)
        assert ss.sample(guided, (2, *EVENT), nfe=3, label=label, seeds=range(2)).shape == (2, *EVENT)
