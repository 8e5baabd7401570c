"""The measured pages of docs/ and their pictures: benchmarks.md and choosing.md from solvers.json, fitted.md from fitted.json, and parts of
check.md from check.json, of interop.md from sbi.json and of guidance.md, inverse.md and inference.md from conditional.json.

python benchmarks/pages.py [--results benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from external import section

from scoresde.cli.report import save_error_plot

DOCS = Path(__file__).parent.parent / "docs"
NFE = ("3", "4", "5", "6", "8", "10", "15", "20")
LAW_NFE = ("5", "10", "20", "50")
STATISTICS = ("rms", "median", "p95")
PACKAGES = ("diffusers", "k-diffusion", "azula")
SHOWN = (
    "default",
    "vab3 trailing",
    "unipc3 trailing",
    "dpm++2m trailing",
    "dpm++2m half_log_snr",
    "heun trailing",
    "ddim trailing",
)


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def table(header: list[str], rows: Iterable[list[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are text."""
    marks = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))


def best(group: dict, nfe: str, statistic: str) -> tuple[float, str]:
    """The least error and who has it."""
    return min((values[nfe][statistic], name) for name, values in group.items() if nfe in values)


def comparison(parts: dict[str, dict]) -> str:
    """The default and our best, relative to the best of the peers, each best in hindsight for target, budget and statistic."""
    rows: list[list[str]] = []
    ratios: dict[str, list[list[float]]] = {}
    for target, groups in parts.items():
        mine, peers = groups["ours"], groups["peers"]
        for nfe in NFE:
            error, peer = best(peers, nfe, "rms")
            fixed = [mine["default"][nfe][s] / best(peers, nfe, s)[0] for s in STATISTICS]
            least = [best(mine, nfe, s)[0] / best(peers, nfe, s)[0] for s in STATISTICS]
            ratios.setdefault(nfe, []).append(fixed + least)
            numbers = [f"{v:.2f}" for v in fixed + least]
            rows.append([target, nfe, peer, f"{error:.4f}", *numbers[:3], best(mine, nfe, "rms")[1], *numbers[3:]])
    for nfe, found in ratios.items():
        means = [f"**{geometric_mean(column):.2f}**" for column in zip(*found, strict=True)]
        rows.append(["geometric mean", nfe, "", "", *means[:3], "", *means[3:]])
    header = ["target", "calls", "best peer", "its rms", "default: rms", "median", "p95", "our best", "rms", "median", "p95"]
    return table(header, rows, left=3)


def of_peers(group: dict) -> dict:
    return {k: v for k, v in group.items() if k.startswith(PACKAGES)}


def law_table(laws: dict[str, dict]) -> str:
    """The best stochastic solver of ours and of theirs, and what two samples of the data differ by."""
    rows = []
    for target, group in laws.items():
        theirs = of_peers(group)
        mine = {k: v for k, v in group.items() if k not in theirs and k not in ("data", "default")}
        for nfe in LAW_NFE:
            row = [target, nfe]
            for statistic in ("sliced_w2", "energy"):
                ((a, name), (b, peer)) = best(mine, nfe, statistic), best(theirs, nfe, statistic)
                row += [f"{group['data'][nfe][statistic]:.4f}", f"{a:.4f} {name}", f"{b:.4f} {peer}"]
            rows.append(row)
    header = ["target", "calls", "sliced W2: data", "our best", "best peer", "energy: data", "our best", "best peer"]
    return table(header, rows, left=1)


def ranking(parts: list[dict], nfe: str, score: Callable[[dict[str, float]], float], count: int = 5) -> list[tuple[float, str]]:
    """Our configurations by the geometric mean over targets of their error relative to the least on that target."""
    names = set.intersection(*(({k for k, v in part["ours"].items() if nfe in v}) for part in parts))
    least = [min(score(part["ours"][k][nfe]) for k in names) for part in parts]
    return sorted((geometric_mean(score(p["ours"][k][nfe]) / m for p, m in zip(parts, least, strict=True)), k) for k in names)[
        :count
    ]


