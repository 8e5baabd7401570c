"""Does `diagnostics.check` name the fault? Networks that others trained, each as it is and with planted faults: results/check.json.

    SCORESDE_EXTERNAL=FOLDER python benchmarks/check.py [NETWORK ...]

Where the author's data are not at hand, samples of the network itself stand for them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from external.catalogue import MODELS, Entry
from torch import Tensor, nn

import scoresde as ss
from scoresde import diagnostics

RESULTS = Path(__file__).parent / "results" / "check.json"
DATA = 600
# A network with a known flaw, which hides the level of its input: whatever is planted, something has to be named.
FLAWED = ("mnist-layernorm-unet",)


class Negated(nn.Module):
    """-network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return -self.network(z, t, **cond)


def faults(model: ss.ScoreModel) -> Iterator[tuple[str, set[str], ss.ScoreModel, float]]:
    """(name, kinds that are right answers, model, factor on the data)."""
    sde, prediction, time = model.sde, model.prediction, model._network_time
    chain = isinstance(sde, ss.sde.VPChain)
    if not isinstance(prediction, ss.sde.Preconditioned):
        wrong = "data" if prediction in ("noise", "velocity") else "noise"
        yield "wrong prediction", {"prediction"}, ss.ScoreModel(model.network, sde, wrong, time=time), 1.0

    def half(sde: ss.SDE, t: Tensor) -> Tensor:
        return sde.half_log_snr(t)

    if chain:
        last = time(sde, torch.ones(1, dtype=torch.float64))
        if not last.is_floating_point():
            own = lambda sde, t: t.round().long()  # noqa: E731
        elif float(last) > 2:
            own = "t"
        else:
            own = "index"
        yield "wrong time", {"time"}, ss.ScoreModel(model.network, sde, prediction, time=own), 1.0
    else:
        yield "wrong time", {"time"}, ss.ScoreModel(model.network, sde, prediction, time=half), 1.0
    ends = [time(sde, torch.tensor([end], dtype=torch.float64)) for end in (1 / sde.steps if chain else sde.t_min, 1.0)]
    reverse = lambda sde, t: ends[0] + ends[1] - time(sde, t)  # noqa: E731
    yield "reversed time", {"direction"}, ss.ScoreModel(model.network, sde, prediction, time=reverse), 1.0
    yield "negated", {"sign"}, ss.ScoreModel(Negated(model.network), sde, prediction, time=time), 1.0
    if chain:
        steps = sde.steps
        cosine = ss.VPSDE.cosine(steps)
        yield "cosine for linear betas", {"schedule"}, ss.ScoreModel(model.network, cosine, prediction, time=time), 1.0
        betas = torch.linspace(3e-4, 0.035, steps, dtype=torch.float64)
        yield "larger betas", {"schedule"}, ss.ScoreModel(model.network, ss.VPSDE.from_betas(betas), prediction, time=time), 1.0
        yield (
            "betas x 1.5",
            {"schedule"},
            ss.ScoreModel(model.network, ss.VPSDE.from_betas(1.5 * sde.betas), prediction, time=time),
            1.0,
        )
        for shift in (1, -1):

            def off(sde: ss.SDE, t: Tensor, shift: int = shift) -> Tensor:
                return time(sde, (t + shift / steps).clamp(1 / steps, 1))

            yield f"index {shift:+d}", {"index"}, ss.ScoreModel(model.network, sde, prediction, time=off), 1.0
    yield "data x 255", {"scale"}, model, 255.0
    blind = lambda sde, t: time(sde, torch.full_like(t, 0.5))  # noqa: E731
    yield "time ignored", {"time ignored", "time", "schedule"}, ss.ScoreModel(model.network, sde, prediction, time=blind), 1.0


def data(entry: Entry, model: ss.ScoreModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Data of the network, in an order of chance, and their labels."""
    if entry.data is None:
        return ss.sample(model, (DATA, *entry.event), "dpm++2m", nfe=30, seeds=range(DATA)), {}
    x = entry.data()
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:DATA]
    return x[chosen], {"label": entry.labels()[chosen]} if entry.labels else {}


def main() -> None:
    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in sys.argv[1:] or MODELS:
        entry = MODELS[name]
        model = entry.make()
        x, cond = data(entry, model)
        rows = [row for row in rows if row["network"] != name]
        for fault, wanted, faulty, factor in [("as it is", set(), model, 1.0), *faults(model)]:
            started = time.perf_counter()
            found = diagnostics.check(faulty, x * factor, torch.Generator().manual_seed(1), **cond)
            named = not found.well if name in FLAWED else bool(wanted & set(found.faults)) if wanted else found.well
            seconds = round(time.perf_counter() - started, 1)
            rows.append({"network": name, "fault": fault, "found": list(found.faults), "named": named})
            print(
                f"{name:22s} {fault:24s} {'ok ' if named else 'NOT'} {seconds:5.1f} s {found.faults} {found.verdict[:150]}",
                flush=True,
            )
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
