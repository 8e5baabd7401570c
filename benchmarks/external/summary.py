"""What the errors of `measure.py` say of networks that a rule was not chosen on.

    SCORESDE_EXTERNAL=FOLDER python benchmarks/external/summary.py [--measured runs/external] [--out benchmarks/results/external.json]

Every error is divided by that of the best peer, in hindsight for each network, budget and statistic. Below 1 is better than the peer.

"left out" chooses a rule for a network without this network: a network belongs to a class (`network_class`) and a number of calls to a group
(`GROUPS`). The rule of a class and a group is the one with the least geometric mean of the ratios in rms and in median over the *other*
networks of the class, mixtures and our own included. Late first calls are for data and velocity alone (`admissible`). Where the class has no
other network, those with events as large choose.

Intervals are 90 % bootstrap intervals over starts, with the rule and the networks as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from external.catalogue import MODELS
from external.measure import NFE, RULES, load
from scoresde.sampling.default import LARGE
from scoresde.sde import Preconditioned

GROUPS = ((3,), (4, 5, 6, 8, 10), (15, 20))
STATISTICS = ("rms", "median", "p95")
RESAMPLES = 200
OURS = (*RULES, "default", "select", "fit")


def statistic(errors: np.ndarray, name: str) -> np.ndarray:
    """rms, median or p95 over the last axis."""
    if name == "rms":
        return np.sqrt(np.mean(errors**2, axis=-1))
    return np.median(errors, axis=-1) if name == "median" else np.quantile(errors, 0.95, axis=-1)


@dataclass(frozen=True, eq=False)
class Network:
    """The errors on one network.

    Attributes:
        name: as `measure.py` was given it.
        kind: "external", "own" or "mixture".
        network_class: see `network_class`.
        errors: by method and calls, `(starts,)`.
        reference_error: the rms distance of the fine solve to one of half the steps.
        large: whether events have `LARGE` coordinates.
    """

    name: str
    kind: str
    network_class: str
    errors: dict[tuple[str, int], np.ndarray]
    reference_error: float
    large: bool

    @property
    def starts(self) -> int:
        return len(next(iter(self.errors.values())))

    def methods(self, calls: int, *, ours: bool) -> list[str]:
        """Who made that many calls: our rules, or the peers."""
        return [m for m, n in self.errors if n == calls and (m in RULES if ours else m not in OURS)]

    def value(self, method: str, calls: int, name: str, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The statistic of a method, for every row of `chosen` starts."""
        return statistic(self.errors[method, calls][chosen], name)

    def best(self, calls: int, name: str, *, ours: bool, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The least of our rules or of the peers."""
        return np.min([self.value(m, calls, name, chosen) for m in self.methods(calls, ours=ours)], axis=0)

    def ratio(self, method: str, calls: int, name: str, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The statistic of a method by that of the best peer. "best of ours" is the best of our rules in hindsight."""
        mine = (
            self.best(calls, name, ours=True, chosen=chosen)
            if method == "best of ours"
            else self.value(method, calls, name, chosen)
        )
        return mine / self.best(calls, name, ours=False, chosen=chosen)

    @cached_property
    def logarithms(self) -> dict[tuple[str, int], float]:
        """By rule and calls: the mean of the logarithms of the ratios in rms and in median."""
        least = {(n, s): self.best(n, s, ours=False) for n in NFE for s in ("rms", "median")}
        return {
            (m, n): float(np.mean([np.log(self.value(m, n, s) / least[n, s]) for s in ("rms", "median")]))
            for m, n in self.errors
            if m in RULES
        }

    def score(self, rule: str, group: Sequence[int]) -> float:
        """The mean of `logarithms` over a group of calls; infinite where the rule has no error."""
        return sum(self.logarithms.get((rule, n), math.inf) for n in group) / len(group)


def network_class(name: str) -> tuple[str, bool]:
    """What the default can know of a network: what it predicts and the size of its events; and whether they are large."""
    model, event = load(name)
    large = math.prod(event) >= LARGE
    if isinstance(model.prediction, Preconditioned):
        return "EDM", large
    prediction = "noise" if model.prediction in ("noise", "score") else "data or velocity"
    return f"{prediction}, {'images' if large else 'few coordinates'}", large


def read(path: Path, name: str, kind: str) -> Network:
    """The file of a network."""
    arrays = dict(np.load(path))
    reference_error = float(arrays.pop("reference_error"))
    del arrays["reference"]
    errors = {(key.rsplit("|", 1)[0], int(key.rsplit("|", 1)[1])): values for key, values in arrays.items()}
    found, large = network_class(name)
    return Network(name, kind, found, errors, reference_error, large)


def admissible(network_class: str) -> list[str]:
    """The rules that a class chooses among. A late first call is for data and velocity: a noise error d is a data error d sigma/alpha."""
    return [rule for rule in RULES if network_class.startswith("data") or not rule.startswith("late")]


def chosen_rule(network_class: str, networks: Iterable[Network], group: Sequence[int]) -> str:
    """The admissible rule with the least mean score."""
    networks = list(networks)
    return min(admissible(network_class), key=lambda rule: (sum(n.score(rule, group) for n in networks), rule))


def left_out_rule(network: Network, networks: Sequence[Network], calls: int) -> str:
    """The rule for `calls` that the other networks choose."""
    group = next(group for group in GROUPS if calls in group)
    others = [n for n in networks if n is not network]
    alike = [n for n in others if n.network_class == network.network_class]
    as_large = [n for n in others if n.large == network.large]
    return chosen_rule(network.network_class, alike or as_large or others, group)


def geometric_mean(values: Iterable[np.ndarray]) -> np.ndarray:
    return np.exp(np.mean([np.log(v) for v in values], axis=0))


def means(networks: Sequence[Network], rules: dict[tuple[str, int], str]) -> dict[str, dict[int, dict[str, list[float]]]]:
    """By method, calls and statistic: the geometric mean over networks of the ratio, and its interval."""
    rng = np.random.default_rng(0)
    samples = {n.name: rng.integers(n.starts, size=(RESAMPLES, n.starts)) for n in networks}
    results: dict[str, dict[int, dict[str, list[float]]]] = {}
    for method in ("left out", "default", "select", "fit", "best of ours"):
        for calls in NFE:
            found = {n.name: rules[n.name, calls] if method == "left out" else method for n in networks}
            there = [n for n in networks if found[n.name] == "best of ours" or (found[n.name], calls) in n.errors]
            if not there:
                continue
            for name in STATISTICS:
                value = geometric_mean(n.ratio(found[n.name], calls, name) for n in there)
                resampled = geometric_mean(n.ratio(found[n.name], calls, name, samples[n.name]) for n in there)
                numbers = [float(value), *map(float, np.quantile(resampled, (0.05, 0.95)))]
                found_here = results.setdefault(method, {}).setdefault(calls, {"networks": [len(there)]})
                found_here[name] = numbers
    return results


def of_network(network: Network, networks: Sequence[Network]) -> dict[str, object]:
    """The errors and the ratios of one network at every budget."""
    results: dict[str, object] = {}
    for calls in NFE:
        rule = left_out_rule(network, networks, calls)
        methods = {"left out": rule, "default": "default", "select": "select", "fit": "fit", "best of ours": "best of ours"}
        ratios = {
            said: [float(network.ratio(method, calls, name)) for name in STATISTICS]
            for said, method in methods.items()
            if method == "best of ours" or (method, calls) in network.errors
        }
        peer = min(network.methods(calls, ours=False), key=lambda m: network.value(m, calls, "rms"))
        least = [float(network.best(calls, name, ours=False)) for name in STATISTICS]
        results[str(calls)] = {"rule": rule, "ratios": ratios, "best peer": peer, "its errors": least}
    return {"class": network.network_class, "starts": network.starts, "reference error": network.reference_error, "calls": results}


def named(path: Path, runs: Path) -> tuple[str, str]:
    """The name that `measure.py` was given, and the kind."""
    if path.stem in MODELS:
        return path.stem, "external"
    if path.stem.startswith("mixture_"):
        return path.stem.replace("_", ":"), "mixture"
    return str(runs / path.stem.rsplit("_", 1)[-1]), "own"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("runs/external"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/external.json"))
    options = parser.parse_args()
    networks = [read(path, *named(path, options.measured.parent)) for path in sorted(options.measured.glob("*.npz"))]
    networks = [n for n in networks if all(n.methods(calls, ours=False) for calls in NFE)]
    rules = {(n.name, calls): left_out_rule(n, networks, calls) for n in networks for calls in NFE}
    classes = sorted({n.network_class for n in networks})
    results = {
        "rules": {
            name: {str(group[-1]): chosen_rule(name, [n for n in networks if n.network_class == name], group) for group in GROUPS}
            for name in classes
        },
        "means": {
            kind: means([n for n in networks if n.kind == kind], rules)
            for kind in ("external", "own", "mixture")
            if any(n.kind == kind for n in networks)
        },
        "networks": {
            kind: {Path(n.name).name: of_network(n, networks) for n in networks if n.kind == kind}
            for kind in ("external", "own", "mixture")
        },
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for kind, methods in results["means"].items():
        print(f"\n{kind}: geometric mean of error by that of the best peer, rms / median / p95 [interval of the rms]")
        for method, by_calls in methods.items():
            cells = []
            for calls, found in by_calls.items():
                rms, median, p95 = (found[s][0] for s in STATISTICS)
                cells.append(f"{calls}: {rms:.2f}/{median:.2f}/{p95:.2f} [{found['rms'][1]:.2f} {found['rms'][2]:.2f}]")
            print(f"  {method:13s}", "  ".join(cells))
    print("\nrules by class:", json.dumps(results["rules"], indent=1))


if __name__ == "__main__":
    main()