def benchmarks_page(results: dict, external: dict) -> str:
    """docs/benchmarks.md."""
    exact = next(iter(results["exact"].values()))
    peers = {package: sum(k.startswith(package) for k in exact["peers"]) for package in PACKAGES}
    counted = ", ".join(f"{n} of {package}" for package, n in peers.items())
    networks = ""
    if results.get("networks"):
        networks = f"""## On trained networks

The same against each network's own solve in 300 steps of order 4: the U-Net of `make demo` (8 x 8 digits, linear chain), from 64 starts.

{comparison({f"{name} network": part for name, part in results["networks"].items()})}
"""
    return f"""# Solvers, measured

Endpoint error of deterministic solvers against the exact flow, from the same starts, on the linear DDPM chain: a ring of 8 narrow modes (2
dimensions), a mixture of 10 full covariances fitted to the 8 x 8 digits (64), and 30 anisotropic modes (48). Made by `make bench`; all numbers
are in `benchmarks/results/solvers.json`.

"Best" is chosen in hindsight for each target, budget and statistic: of {sum(peers.values())} configurations of the peers
({counted}), and of {len(exact["ours"]) - 1} of ours. The default is one fixed rule,
`scoresde/sampling/default.py`; it was chosen with these targets and networks in view, so they are no held-out test of it. Below 1 is better
than the best peer. The rms is dominated by the few starts that change mode; none of these is a measure of how pictures look.

{comparison(results["exact"])}

![error against network calls](solvers.png)

{networks}
{section.section(external, table)}
## Stochastic solvers

1,024 samples against as many of the data: the sliced Wasserstein distance W_2 and the energy distance, both smaller for better; "data" is
what two sets of data differ by, so a number near it or below says no more than that.
{len(next(iter(results["laws"].values()))) - 2} configurations.

{law_table(results["laws"])}
"""


def choosing_page(results: dict, external: dict, roughness: dict) -> str:
    """docs/choosing.md."""
    exact, networks = results["exact"], results.get("networks", {})
    both = {**exact, **{f"{name} network": part for name, part in networks.items()}}

    def errors(target: str) -> Iterable[list[str]]:
        for statistic in STATISTICS:
            yield [f"{target}, {statistic}", *(f"{both[target]['ours']['default'][nfe][statistic]:.4f}" for nfe in NFE)]

    def ranked(parts: list[dict]) -> Iterable[list[str]]:
        for nfe in NFE:
            places = ranking(parts, nfe, lambda v: math.sqrt(v["rms"] * v["median"]))
            yield [nfe, *(f"{name} ({value:.2f})" for value, name in places)]

    def by_process(statistic: str) -> Iterable[list[str]]:
        first = next(iter(results["processes"].values()))
        for process in first:
            for solver in ("default", "dpm++2m", "heun", "ddim"):
                values = (geometric_mean(t[process][solver][nfe][statistic] for t in results["processes"].values()) for nfe in NFE)
                yield [process, solver, *(f"{v:.4f}" for v in values)]

    def law_ranks() -> Iterable[list[str]]:
        for nfe in LAW_NFE:
            groups = [{k: v for k, v in g.items() if not k.startswith(PACKAGES) and k != "data"} for g in results["laws"].values()]
            names = set.intersection(*({k for k, v in g.items() if nfe in v} for g in groups))
            order = sorted((geometric_mean(g[k][nfe]["sliced_w2"] for g in groups), k) for k in names)
            floor = geometric_mean(g["data"][nfe]["sliced_w2"] for g in results["laws"].values())
            place = next(i for i, (_, k) in enumerate(order) if k == "default")
            yield [nfe, f"{floor:.4f}", *(f"{k} ({v:.4f})" for v, k in order[:4]), f"{order[place][0]:.4f} (place {place + 1})"]

    budgets = ["", *(f"{nfe} calls" for nfe in NFE)]
    return f"""# Choosing a process, a solver and a number of steps

Every number here is measured by `make bench` and written by `benchmarks/pages.py`; [Solvers, measured](benchmarks.md) says on what.

## Which solver

None: `ss.sample(model, shape, nfe=10)` takes the measured default for the budget. To look further, these are our five best configurations on
the targets with exact scores, solver and grid, with the geometric mean over targets of sqrt(rms x median) relative to each target's best:

{table(["calls", "1st", "2nd", "3rd", "4th", "5th"], ranked(list(exact.values())), left=6)}

{_on_networks(networks, ranked)}
{section.finding(external, roughness, table)}
## How many steps, and what error to expect

The default's endpoint error per coordinate, for data of standard deviation about 0.5 in [-1, 1]: the distance to what infinitely many steps
give from the same start.

{table(budgets, (row for target in both for row in errors(target)))}

Where the error of a budget matters for your model, measure it: `scoresde compare` draws this curve for a training run.

## Which process

If you have a network, it has chosen: give `ScoreModel` the process that it was trained on. With exact scores the processes differ only in
what their grids and their range of noise do to the solver; geometric means over the three targets of the median error:

{table(["process", "solver", *budgets[1:]], by_process("median"), left=2)}

This says nothing about which is easiest to learn.

## Stochastic or not

A deterministic solver is the better choice at few calls and the only one that encodes and has a likelihood. Noise corrects errors that a
network makes, at the cost of more steps. With an exact score there is nothing to correct, so this table shows the cost alone: the sliced
Wasserstein distance to data, geometric mean over targets.

{table(["calls", "data", "1st", "2nd", "3rd", "4th", "default"], law_ranks(), left=1)}

To reproduce DDPM, take `Ancestral()` with `grid="ddpm"` and all steps of the chain.
"""


