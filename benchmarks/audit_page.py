"""docs/audit.md from results/audit.json."""

from __future__ import annotations

import math
import re
from collections import Counter

from scoresde.audit import PROPERTIES

# Defects that were known before, by the name of the sampler and the property that shows them. The audit is told none of this.
KNOWN = {
    (r"azula REAB", "order conditions"): "the last term has alpha_s^2 + sigma_t^2 for sigma_s",
    (r"diffusers (EDM )?DPMSolverMultistep .*order=3", "order conditions"): "DPM-Solver++ 3M does not reach order 3",
    (r"diffusers DPMSolverMultistep sde-dpmsolver\+\+ .*order=3", "order"): "sde-dpmsolver++ 3M does not reach order 3",
    (r"diffusers (DDIM|PNDM) linspace", "point mass"): "the last time comes from a fixed stride, whatever the spacing",
    (r"diffusers DDPM fixed_large_log", "steps"): "a log-variance is taken for a variance: NaN",
    (r"diffusers DPMSolverMultistep sde-dpmsolver .*order=3", "linear"): "an UnboundLocalError at order 3",
    (r"k-diffusion dpmpp_(2m|3m)_sde", "steps"): "one step ends in an UnboundLocalError",
    (r"k-diffusion (euler|heun|dpm_2)\b", "global state"): "noise is drawn although churn is 0",
}

INTRODUCTION = """\
# Audit

Which samplers are what they say? `scoresde audit` answers for any sampler:

```bash
scoresde audit dpm++2m
scoresde audit my_module:my_sampler --order 2 --calls-per-step 1
scoresde audit diffusers:DPMSolverMultistepScheduler --order 3 --option solver_order=3
```

```python
from scoresde import audit


def my_sampler(denoiser, z, sigmas):  # x = x_0 + sigma eps, and denoiser(x, sigma) = E[x_0 | x]
    for s, t in zip(sigmas[:-1], sigmas[1:]):
        z = z + (t - s) / s * (z - denoiser(z, s.expand(len(z))))
    return z


print(audit.run(my_sampler, order=1, calls_per_step=1).markdown())
```

The command ends with exit code 1 if a property is broken, so it can stand in a CI job. `--out` writes Markdown, JSON and a plot of the error
against network calls. A function has the form above, or that of k-diffusion's and ComfyUI's samplers.

| property | what is measured |
|---|---|
"""

METHOD = """
## How

- **No solver is the reference.** The coordinates of the data are mixtures in one dimension. Their flow preserves quantiles, so the exact end
  point is a quantile.
- **Order conditions.** With y = x/sigma and r = 1/sigma the probability-flow ODE is dy/dr = D. A run of any linear sampler, with its
  history, is one explicit Runge-Kutta method with a stage for each call. Its coefficients are read by impulses. One run over a batch does it,
  whose items have a 1 in the start, in one output of the network, or in one draw of noise. Then the conditions of all rooted trees up to
  four vertices are evaluated at 10 to 160 steps. "In its steps" takes the states of the first quarter of the run as exact. "With its first
  steps" does not.
- **Weak order.** For samplers with noise the law of the result on Gaussian data follows from the coefficients, without sampling.
- **Verdicts.** An order is broken where it lies more than 0.5 below the claim. A claim is what the name or an option says. A measured slope
  alone breaks nothing, as it may not have reached its limit at 160 steps. Notes are no faults.

## Limits

The levels are ours, so a host's own spacings are audited only in rows that name them. The data are independent coordinates: a sampler that
mixes coordinates is not tried. Schedulers keep tables in float32, so that residuals below 3e-6 say nothing about them.
"""

# What the audit does not say of a package: the reason behind many of its rows.
REASONS = {
    "skrample": """A step of skrample takes the nodes of its table in the time of the schedule, and integrates the prediction over another
variable: alpha/sigma by default, sigma/alpha with `NoiseModel`. The two agree only with `FlowModel` on a linear flow schedule. There RK4 has
order 4 (slope 4.00, by hand, without this audit). Everywhere else a table above order 2 is of order 2, its default space on the flow schedule
included (slope 1.99). Averages of velocities at several levels are of order 1 (`VelocityModel`). `Adams` assumes equal steps in that variable.
""",
}


