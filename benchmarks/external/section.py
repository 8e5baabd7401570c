"""The parts of the measured pages that are about networks of others: from external.json and roughness.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

Table = Callable[..., str]

KINDS = {
    "external": "Networks that others trained",
    "own": "Networks that the command line trained",
    "mixture": "Mixtures with exact scores",
}
METHODS = {
    "left out": "rule, left out",
    "default": "default",
    "select": "`select`, \"auto\"",
    "fit": "`fit`",
    "best of ours": "best of ours",
}  # fmt: skip
ABOUT = {
    "digits-flow-unet": "U-Net, digits and letters 28 x 28, flow matching",
    "mnist-flat": "convolutions without resolution levels, digits 28 x 28, chain of 1001 steps",
    "mnist-layernorm-unet": "U-Net with LayerNorm and a table of times, digits 28 x 28, chain",
    "fashion-edm": "residual network, clothing 32 x 32, EDM",
    "roll-2d-flow": "MLP, Swiss roll in the plane, flow matching",
    "roll-32d-flow": "MLP, Swiss roll on a plane in 32 dimensions, flow matching, predicts data",
    "moons-chain": "MLP, two moons, chain of 100 steps",
}


def section(results: dict, table: Table) -> str:
    """Of benchmarks.md: ratios to the best peer by kind, and by network."""
    return f"""## On networks that others trained

{_count(results)} networks from public repositories, each read by the conventions of its author, from 32 starts (images) or 256. A fine solve of
the same network is the reference. Every error is divided by that of the best peer, in hindsight for each network, budget and
statistic: about 20 to 50 configurations of diffusers, azula and k-diffusion, with the options that users try for the process. Below 1 is better
than that peer.

- *rule, left out*: for each network, the rule that all **other** networks choose for its class (what it predicts, whether events are large) and
  group of budgets, among 30 rules. EDM and flows on images have one network each here, for which the other networks on images choose.
  What was decided with these networks in view, and is not left out: the five classes (of 1, 12, 1, 3 and 2 networks), the groups of
  budgets, and that noise networks have no late first call. With late first calls among the rules the left-out rms is 1.27, 1.49, 1.51,
  1.44, 1.82, 2.00, 1.54 and 1.77 at 3, 4, 5, 6, 8, 10, 15 and 20 calls. Medians above 1.5: moons at 5, 8, 10 and 20 calls (1.62, 2.03,
  1.97, 2.98), LayerNorm at 20 (3.01) and flat digits at 20 (1.86).
- *default*: the rule in the library, which was chosen with these networks in view.
- *select, "auto"*: a pilot of 32 starts on the network itself. *fit*: coefficients fitted to the network. Both are measured on other starts.
- *best of ours*: of the 30 rules, in hindsight.

Geometric means over networks, rms / median / 95th percentile over starts, and the 90 % bootstrap interval of the rms over starts.

{chr(10).join(_means(results["means"][kind], title, table) for kind, title in KINDS.items() if kind in results["means"])}
### Network by network

The default, rms / median.

{table(["network", "", *(f"{n} calls" for n in _calls(results))], _by_network(results), left=2)}

Made by `benchmarks/external/measure.py` and `summary.py`, which need the networks' weights; `benchmarks/results/external.json` has all numbers.
"""


def finding(results: dict, roughness: dict, table: Table) -> str:
    """Of choosing.md: what decides, and the rule that each class of networks chooses."""
    budgets = list(next(iter(results["rules"].values())))
    rows = [[name, *(rules[b] for b in budgets)] for name, rules in results["rules"].items()]
    return f"""## What decides

On {_networks(results)} networks and mixtures ([Solvers, measured](benchmarks.md)) these are the best single rules for classes that
the library can tell apart for free. "late" has its first call at sigma/alpha = 10 and above.

{table(["network", *(f"up to {b} calls" for b in budgets)], rows, left=1 + len(budgets))}

- **The prediction** decides where the first call is. A network that predicts the noise with an error d has a data prediction with the error
  d sigma/alpha. A late first call costs most such networks several times the error. For data and velocity it gains at few calls.
- **The size of an event** decides the times. Networks on images win with uniform times, exact scores and networks on few coordinates with
  shorter steps at small noise. On one noise network of 64 coordinates the wrong choice costs a factor of 10 at 8 calls.
- **The budget**: on images a noise network wants order 1 at 3 calls and order 2 from there on.