def _on_networks(networks: dict, ranked: Callable[[list[dict]], Iterable[list[str]]]) -> str:
    if not networks:
        return ""
    return f"""And on the trained networks:

{table(["calls", "1st", "2nd", "3rd", "4th", "5th"], ranked(list(networks.values())), left=6)}
"""


CONTENDERS = {"default": "default", "portfolio": "our best in hindsight", "peers": "best peer in hindsight"} | {
    name: name for name in ("selected", "fitted", "refined")
}


def fitted_page(results: dict) -> str:
    """docs/fitted.md."""
    exact, networks = results["exact"], results.get("networks", {})

    def relative(targets: Iterable[dict]) -> Iterable[list[str]]:
        targets = list(targets)
        for nfe in targets[0]:
            for name in ("fitted", "refined"):
                row = [nfe, name]
                for other in ("default", "portfolio", "peers"):
                    ratios = [[t[nfe][name][s] / t[nfe][other][s] for t in targets] for s in ("rms", "median")]
                    row += [f"{geometric_mean(values):.2f} ({max(values):.2f})" for values in ratios]
                yield [*row, f"{max(t[nfe]['seconds'][name] for t in targets):.0f}"]

    def errors() -> Iterable[list[str]]:
        for name, target in networks.items():
            for nfe, entry in target.items():
                yield [name, nfe, *(f"{entry[c]['rms']:.4f} / {entry[c]['median']:.4f}" for c in CONTENDERS), _seconds(entry)]

    def by_count() -> Iterable[list[str]]:
        targets = list(results["trajectories"].values())
        for count in targets[0]:
            yield [count, *(f"{geometric_mean(t[count][s] for t in targets):.4f}" for s in ("rms", "median"))]

    def bounds() -> Iterable[list[str]]:
        for name, levels in results["cascades"].items():
            for key, entry in levels.items():
                if key.endswith("calls"):
                    yield [name, key, f"{entry['covered']:.3f}", f"{entry['least covered']:.3f}", f"{entry['bound/error']:.1f}"]

    def tolerances() -> Iterable[list[str]]:
        for name, levels in results["cascades"].items():
            for key, entry in levels.items():
                if key.startswith("tol"):
                    one = entry["calls of one level"]
                    shares = (f"{entry[share]:.3f}" for share in ("covered", "error below tol"))
                    yield [
                        name,
                        key.split()[1],
                        f"{entry['calls']:.1f}",
                        f"{one:.0f}" if one < math.inf else "more than 30",
                        *shares,
                    ]

    on_networks = ""
    if networks:
        pictures = "\n\n".join(f"![the same starts by several solvers, {name}](fitted-{name}.png)" for name in networks)
        on_networks = f"""## Trained networks

rms / median of the error against each network's own fine solve, and the seconds of a fit and of one with refinement.

{table(["network", "calls", *CONTENDERS.values(), "seconds"], errors(), left=1)}

{pictures}

"""
    others = [f"{title}: {s}" for title in ("of the default", "of our best", "of the best peer") for s in ("rms", "median")]
    return f"""# Fitted solvers, measured

What [a fit to a model](fitting.md) is worth: endpoint errors from starts that no fit has seen, relative to those of the default and of the
best untuned solvers, ours and the peers', these chosen in hindsight for target, budget and statistic. Made by `benchmarks/fitted.py`; all
numbers are in `benchmarks/results/fitted.json`.

## Exact scores

Geometric means over {len(exact)} targets ({", ".join(exact)}), and the worst of them; 256 trajectories, and the
seconds of the slowest fit on one core.

{table(["calls", "", *others, "seconds"], relative(exact.values()), left=2)}

![error against network calls](fitted.png)

{on_networks}## Trajectories

The error at 8 calls of fits to so many starts, without refinement, geometric mean over the targets.

{table(["trajectories", "rms", "median"], by_count())}

## Cascades

The share of fresh starts whose bound of confidence 0.95 holds, mean and least of four calibrations, and the median of bound / error. From one
calibration to the next the share varies with a standard deviation of 0.014, that of its 256 starts, and the levels of a cascade share them.

{table(["target", "level", "covered", "least", "bound / error"], bounds(), left=2)}

Calls per sample for a tolerance, beside those of the cheapest level that brings as many samples below it when it solves them all (to 1 %).
The cascade decides sample by sample; the one level is chosen in hindsight.

{table(["target", "tolerance", "calls", "one level", "bound holds", "error below tolerance"], tolerances(), left=1)}
"""