def page(results: dict) -> str:
    """The page of a file of results."""
    rows = results["rows"]
    packages = sorted(dict.fromkeys(row["package"] for row in rows), key=lambda package: package != "scoresde")
    parts = [INTRODUCTION + "\n".join(f"| {name} | {what} |" for name, what in PROPERTIES.items()) + "\n"]
    parts.append(about_ours([row for row in rows if row["package"] == "scoresde"]))
    parts.append(summary(rows, packages, results))
    parts.append(blind(rows))
    parts.append(METHOD)
    for package in packages:
        parts += [
            f"## {package} {results['versions'][package]}\n",
            *([REASONS[package]] if package in REASONS else []),
            table([row for row in rows if row["package"] == package]),
        ]
    return "\n".join(parts)


def about_ours(rows: list[dict]) -> str:
    """What is negative or surprising about our own solvers."""
    lines = ["## First, about ours", ""]
    broken = {row["sampler"]: faults(row) for row in rows if faults(row)}
    lines.append(
        f"Of our {len(rows)} solvers {len(broken)} have a broken property"
        + (": " + "; ".join(f"{name} ({', '.join(found)})" for name, found in broken.items()) if broken else "")
        + "."
    )
    starts = [
        (row["sampler"].removeprefix("scoresde "), row["findings"]["order conditions"]["numbers"])
        for row in rows
        if "order conditions" in row["findings"] and "with its first steps" in row["findings"]["order conditions"]["text"]
    ]
    if starts:
        found = ", ".join(f"{name} {numbers['order']:.1f} -> {numbers['with start']:.1f}" for name, numbers in starts)
        lines.append(
            "\n**The first steps cost an order.** A multistep method has no history at first, and starts with steps of a lower order. The "
            "first of them leaves an error of h^2. From pure noise this error is small, as the prediction hardly changes there, and the "
            f"slopes below are those of the steps. From a start with signal it rules in the end: {found}."
        )
    lags = [
        (row["sampler"].removeprefix("scoresde "), row["findings"]["point mass"]["text"])
        for row in rows
        if row["findings"].get("point mass", {}).get("verdict") == "note"
    ]
    if lags:
        lines.append("\n**Levels that do not fit.** " + "; ".join(f"{name}: {text}" for name, text in lags) + ".")
    return "\n".join(lines) + "\n"


def faults(row: dict) -> list[str]:
    return [name for name, finding in row["findings"].items() if finding["verdict"] == "broken"]


def summary(rows: list[dict], packages: list[str], results: dict) -> str:
    """How many samplers of each package have which broken property."""
    lines = [
        "## Summary",
        "",
        f"{len(rows)} samplers. One run on two cores took {results['seconds']} seconds.",
        "",
        "| package | samplers | sound | broken, by property |",
        "|---|---:|---:|---|",
    ]
    for package in packages:
        own = [row for row in rows if row["package"] == package]
        counts = Counter(name for row in own for name in faults(row))
        sound = sum(not faults(row) for row in own)
        kinds = ", ".join(f"{name} {n}" for name, n in counts.most_common())
        lines.append(f"| {package} {results['versions'][package]} | {len(own)} | {sound} | {kinds or '-'} |")
    return "\n".join(lines) + "\n"


def blind(rows: list[dict]) -> str:
    """The defects that were known and the rows that show them."""
    lines = ["## Known defects, found blind", "", "| defect | property | rows |", "|---|---|---|"]
    for (pattern, name), what in KNOWN.items():
        found = [row["sampler"] for row in rows if re.search(pattern, row["sampler"]) and name in faults(row)]
        lines.append(f"| {what} | {name} | {'; '.join(found) or 'not found'} |")
    return "\n".join(lines) + "\n"


def table(rows: list[dict]) -> str:
    """The samplers of one package."""
    header = "| sampler | claims | conditions | slope, wide modes | slope, narrow modes | calls a step | bias at 1000 | noise left | broken |"
    lines = [header, "|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    for row in rows:
        found = row["findings"]
        cells = [
            row["sampler"].split(" ", 1)[-1],
            "" if row["claimed"] is None else str(row["claimed"]),
            number(found, "order conditions", "order"),
            with_error(found, "order"),
            with_error(found, "narrow order"),
            number(found, "calls", "calls a step"),
            number(found, "bias", "error", "{:.0e}"),
            number(found, "noise left", "rms", "{:.0e}"),
            "; ".join(f"**{name}**: {found[name]['text']}" for name in faults(row)),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def number(found: dict, name: str, key: str, form: str = "{:.2g}") -> str:
    value = found.get(name, {}).get("numbers", {}).get(key, math.nan)
    return "exact" if value is None else "" if math.isnan(value) else form.format(value)


def with_error(found: dict, name: str) -> str:
    rate, error = number(found, name, "order", "{:.2f}"), number(found, name, "stderr", "{:.1g}")
    return f"{rate} +- {error}" if rate not in ("", "exact") and error else rate
