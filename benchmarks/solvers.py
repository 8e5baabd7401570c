"""Error against network calls for our deterministic solvers and those of diffusers, on targets whose score is exact.

    python benchmarks/solvers.py [--noises 256] [--network runs/demo] [--out benchmarks/results]

Every solver starts from the same noises on the linear DDPM chain and is compared, sample by sample, with the exact flow: 3,000 steps of
order 4 in float64, down to t = 1e-7. The error is the rms, the median and the 95th percentile over noises of the endpoint's distance per
coordinate. A few samples that change mode dominate the rms, so it is never read alone. Trained networks are compared with their own solve in
300 steps. Writes solvers.json, docs/benchmarks.md and its picture.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

import scoresde as ss
from scoresde import analytic, grids
from scoresde.experiment import Experiment
from scoresde.report import save_error_plot
from scoresde.sampling import plan

NFE = (5, 6, 8, 10, 15, 20)
OURS = [
    "ddim",
    "heun",
    "dpm2",
    "dpm3",
    "dpm2m",
    "dpm3m",
    "dpm++2s",
    "dpm++2m",
    "dpm++3m",
    "unipc2",
    "unipc3",
    "deis2",
    "deis3",
    "rho-deis2",
    "rho-deis3",
    "ipndm2",
    "ipndm3",
    "ipndm4",
    "plms",
]
GRIDS = ["uniform", "half_log_snr", "karras", "quadratic", "cubic", "tangent", "beta"]


def ring() -> analytic.GaussianMixture:
    """Eight narrow modes on a circle."""
    angle = torch.arange(8) * math.pi / 4
    return analytic.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), torch.full((8,), 0.02**2))


def digits() -> analytic.GaussianMixture:
    """Ten full covariances fitted to scikit-learn's digits in [-1, 1]^64."""
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture

    fit = GaussianMixture(10, reg_covar=1e-3, random_state=0).fit(load_digits().data / 8 - 1)
    return analytic.GaussianMixture(*(torch.from_numpy(a) for a in (fit.means_, fit.covariances_, fit.weights_)))


def anisotropic() -> analytic.GaussianMixture:
    """Thirty diagonal modes in 48 dimensions, coordinate j of scale j^-0.3, rescaled to rms 0.5."""
    g = torch.Generator().manual_seed(0)
    scale = torch.arange(1, 49, dtype=torch.float64) ** -0.3
    means = 1.2 * scale * torch.randn(30, 48, generator=g, dtype=torch.float64)
    std = 0.35 * scale * torch.exp(0.4 * torch.randn(30, 48, generator=g, dtype=torch.float64))
    weights = torch.distributions.Gamma(3.0, 1.0)
    torch.manual_seed(0)
    w = weights.sample((30,)).double()
    rms = ((w / w.sum())[:, None] * (means**2 + std**2)).sum(0).mean().sqrt()
    return analytic.GaussianMixture(means / rms * 0.5, (std / rms * 0.5) ** 2, w)


def exact_flow(model: ss.Model, z: torch.Tensor, steps: int = 3000) -> torch.Tensor:
    """The endpoint of the probability-flow ODE."""
    end = 1e-7 if isinstance(model, analytic.MixtureModel) else model.sde.t_min
    grid = grids.half_log_snr(model.sde, steps, t_end=end)
    x = ss.sample(model, z.shape, "unipc3", grid=grid, z=z)
    return model.data(x, end)


def statistics(x: torch.Tensor, exact: torch.Tensor) -> dict[str, float]:
    """rms, median and 95th percentile of the distance per coordinate."""
    distance = (x - exact).flatten(1).square().mean(1).sqrt()
    values = {"rms": distance.square().mean().sqrt(), "median": distance.median(), "p95": distance.quantile(0.95)}
    return {name: float(f"{float(value):.4g}") for name, value in values.items()}


def ours(model: ss.Model, z: torch.Tensor, exact: torch.Tensor) -> dict[str, dict[int, dict[str, float]]]:
    """Every solver on every grid."""
    results: dict[str, dict[int, dict[str, float]]] = {}
    for name in OURS:
        for grid in GRIDS:
            for nfe in NFE:
                tableau = plan(model.sde, name, nfe=nfe, grid=grid)
                if tableau.nfe < nfe - 2:
                    continue
                x = ss.sample(model, z.shape, name, nfe=nfe, grid=grid, z=z)
                results.setdefault(f"{name} {grid}", {})[nfe] = statistics(x, exact)
    for nfe in NFE:
        results.setdefault("default", {})[nfe] = statistics(ss.sample(model, z.shape, nfe=nfe, z=z), exact)
    return results