def posteriors(results: dict) -> str:
    """The part of docs/interop.md on posterior samples."""
    about, calls = results["about"], ("5", "8", "10", "20", "500")
    rows: list[list[str]] = []
    for task, kinds in results["tasks"].items():
        for kind, found in kinds.items():
            for name in dict.fromkeys(key.rsplit(" ", 1)[0] if key.rsplit(" ", 1)[1].isdigit() else key for key in found):
                cells = [found.get(f"{name} {n}") for n in calls]
                row = ["" if cell is None else _pair(cell) for cell in cells]
                said = f"{name}, {found[name]['calls']:.0f} calls" if name in found else name
                rows.append([task.replace("_", " "), kind, said, *(row if name not in found else [*row[:-1], _pair(found[name])])])
    header = ["task", "network", "sampler", *(f"{n} calls" for n in calls[:-1]), "500 calls, or as said"]
    return f"""C2ST and 1000 MMD^2 against reference posterior samples of the sbi benchmark (Lueckmann et al. 2021), on networks that sbi
{about["sbi"]} trained on {about["simulations"]:,} simulations for at most {about["epochs"]} epochs: {about["samples"]:,} samples, mean of
{len(about["observations"])} observations. C2ST is 0.5 where a classifier cannot tell the samples from the reference, and 1 where it always can.
"sbi" is its sampler by Euler-Maruyama on its own times; "power law" is the same on the times of Karras et al. 2022. The last column shows what
a network allows. Made by `benchmarks/posteriors.py`; all numbers are in `benchmarks/results/sbi.json`.

{table(header, rows, left=3)}"""