**Roughness in time** is what the size stands for. e_p is the error of extrapolating the data prediction from its last p values, along a
trajectory at 10 calls (`benchmarks/external/roughness.py`). Smooth networks have e_2/e_1 of 0.7 to 0.8. Above 1 a straight line predicts the
next call worse than the last value does. The two roughest networks, and no others, win with uniform times under UniPC-2. Otherwise differences
decide little:
Spearman's correlation of e_2/e_1 with the ratio in the picture is {correlation(roughness, second_difference, "power 1 by 2"):.2f} over
{len(roughness)} networks and mixtures, and that of e_3/e_2 with the error of order 3 by that of order 2
{correlation(roughness, third_difference, "order 3 by 2"):.2f}. A solver that chose its order by them lost everywhere
([What did not work](negative.md)).

![uniform times against shorter steps at small noise, by roughness](roughness.png)
"""


def _networks(results: dict) -> int:
    return sum(len(group) for group in results["networks"].values())


def _count(results: dict) -> int:
    return len(results["networks"]["external"])


def _calls(results: dict) -> list[str]:
    return list(next(iter(results["networks"]["external"].values()))["calls"])


def _means(methods: dict, title: str, table: Table) -> str:
    calls, most = list(methods["default"]), methods["default"]["5"]["networks"]

    def row(nfe: str) -> Iterable[str]:
        yield nfe
        for method in METHODS:
            found = methods.get(method, {}).get(nfe)
            if found is None:
                yield ""
            else:
                rms, median, p95 = (found[s][0] for s in ("rms", "median", "p95"))
                of = "" if found["networks"] == most else f" ({found['networks'][0]} of {most[0]})"
                yield f"{rms:.2f} / {median:.2f} / {p95:.2f} [{found['rms'][1]:.2f}, {found['rms'][2]:.2f}]{of}"

    return f"### {title}\n\n{table(['calls', *METHODS.values()], (list(row(nfe)) for nfe in calls), left=1)}\n"


def _by_network(results: dict) -> Iterable[list[str]]:
    for kind in KINDS:
        for name, network in results["networks"].get(kind, {}).items():
            cells = ("{:.2f} / {:.2f}".format(*entry["ratios"]["default"][:2]) for entry in network["calls"].values())
            yield [name, ABOUT.get(name, network["class"]), *cells]


# Where labels of the figure would lie on others.
BELOW, LEFT = ("roll-2d-flow", "digits", "demo"), ("mnist-layernorm-unet", "roll-32d-flow", "demo", "spiral-noise")


def save_roughness(roughness: dict, path: Path) -> None:
    """The error of uniform times by that of times shorter at small noise, against e_2/e_1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    colours = {"external": "tab:red", "own": "tab:blue", "mixture": "tab:gray"}
    for kind, colour in colours.items():
        found = {name: entry for name, entry in roughness.items() if entry["kind"] == kind}
        x, y = [second_difference(entry) for entry in found.values()], [entry["power 1 by 2"] for entry in found.values()]
        axis.scatter(x, y, c=colour, label=KINDS[kind].lower())
        # A family of mixtures has one label, in the middle of its points.
        labels = dict[str, list[tuple[float, float]]]()
        for name, a, b in zip(found, x, y, strict=True):
            labels.setdefault(name.split(":")[1] if kind == "mixture" else name, []).append((a, b))
        for name, points in labels.items():
            a, b = (math.exp(sum(map(math.log, values)) / len(points)) for values in zip(*points, strict=True))
            below, left = name in BELOW, name in LEFT
            offset = (-6 if left else 6, -11 if below else 4)
            axis.annotate(
                name, (a, b), xytext=offset, textcoords="offset points", fontsize=7, ha="right" if left else "left", color=colour
            )
    axis.axhline(1, c="black", lw=0.8)
    axis.set(yscale="log", xlabel="second difference / first difference, $e_2/e_1$")
    axis.set_ylabel("error on trailing, power 1 / power 2")
    axis.margins(x=0.12)
    axis.legend(loc="upper right")
    figure.savefig(path, dpi=120)


def second_difference(entry: dict) -> float:
    """e_2/e_1."""
    return entry["errors"][1] / entry["errors"][0]


def third_difference(entry: dict) -> float:
    """e_3/e_2."""
    return entry["errors"][2] / entry["errors"][1]


def correlation(roughness: dict, difference: Callable[[dict], float], ratio: str) -> float:
    """Spearman's, between a ratio of differences and a ratio of errors."""
    from scipy.stats import spearmanr

    entries = list(roughness.values())
    value = float(spearmanr([difference(entry) for entry in entries], [entry[ratio] for entry in entries]).statistic)
    assert math.isfinite(value)
    return value