def diffusers_schedulers() -> dict[str, object]:
    """Configurations of diffusers' deterministic schedulers on the same chain."""
    import diffusers as d

    common = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    made: dict[str, object] = {
        "DDIM trailing": d.DDIMScheduler(**common, clip_sample=False, timestep_spacing="trailing"),
        "PNDM": d.PNDMScheduler(**common, skip_prk_steps=True),
        "Euler": d.EulerDiscreteScheduler(**common, timestep_spacing="trailing"),
        "Euler karras": d.EulerDiscreteScheduler(**common, use_karras_sigmas=True),
        "Heun": d.HeunDiscreteScheduler(**common, timestep_spacing="trailing"),
        "Heun karras": d.HeunDiscreteScheduler(**common, use_karras_sigmas=True),
        "LMS": d.LMSDiscreteScheduler(**common, timestep_spacing="trailing"),
        "LMS karras": d.LMSDiscreteScheduler(**common, use_karras_sigmas=True),
    }
    spacings = {"": {"timestep_spacing": "trailing"}, " karras": {"use_karras_sigmas": True}, " lu": {"use_lu_lambdas": True}}
    for order in (2, 3):
        for suffix, options in spacings.items():
            made[f"DPM++ {order}M{suffix}"] = d.DPMSolverMultistepScheduler(
                **common, solver_order=order, final_sigmas_type="zero", **options
            )
        for suffix in ("", " karras"):
            made[f"UniPC-{order}{suffix}"] = d.UniPCMultistepScheduler(
                **common, solver_order=order, final_sigmas_type="zero", **spacings[suffix]
            )
            made[f"DEIS-{order}{suffix}"] = d.DEISMultistepScheduler(**common, solver_order=order, **spacings[suffix])
    return made


def theirs(model: ss.Model, z: torch.Tensor, exact: torch.Tensor) -> dict[str, dict[int, dict[str, float]]]:
    """diffusers' loop with our exact noise prediction, evaluated at the noise level that the scheduler is at."""
    results: dict[str, dict[int, dict[str, float]]] = {}
    sde = model.sde
    for name, scheduler in diffusers_schedulers().items():
        for nfe in NFE:
            steps = (nfe + 1) // 2 if "Heun" in name else nfe
            scheduler.set_timesteps(steps)
            calls, x = 0, z * float(scheduler.init_noise_sigma)
            sigmas = getattr(scheduler, "sigmas", None)
            for index, t in enumerate(scheduler.timesteps):
                state = scheduler.scale_model_input(x, t)
                time = (float(t) + 1) / 1000
                if sigmas is not None and len(sigmas) > index:
                    time = float(sde.time(-math.log(float(sigmas[index]))))
                noise = model.noise(state, min(time, 1.0))
                x = scheduler.step(noise, t, x).prev_sample
                calls += 1
            if calls <= nfe + 1 and bool(x.isfinite().all()):
                results.setdefault(name, {})[nfe] = {**statistics(x, exact), "calls": calls}
    return results


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(results: dict[str, dict]) -> str:
    """Our default and our best relative to the best of theirs, each best chosen in hindsight for target, budget and statistic."""
    lines = ["| target | NFE | best of diffusers | rms | default / it, rms | median | our best | our best / it, rms | median |"]
    lines.append("|---|" + "---:|" * 1 + "---|" + "---:|" * 3 + "---|" + "---:|" * 2)
    ratios: dict[int, list[list[float]]] = {}
    exact = [target for target in results if results[target]["diffusers"]]
    for target in exact:
        mine, peers = results[target]["ours"], results[target]["diffusers"]
        for nfe in NFE:
            rows, others = ({k: v[nfe] for k, v in group.items() if nfe in v} for group in (mine, peers))
            best, peer = (min(group, key=lambda k, group=group: group[k]["rms"]) for group in (rows, others))
            least = {s: (min(v[s] for v in rows.values()), min(v[s] for v in others.values())) for s in ("rms", "median")}
            four = [rows["default"][s] / least[s][1] for s in ("rms", "median")] + [
                least[s][0] / least[s][1] for s in ("rms", "median")
            ]
            ratios.setdefault(nfe, []).append(four)
            a, b, c, d = (f"{v:.2f}" for v in four)
            lines.append(f"| {target} | {nfe} | {peer} | {others[peer]['rms']:.4f} | {a} | {b} | {best} | {c} | {d} |")
    for nfe, fours in ratios.items():
        a, b, c, d = (f"**{geometric_mean(list(column)):.2f}**" for column in zip(*fours, strict=True))
        lines.append(f"| geometric mean | {nfe} | | | {a} | {b} | | {c} | {d} |")
    return "\n".join(lines)