def _pair(cell: dict[str, float]) -> str:
    return f"{cell['c2st']:.2f} / {1000 * cell['mmd2']:.1f}"


def replaced(page: str, parts: dict[str, str]) -> None:
    """Write the parts of a page of docs/ that stand between marks."""
    path = DOCS / page
    text = path.read_text()
    for name, part in parts.items():
        first, last = f"<!-- {name}: written by benchmarks/pages.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(first)
        text = f"{before}{first}\n\n{part}\n\n{last}{rest.split(last)[1]}"
    path.write_text(text)


def modes(found: dict) -> str:
    """The part of docs/inverse.md on the prior of 25 modes."""

    def number(value: float) -> str:
        return "refused" if value == math.inf else f"{value:.2f}"

    rows = [
        [name, "" if row["calls"] is None else f"{row['calls']:.0f}", number(row["median"]), number(row["max"])]
        for name, row in found["methods"].items()
    ]
    return f"""Sliced W2 between {found["samples"]} samples of each method and as many exact ones, median and largest over
{found["problems"]} problems; the modes have standard deviation 1 and are 8 apart. Made by `benchmarks/conditional.py modes`.

{table(["method", "calls", "median", "largest"], rows)}"""


def digits(found: dict) -> str:
    """The part of docs/inverse.md on a trained network."""
    names = list(found["problems"])
    rows = []
    for method in found["problems"][names[0]]:
        cells = [found["problems"][problem][method] for problem in names]
        costs = [f"{cells[0]['network']:.0f}", f"{cells[0]['vjps']:.0f}"]
        rows.append([method, *costs, *(f"{cell[key]:.2f}" for cell in cells for key in ("mean", "sample"))])
    header = [
        "method",
        "evaluations",
        "backward passes",
        *(f"{problem}: {key}" for problem in names for key in ("mean", "a sample")),
    ]
    about = (
        f"{found['draws']} samples and of one sample, over {found['images']} held-out digits in [-1, 1] with noise {found['std']}"
    )
    return f"""Rms error of the mean of {about}.
Made by `benchmarks/conditional.py digits`.

{table(header, rows)}"""


def guidance_cost(found: dict) -> str:
    """The part of docs/guidance.md on its cost."""
    rows = [
        [
            name,
            *(f"{row['microseconds'][key]:.0f}" for key in row["microseconds"]),
            *(f"{row['ratio'][key]:.3f}" for key in row["ratio"]),
        ]
        for name, row in found.items()
    ]
    first = next(iter(found.values()))
    header = ["network", *first["microseconds"], *(f"ratio, {key}" for key in first["ratio"])]
    return f"""Microseconds of one core a step of ten, the least of many rounds, and the ratio of `Guided` to the loop by hand. A ratio is
uncertain by several percent where the network is no product; the first row is what the wrapper and `sample` add. Made by
`benchmarks/conditional.py cost`.

{table(header, rows)}"""


def classifier_share(found: dict) -> str:
    """The part of docs/guidance.md on classifiers of others."""
    weights = list(dict.fromkeys(w for row in found["share"].values() for w in row))
    rows = [[name, *("" if w not in row else f"{row[w]:.1%}" for w in weights)] for name, row in found["share"].items()]
    return f"""Share of {found["samples"]} samples ({found["nfe"]} solver calls) of the wanted class, as a third network sees them,
which is right on {found["judge"]:.1%} of real held-out digits. Made by `benchmarks/conditional.py classifiers`.

{table(["guide", *(f"weight {w}" for w in weights)], rows)}"""


