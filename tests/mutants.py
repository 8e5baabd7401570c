"""Planted faults: how many does the suite find? `make mutants`, or `python -m tests.mutants [NAME ...]`.

Each fault replaces one piece of code in a copy of the project. The tests of its own package run first, then all others. The pinned numbers
(tests/test_pin.py) would find most of them at once and are left out: what is measured is the power of the tests that know why. So is
tests/test_mutants.py, which sees that each fault still has its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = (
    "scoresde", "tests", "docs", "examples", "benchmarks", ".ci", ".github", "pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff",
    "CONTRIBUTING.md", "Makefile", "constraints.txt",
)  # fmt: skip


class Mutant(NamedTuple):
    """A fault: in `file` (below scoresde), `old`, which occurs once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTANTS = (
    # paths
    Mutant("time of VP without its quadratic term", "sde/vp.py", "2 * (self.beta_max - self.beta_min) * integral", "0 * integral"),
    Mutant(
        "sigma of VE without the variance at 0",
        "sde/families.py",
        "torch.expm1(2 * self.log_ratio * as_time(t)).sqrt()",
        "torch.exp(self.log_ratio * as_time(t))",
    ),
    Mutant("diffusion of sub-VP as that of VP", "sde/families.py", "-torch.expm1(-2 * self.integrated_beta(t))", "1"),
    Mutant(
        "inverse of lambda on rectified flow",
        "sde/families.py",
        "torch.sigmoid(-as_float64(half_log_snr))",
        "torch.sigmoid(-2 * as_float64(half_log_snr))",
    ),
    Mutant("a chain's interval open on the right", "sde/vp.py", "(torch.ceil(u).long() - 1)", "torch.floor(u).long()"),
    Mutant("posterior mean without e^h", "sde/transitions.py", "return sigma_s / sigma_t * h.exp(),", "return sigma_s / sigma_t,"),
    Mutant("drift of the reverse SDE with eta in place of eta^2", "models/reverse.py", "1 + self.eta**2", "1 + self.eta"),
    # predictions and models
    Mutant(
        "velocity with the wrong sign", "sde/base.py", "return -self.sigma(t), self.alpha(t)", "return self.sigma(t), self.alpha(t)"
    ),
    Mutant("score without its sign", "sde/prediction.py", "return zero, -1 / sigma", "return zero, 1 / sigma"),
    Mutant(
        "EDM's output scale",
        "sde/prediction.py",
        "return prediction.sign * sigma / s * c_in,",
        "return prediction.sign * sigma * c_in,",
    ),
    Mutant("index one too high", "models/score_model.py", "return t * sde.steps - 1", "return t * sde.steps"),
    Mutant(
        "EDM's time without its quarter",
        "models/score_model.py",
        "return -0.25 * sde.half_log_snr(t)",
        "return -sde.half_log_snr(t)",
    ),
    Mutant("mixture without the weights of its modes", "models/analytic.py", "self.weights.log() - 0.5", "-0.5"),
    # tables and the loop
    Mutant(
        "the last step scaled",
        "tableau/builder.py",
        "data={self.step_evals[-1]: t.alpha}",
        "data={self.step_evals[-1]: 0.99 * t.alpha}",
    ),
    Mutant("folding without the state's share", "tableau/tableau.py", "z[j] = add(z.get(j, 0.0), added)", "z[j] = z.get(j, 0.0)"),
    Mutant(
        "a converted output without its state",
        "tableau/executor.py",
        "combine([(held[at], convert[0]), (held[out], convert[1])], dtype)",
        "combine([(held[out], convert[1])], dtype)",
    ),
    Mutant(
        "a noise scaled that is used twice",
        "tableau/compile.py",
        "std = c if is_new and is_last and",
        "std = c if is_new and",
    ),
    Mutant(
        "a state released one row early",
        "tableau/compile.py",
        'last_use["z", j] = max(last_use.get(("z", j), j), j)',
        'last_use["z", j] = j',
    ),
    Mutant(
        "the evaluation of a corrected step",
        "tableau/builder.py",
        "self.step_evals.append(self.last if evaluated is None else evaluated)",
        "self.step_evals.append(self.last)",
    ),
    Mutant("moments without the noise", "tableau/analysis.py", "loadings[..., column[j]] += c", "pass"),
    Mutant("a table that is not checked", "tableau/tableau.py", "        check_rows(self.rows, self.times)\n", ""),
    # solvers
    Mutant(
        "second exponential moment",
        "numerics/quadrature.py",
        "moments.append(1 - p / x * moments[-1])",
        "moments.append(1 - p / x * moments[0])",
    ),
    Mutant(
        "DDIM's noise with eta in place of eta^2",
        "solvers/ancestral.py",
        "self.eta**2 * -math.expm1(-2 * h)",
        "self.eta * -math.expm1(-2 * h)",
    ),
    Mutant(
        "posterior and beta variance exchanged",
        "solvers/ancestral.py",
        "return s.sigma**u * t.sigma ** (1 - u)",
        "return t.sigma**u * s.sigma ** (1 - u)",
    ),
    Mutant(
        "noise of the exponential engine", "solvers/exponential.py", "-math.expm1(-2 * tau**2 * h)", "-math.expm1(-(tau**2) * h)"
    ),
    Mutant("a corrector that forgets the new value", "solvers/exponential.py", "(predicted, step.h)]", "(newest, 0.0)]"),
    Mutant(
        "order falls one step late",
        "solvers/exponential.py",
        "left = steps - n if to_zero else steps",
        "left = steps - n + 1 if to_zero else steps",
    ),
    Mutant(
        "Heun with Euler's weights",
        "solvers/heun.py",
        "at_s, at_t = 0.5 * math.expm1(-h), -0.5 * math.expm1(h)",
        "at_s, at_t = math.expm1(-h), -0.0 * math.expm1(h)",
    ),
    Mutant("a single step's third stage", "solvers/single_step.py", "b3 = x_phi2(-H) / r2", "b3 = x_phi2(-H) / r1"),
    Mutant(
        "no step from zero signal",
        "solvers/base.py",
        "z={j: t.sigma / table.points[j].sigma}",
        "z={j: 0.5 * t.sigma / table.points[j].sigma}",
    ),
    Mutant("velocity weights without their bound", "solvers/velocity.py", "if sum(map(abs, c)) <= growth", "if 0 <= growth"),
    Mutant(
        "Langevin noise without its root", "solvers/annealed_langevin.py", "scale * math.sqrt(c) * at.sigma", "scale * c * at.sigma"
    ),
    # loops
    Mutant("Brownian bridge without its spread", "loops/adaptive_sde.py", "expand((h * (1 - share)).sqrt(), xi) * xi", "0 * xi"),
    Mutant("a step accepted twice too easily", "numerics/dormand_prince.py", "accept = relative <= 1", "accept = relative <= 1000"),
    Mutant("Langevin step without the factor 2", "loops/predictor_corrector.py", "epsilon = (2 * shrink", "epsilon = (shrink"),
    # sampling
    Mutant("one step fewer than fit", "sampling/planning.py", "more = at(steps + 1)", "more = at(steps)"),
    Mutant(
        "seeds of a later part",
        "numerics/random.py",
        "return SeededNoise(self.seeds[start:stop])",
        "return SeededNoise(self.seeds[: stop - start])",
    ),
    Mutant(
        "noise of a start inside the path",
        "sampling/start.py",
        "sde.prior_std * float(sde.sigma(t) / sde.sigma(1.0))",
        "sde.prior_std",
    ),
    # losses and likelihoods
    Mutant("a clamp of min-SNR at 2", "losses/weightings.py", "half_log_snr(t))).clamp(max=1)", "half_log_snr(t))).clamp(max=2)"),
    Mutant(
        "importance without the length of the interval",
        "losses/times.py",
        "1 / ((sde.t_max - sde.t_min) * self.sampler",
        "1 / (self.sampler",
    ),
    Mutant("KL without its constant", "losses/elbo.py", "terms = ratio - 1 - ratio.log()", "terms = ratio - ratio.log()"),
    Mutant("sampled terms of the bound not scaled", "losses/elbo.py", "columns.append(kl * (steps / terms))", "columns.append(kl)"),
    Mutant(
        "the target of denoising with noise alone",
        "losses/denoising.py",
        "target = expand(a, x) * x + expand(b, x) * noise",
        "target = expand(b, x) * noise",
    ),
    Mutant(
        "sliced score matching without its half",
        "losses/score_matching.py",
        "(0.5 * event_sum(v * s) ** 2 + slope)",
        "(event_sum(v * s) ** 2 + slope)",
    ),
    Mutant(
        "the variance of a step with u and 1 - u exchanged",
        "sde/transitions.py",
        "sigma_t ** (2 * u) * sigma_s ** (2 - 2 * u)",
        "sigma_s ** (2 * u) * sigma_t ** (2 - 2 * u)",
    ),
    Mutant(
        "density without the scale at the data",
        "likelihood/flow.py",
        "(math.log(self.rho_1) + math.log(self.cos_end))",
        "math.log(self.rho_1)",
    ),
    Mutant(
        "Hutch++ without the length of the rest",
        "numerics/jacobian.py",
        "math.sqrt(q.shape[-1] - len(q))",
        "math.sqrt(q.shape[-1])",
    ),
    Mutant("prior mismatch without the mean", "likelihood/density.py", "+ shift * ", "+ 0 * shift * "),
    # tuning
    Mutant(
        "one ratio too few in the bound",
        "tuning/calibration.py",
        "k = math.ceil((len(ratios) + 1) * confidence - 1e-9)",
        "k = math.ceil(len(ratios) * confidence * 0.9)",
    ),
    Mutant("a fit that ignores its theory", "tuning/regression.py", "ridge * size", "0 * size"),
    # conditions
    Mutant("guidance: u + w c", "guidance/guided.py", "_factor(weight, c)) * (c - u)", "_factor(weight, c)) * c"),
    Mutant("guidance: w = 1 runs both", "guidance/guided.py", "if _all(weight, equal=1.0):", "if _all(weight, equal=1.5):"),
    Mutant(
        "guidance: negatives are ignored",
        "guidance/guided.py",
        "for name, value in self.uncond.items()} | given",
        "for name, value in self.uncond.items()}",
    ),
    Mutant(
        "guidance: times of a doubled batch",
        "guidance/guided.py",
        "time = torch.cat([time, time])",
        "time = time.repeat_interleave(2)",
    ),
    Mutant("guidance: an interval closed below", "guidance/weights.py", "(r > self.low)", "(r >= self.low)"),
    Mutant("guidance: a ramp of half its length", "guidance/weights.py", "/ self.ramp + 0.5", "/ self.ramp * 2 + 0.5"),
    Mutant("guidance: CFG++ with alpha of the start", "guidance/cfgpp.py", "tableau.times[k + 1]", "tableau.times[k]"),
    Mutant(
        "guidance: rescaling by one number for the batch",
        "guidance/rules.py",
        "return flatten_events(a).std(1, correction=0)",
        "return a.std(correction=0).expand(len(a))",
    ),
    Mutant(
        "guidance: APG from the weak prediction", "guidance/rules.py", "return strong + (weight - 1) *", "return weak + weight *"
    ),
    Mutant(
        "guidance: CFG-Zero* scales the strong part",
        "guidance/rules.py",
        "scaled = _along(strong, weak)",
        "scaled = _along(weak, strong)",
    ),
    Mutant("guidance: a product in the first prediction", "guidance/product.py", "if abs(total - 1) < 1e-12 else", "if True else"),
    Mutant("guidance: a product from the prior", "guidance/product.py", "self.start_scale = total**-0.5", "self.start_scale = 1.0"),
    Mutant(
        "guidance: tilt by sigma", "guidance/product.py", "shift = expand(sigma**2 / alpha, z)", "shift = expand(sigma / alpha, z)"
    ),
    Mutant("guidance: Feynman-Kac weights upside down", "guidance/feynman_kac.py", "group.add(h * (", "group.add(-h * ("),
    Mutant(
        "guidance: tilt without the noise of eta",
        "guidance/feynman_kac.py",
        "self.eta**2 / (1 + self.eta**2) * model.scale",
        "model.scale",
    ),
    Mutant(
        "loops: groups share their weights",
        "numerics/resampling.py",
        "log_weights.logsumexp(1, keepdim=True)",
        "log_weights.logsumexp((0, 1), keepdim=True)",
    ),
    Mutant(
        "inverse: K without the noise",
        "inverse/posterior.py",
        "stack.noise(u) + stack.forward(product",
        "0 * stack.noise(u) + stack.forward(product",
    ),
    Mutant("inverse: Tweedie without 1/alpha", "inverse/posterior.py", "sigma**2 / alpha\n", "sigma**2\n"),
    Mutant(
        "inverse: PiGDM with r^2",
        "inverse/covariances.py",
        "self.variance * at.r2 / (self.variance + at.r2)",
        "self.variance * at.r2",
    ),
    Mutant(
        "inverse: one vjp for each observation",
        "inverse/posterior.py",
        "spend(len(z), vjps=1)",
        "spend(len(z), vjps=len(self.likelihoods))",
    ),
    Mutant("inverse: Poisson without its gain", "inverse/likelihoods.py", "local.adjoint(self.gain *", "local.adjoint(1.0 *"),
    Mutant(
        "inverse: denoising without the state's precision",
        "inverse/denoising.py",
        "(alpha / sigma) ** 2 + self.std**-2",
        "self.std**-2",
    ),
    Mutant("inverse: twisted weights without the shift", "inverse/twisted.py", "0.5 * shift**2", "0 * shift**2"),
    Mutant(
        "inverse: one norm for the batch in DPS",
        "inverse/loops.py",
        "norm = torch.where(square > 0, square, 1.0).sqrt()",
        "norm = square.sum().sqrt()[None]",
    ),
    Mutant(
        "inverse: known entries one level behind",
        "inverse/loops.py",
        "self._known(sde, y, s, job.noise), ran.x)",
        "self._known(sde, y, t, job.noise), ran.x)",
    ),
    Mutant("inverse: DAPS anneals by r", "inverse/loops.py", "_ratio(sde, t) ** 2,", "_ratio(sde, t),"),
    Mutant("inverse: a draw without the noise of y", "inverse/conditional.py", "+ variances.sqrt() * drawn", "+ 0 * drawn"),
    Mutant("sbi: n times the prior", "sbi/composed.py", "lam = (1 - n) * p0", "lam = -n * p0"),
    Mutant(
        "sbi: second moments that are not centred",
        "sbi/composed.py",
        "centred = theta - theta.mean(1, keepdim=True)",
        "centred = theta",
    ),
    Mutant(
        "sbi: the mask the wrong way round", "sbi/masked.py", "return out[~mask.expand_as(out)]", "return out[mask.expand_as(out)]"
    ),
    Mutant(
        "diagnostics: the index of a chain the wrong way",
        "diagnostics/labels.py",
        "vertex = float(before.sum() - after.sum())",
        "vertex = float(after.sum() - before.sum())",
    ),
    Mutant("diagnostics: a linear guess without shrinkage", "diagnostics/linear_guess.py", "rho = min(1.0,", "rho = 0 * min(1.0,"),
    Mutant("diagnostics: a sign that is not tried", "diagnostics/readings.py", "reading.sign * float(c_out)", "float(c_out)"),
    Mutant(
        "diagnostics: the scale without the shift",
        "diagnostics/linear_guess.py",
        "mean=scale * self.mean + shift",
        "mean=scale * self.mean",
    ),
    Mutant(
        "diagnostics: coverage of the wrong side",
        "diagnostics/posteriors.py",
        "inside = (samples[:, :, 0] > theta)",
        "inside = (samples[:, :, 0] < theta)",
    ),
    Mutant("train: labels are never left out", "train/step.py", "< self.recipe.label_dropout", "< 0"),
    Mutant(
        "sampling: network calls of a part",
        "tableau/executor.py",
        "network_calls=calls + cost.network / n",
        "network_calls=calls + cost.network",
    ),
    # linear SDEs
    Mutant("blur that grows as sin^2", "sde/spectral.py", "torch.sin(0.5 * math.pi * t) ** 4", "torch.sin(0.5 * math.pi * t) ** 2"),
    Mutant("coloured noise by the spectrum, not its root", "sde/spectral.py", "* spectrum.sqrt()", "* spectrum"),
    Mutant(
        "an OU process with one rate for mean and variance",
        "sde/spectral.py",
        "-torch.expm1(-integral)",
        "-torch.expm1(-0.5 * integral)",
    ),
    Mutant("Magnus without its commutator", "sde/magnus.py", "math.sqrt(3) / 12 * scale**2", "0 * scale**2"),
    Mutant("eta in place of eta^2 backwards", "sde/diagonal.py", "** eta**2", "** eta"),
    Mutant("Psi with the wrong share of noise", "sde/linear.py", "0.5 * (1 + eta**2) * pull", "0.5 * (1 + eta) * pull"),
    Mutant(
        "posterior without the forward matrix",
        "sde/linear.py",
        "product(product(before, transposed(self.forward(s, t))), inverse(_without_zeros(after)))",
        "product(before, inverse(_without_zeros(after)))",
    ),
    Mutant(
        "a critically damped chain of the wrong couplings",
        "sde/momentum.py",
        "enumerate(reversed(couplings[1:]))",
        "enumerate(couplings[1:])",
    ),
    Mutant(
        "noise of the first channel",
        "sde/linear_prediction.py",
        "w = inverse(root(covariance))[..., -1:, :]\n        gain",
        "w = inverse(root(covariance))[..., :1, :]\n        gain",
    ),
    Mutant(
        "a pinned bridge with the free variance",
        "sde/bridge.py",
        "return sde.sigma(t) * _fraction(sde, t).clamp(min=0).sqrt()",
        "return sde.sigma(t) * _fraction(sde, t)",
    ),
    Mutant(
        "weights without the term at the start",
        "solvers/gddim.py",
        "after * l_t - before * l_s - integral",
        "after * l_t - integral",
    ),
    Mutant("stacked blocks in another order", "solvers/blocks.py", "v[block_of]", "v[block_of.flip(0)]"),
    Mutant(
        "a bridge that starts without noise",
        "tableau/builder.py",
        "xi = {self.fresh_noise(): t.sigma} if t.sigma > 0 else {}",
        "xi = {}",
    ),
    Mutant(
        "density without the volume of other channels",
        "likelihood/linear_flow.py",
        "0.5 * log_det(covariance) - spread.log()",
        "0 * log_det(covariance) - spread.log()",
    ),
    Mutant("the likelihood weighting without its root", "losses/blocks.py", "return slope * rate.sqrt(),", "return slope * rate,"),
    Mutant("a bridge that shows u", "sampling/frames.py", "return self.sde.with_end(z, self.end.to(z.device), t)", "return z"),
    Mutant(
        "corrections that are not scaled by the step",
        "tableau/linear_multistep.py",
        "return [apply(t, z), *(apply(u, d) for d in data)]",
        "return [apply(t, z), *data]",
    ),
    # scale
    Mutant(
        "processes: all have the same rows",
        "data/loader.py",
        "[self.rank :: self.world]",
        "[: len(self.order[iteration]) // self.world]",
    ),
    Mutant("processes: rows gathered process by process", "train/world.py", "torch.stack(parts, 1)", "torch.stack(parts)"),
    Mutant("processes: times of other rows", "train/step.py", "t[rows][part]", "t[: len(x)][part]"),
    Mutant("processes: noise of other rows", "train/step.py", "count, iteration)[rows]", "count, iteration)[: len(x)]"),
    Mutant("accumulation: sums in place of means", "train/step.py", ".mean() / self.accumulate", ".mean()"),
    Mutant(
        "accumulation: gradients never averaged",
        "train/world.py",
        "nullcontext() if last else module.no_sync()",
        "module.no_sync()",
    ),
    Mutant(
        "fsdp2: gradients never averaged", "train/world.py", "set_requires_gradient_sync(last,", "set_requires_gradient_sync(False,"
    ),
    Mutant("average: one power less", "train/average.py", "(1 - 1 / k) ** (gamma + 1)", "(1 - 1 / k) ** gamma"),
    Mutant("average after training: products without the exponent", "train/posthoc.py", "total * math.log(m) -", "math.log(m) -"),
    Mutant("step: lengths of weights are not set back", "train/step.py", "            self._normalise()\n", "            pass\n"),
    Mutant("history: lines after the checkpoint stay", "train/trainer.py", "self.tracking.rewrite(self.history)", "pass"),
    Mutant("order: an epoch begins again with the same permutation", "data/order.py", '"epoch", epoch)', '"epoch", 0)'),
    Mutant("report: the covariance over n", "report/sums.py", "/ (self.n - 1)", "/ self.n"),
    # the audit
    Mutant(
        "a known defect's order judged against a claim that is 1.5 lower", "audit/accuracy.py", "SHORTFALL = 0.5", "SHORTFALL = 1.5"
    ),
    Mutant("inputs that are written over are not seen", "audit/behaviour.py", "kept = start.clone()", "kept = start"),
    Mutant(
        "noise left at level 0 is a note where it falls",
        "audit/accuracy.py",
        "not sampler.exact_end and len(rms) > 1",
        "len(rms) > 1",
    ),
)