def page(results: dict[str, dict]) -> str:
    """docs/benchmarks.md."""
    return f"""# Solvers, measured

Endpoint error of deterministic solvers against the exact flow, from the same starts, on the linear DDPM chain: a ring of 8 narrow modes (2
dimensions), a mixture of 10 full covariances fitted to the 8 x 8 digits (64), and 30 anisotropic modes (48). Made by `benchmarks/solvers.py`
(`make bench`); all numbers, also the 95th percentiles, are in `benchmarks/results/solvers.json`.

"Best" is chosen in hindsight for each target, budget and statistic: of 22 configurations of diffusers, and of our {len(OURS)} solvers on
{len(GRIDS)} grids. The default is one fixed rule, `scoresde/default.py`. Below 1 is better than the best of diffusers. The rms is dominated by
the few starts that change mode; neither is a measure of how pictures look.

{summary(results)}

![error against network calls](solvers.png)
"""


def ranking(results: dict[str, dict], targets: list[str]) -> dict[int, list[tuple[str, float, float]]]:
    """For each budget our configurations by the geometric mean over targets of rms (and median) relative to the target's best."""
    table = {}
    for nfe in NFE:
        names = [k for k, v in results[targets[0]]["ours"].items() if all(nfe in results[t]["ours"].get(k, {}) for t in targets)]
        best = {t: {s: min(results[t]["ours"][k][nfe][s] for k in names) for s in ("rms", "median")} for t in targets}

        def mean(name: str, stat: str, nfe: int = nfe, best: dict = best) -> float:
            logs = [math.log(results[t]["ours"][name][nfe][stat] / best[t][stat]) for t in targets]
            return math.exp(sum(logs) / len(logs))

        table[nfe] = sorted(((k, mean(k, "rms"), mean(k, "median")) for k in names), key=lambda row: row[1] * row[2])[:8]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--noises", type=int, default=256)
    parser.add_argument(
        "--network", type=Path, nargs="*", default=[], help="training runs to add as targets, against their own fine solve"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    sde = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    targets: dict[str, tuple[ss.Model, tuple[int, ...]]] = {
        name: (make().model(sde), shape)
        for name, make, shape in (("ring", ring, (2,)), ("digits", digits, (64,)), ("anisotropic", anisotropic, (48,)))
    }
    for run in options.network:
        experiment = Experiment.read(run)
        targets[run.name] = (experiment.load_model(run, torch.device("cpu")), experiment.event)
    results: dict[str, dict] = {}
    for name, (model, event) in targets.items():
        network = isinstance(model, ss.ScoreModel)
        n = options.noises // 4 if network else options.noises
        z = torch.randn(n, *event, dtype=torch.float32 if network else torch.float64, generator=torch.Generator().manual_seed(1))
        exact = exact_flow(model, z, 300 if network else 3000)
        results[name] = {"ours": ours(model, z, exact), "diffusers": {} if network else theirs(model, z, exact)}
        print(f"{name}: done", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "solvers.json").write_text(json.dumps(results))
    print(summary(results))
    for nfe, rows in ranking(results, list(results)).items():
        print(nfe, "; ".join(f"{k} {rms:.2f}/{median:.2f}" for k, rms, median in rows))
    exact = [target for target in results if results[target]["diffusers"]]
    shown = ("default", "ddim uniform", "dpm++2m half_log_snr", "unipc3 half_log_snr", "ipndm3 quadratic", "deis3 quadratic")
    curves = {
        k: [
            (nfe, geometric_mean([results[t]["ours"][k][nfe]["rms"] for t in exact]))
            for nfe in NFE
            if nfe in results[exact[0]]["ours"][k]
        ]
        for k in shown
    }
    docs = Path(__file__).parent.parent / "docs"
    save_error_plot(curves, docs / "solvers.png")
    (docs / "benchmarks.md").write_text(page(results))


if __name__ == "__main__":
    main()