def small_networks(found: dict) -> str:
    """The part of docs/inference.md on the sbi benchmark."""
    rows = [
        [
            name.replace("_", " "),
            f"{row['seconds']:.0f}",
            f"{row['mean']:.3f}",
            f"{min(row['c2st']):.3f}",
            f"{max(row['c2st']):.3f}",
        ]
        for name, row in found["tasks"].items()
    ]
    return f"""C2ST against reference posterior samples over the ten observations of the sbi benchmark (Lueckmann et al. 2021), from an
MLP trained on {found["simulations"]:,} simulations, `sde-dpm++2m` at {found["nfe"]} calls, a solver that was chosen with sbi's networks for the
same tasks in view. 0.5 is perfect. Made by `benchmarks/conditional.py inference`.

{table(["task", "seconds of training, one core", "mean", "least", "largest"], rows)}"""


def _seconds(entry: dict) -> str:
    return f"{entry['seconds']['fitted']:.0f} / {entry['seconds']['refined']:.0f}"


def momentum(found: dict) -> str:
    """The part of docs/processes.md on CLD."""
    laws = ("Gaussian", "two modes")
    rows = [
        [name, *(f"{found[law][name][statistic]:.3g}" for law in laws for statistic in ("rms", "median"))]
        for name in found[laws[0]]
    ]
    spread = ", ".join(f"{name} {100 * error:.0f} %" for name, error in found["std"].items())
    return f"""CLD at {found["calls"]} calls: distance of the position to the exact flow, over 512 starts in one dimension.
With two narrow modes some starts end in the other one. Made by `benchmarks/processes.py cld`.

{table(["", *(f"{law}, {statistic}" for law in laws for statistic in ("rms", "median"))], rows)}

Error of the standard deviation of the result on the Gaussian, exactly: {spread}."""


def restored(found: dict) -> str:
    """The part of docs/processes.md on bridges."""
    rows = [
        [
            name,
            "" if row["psnr"] == math.inf or row["psnr"] == "inf" else f"{float(row['psnr']):.1f}",
            f"{row['frechet']:.2f}",
            f"{row['residual']:.3f}" if "residual" in row else "",
            f"{100 * row['class']:.0f} %" if "class" in row else "",
        ]
        for name, row in found.items()
        if isinstance(row, dict)
    ]
    return f"""{found["images"]} held-out digits, blurred by {found["blur"]:g} pixel, with noise {found["std"]:g};
{found["calls"]} calls where nothing else is said. The bridge was trained on pairs (3,000 iterations) and knows the blur from them alone.
The posterior samplers are told the operator, and have the unconditional VP network below. Frechet distance of a classifier's features to
the training images; residual: rms of $A x - y$, {found["std"]:g} for the truth; class: share that the classifier reads
as the true digit. Made by `benchmarks/processes.py restoration`.

{table(["", "PSNR, dB", "Frechet distance", "residual", "class"], rows)}"""


def trained(found: dict) -> str:
    """The part of docs/processes.md on four processes."""
    names = ("vp", "blur", "coloured", "cld")
    columns = [f"{solver} {nfe}" for nfe in (10, 20, 50) for solver in ("default", "gddim2", "sde-gddim2")]
    rows = [[name, *(f"{found[name][column]:.2f}" for column in columns)] for name in names]
    return f"""U-Nets of one size on the 8 x 8 digits, 4,000 iterations, noise prediction, the library's defaults for each process
(`scoresde train digits --process ...`). Frechet distance of a classifier's features between {found["samples"]} samples and the training data,
by solver and calls; two halves of the data are at {found["halves"]:.2f}. One training run each: no process was tuned. Made by
`benchmarks/processes.py digits`.

{table(["process", *columns], rows)}"""