def applied(mutant: Mutant, folder: Path) -> None:
    """Plant the fault in the copy.

    Raises:
        ValueError: the code that it replaces is not there once.
    """
    path = folder / "scoresde" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} times {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new))


def fails(folder: Path, tests: list[str]) -> str | None:
    """The first test that fails in the copy; None if all pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "auto",
        "-p",
        "no:cacheprovider",
        "--deselect",
        "tests/test_pin.py",
        "--deselect",
        "tests/test_mutants.py",
        *tests,
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    out = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    if out.returncode == 0:
        return None
    lines = [line for line in out.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("ERROR ") if lines else f"exit code {out.returncode}"


def main() -> None:
    """Plant the named faults, or all, and print which are found by what."""
    wanted = [mutant for mutant in MUTANTS if not sys.argv[1:] or any(word in mutant.name for word in sys.argv[1:])]
    survivors = []
    for mutant in wanted:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for item in COPIED:
                if (ROOT / item).is_dir():
                    shutil.copytree(ROOT / item, folder / item, ignore=shutil.ignore_patterns("__pycache__", "_build"))
                elif (ROOT / item).exists():
                    shutil.copy(ROOT / item, folder / item)
            applied(mutant, folder)
            own = f"tests/{mutant.file.split('/')[0]}"
            found = (fails(folder, [own]) if (folder / own).is_dir() else None) or fails(folder, ["tests"])
        if found is None:
            survivors.append(mutant.name)
        print(
            f"{'killed' if found else 'SURVIVED':9} {time.perf_counter() - start:5.0f} s  {mutant.name}: {found or ''}", flush=True
        )
    print(f"\n{len(wanted) - len(survivors)} of {len(wanted)} faults found; not found: {', '.join(survivors) or 'none'}")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