def ratios(external: dict) -> str:
    """The table of README.md: errors on networks of others, relative to the best peer in hindsight."""
    means = external["means"]["external"]
    shown = {
        "the default, on a network that its choice has not seen": "left out",
        '`solver="auto"`: a pilot of 32 starts on the network': "select",
        "`solvers.fit`": "fit",
    }
    budgets = ("5", "8", "10", "20")

    def cell(method: str, nfe: str) -> str:
        found = means[method].get(nfe)
        return (
            "" if found is None else f"{found['rms'][0]:.2f}" + ("" if found["networks"][0] == 7 else f" ({found['networks'][0]})")
        )

    lines = [[name, *(cell(method, nfe) for nfe in budgets)] for name, method in shown.items()]
    return f"""Error against a fine solve on networks that others trained, divided by that of the best of 20 to 50 configurations of diffusers,
k-diffusion and azula, in hindsight for each network and budget. Geometric means over 7 networks, or as many as in brackets:

{table(["calls", *budgets], lines)}"""


def checked(rows: list[dict]) -> str:
    """The part of docs/check.md on networks of others: what was named, by fault and network."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    found = {(row["fault"], row["network"]): row for row in rows}

    def cell(fault: str, network: str) -> str:
        row = found.get((fault, network))
        if row is None:
            return ""
        return (", ".join(row["found"]) or "well") + ("" if row["named"] else " **(wrong)**")

    faults = list(dict.fromkeys(row["fault"] for row in rows))
    cells = [[fault, *(cell(fault, network) for network in networks)] for fault in faults]
    planted, sound = ([row["named"] for row in rows if (row["fault"] == "as it is") == kind] for kind in (False, True))
    return f"""{table(["planted", *networks], cells, left=1 + len(networks))}

{sum(planted)} of {len(planted)} planted faults are named. Of {len(sound)} networks as they are, {sum(sound)} get the right verdict.
Made by `benchmarks/check.py`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().results
    results = json.loads((folder / "solvers.json").read_text())
    exact = list(results["exact"].values())
    curves = {
        name: [
            (int(nfe), geometric_mean(t["ours"][name][nfe]["rms"] for t in exact)) for nfe in NFE if nfe in exact[0]["ours"][name]
        ]
        for name in SHOWN
    }
    curves["best peer in hindsight"] = [(int(nfe), geometric_mean(best(t["peers"], nfe, "rms")[0] for t in exact)) for nfe in NFE]
    save_error_plot(curves, DOCS / "solvers.png")
    external, roughness = (json.loads((folder / f"{name}.json").read_text()) for name in ("external", "roughness"))
    section.save_roughness(roughness, DOCS / "roughness.png")
    (DOCS / "benchmarks.md").write_text(benchmarks_page(results, external))
    (DOCS / "choosing.md").write_text(choosing_page(results, external, roughness))
    fitted = json.loads((folder / "fitted.json").read_text())
    targets = list(fitted["exact"].values())
    save_error_plot(
        {
            title: [(int(nfe), geometric_mean(t[nfe][name]["rms"] for t in targets)) for nfe in targets[0]]
            for name, title in CONTENDERS.items()
            if name != "selected"
        },
        DOCS / "fitted.png",
    )
    (DOCS / "fitted.md").write_text(fitted_page(fitted))
    replaced("interop.md", {"posteriors": posteriors(json.loads((folder / "sbi.json").read_text()))})
    conditional = json.loads((folder / "conditional.json").read_text())
    replaced("inverse.md", {"modes": modes(conditional["modes"]), "digits": digits(conditional["digits"])})
    replaced(
        "guidance.md", {"cost": guidance_cost(conditional["cost"]), "classifiers": classifier_share(conditional["classifiers"])}
    )
    replaced("../README.md", {"ratios": ratios(external)})
    replaced("check.md", {"check": checked(json.loads((folder / "check.json").read_text()))})
    linear = json.loads((folder / "processes.json").read_text())
    parts = {"cld": momentum(linear["cld"]), "restoration": restored(linear["restoration"]), "trained": trained(linear["digits"])}
    replaced("processes.md", parts)
    replaced("inference.md", {"tasks": small_networks(conditional["inference"])})


if __name__ == "__main__":
    main()
