"""Training runs for `torchrun`, one after another: `program.py PROCESSES JOBS`, with JOBS the JSON of pairs of a folder and options.

The program asserts the number of processes itself. A job with the option `stop` is interrupted after so many iterations; the text of a
`ValueError` goes into the file `refused` of its folder.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import scoresde as ss
from scoresde import data, networks
from scoresde.train import Recipe, Trainer

torch.set_num_threads(1)
CHAIN = ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000))
EXECUTION = ("parallel", "accumulate", "workers")


class Breaks(networks.MLP):
    """A network whose output is not a number on one process from iteration 3 on."""

    calls = 0

    def forward(self, z, t, label=None):
        self.calls += self.training
        out = super().forward(z, t, label)
        return out * torch.nan if self.calls > 3 and os.environ.get("RANK") == "1" else out


def make(folder, kind="mlp", **options):
    """64 samples with two classes. The MLP has widths that are no multiples of 4, for uneven parts.

    U-Nets are in float64: behind its layers that begin at 0 some gradients are rounding alone, of which Adam makes full steps.
    """
    shape = (1, 8, 8) if kind in ("unet", "edm2") else (3,)
    g = torch.Generator().manual_seed(0)
    x, label = torch.randn(64, *shape, generator=g), torch.arange(64) % 2
    if kind == "other data":
        x = x + float(os.environ.get("RANK", "0"))
    torch.manual_seed(0)
    networks_of = {
        "unet": lambda: networks.UNet(1, width=18, heads=3, classes=2).double(),
        "edm2": lambda: networks.EDM2(1, width=18, multipliers=(1, 2), blocks=1, head_channels=9, classes=2).double(),
        "stream": lambda: networks.MLP(3, width=14, classes=2).double(),
        "precise": lambda: networks.MLP(3, width=14, classes=2).double(),
        "breaks": lambda: Breaks(3, width=14, classes=2),
    }
    network = networks_of.get(kind, lambda: networks.MLP(3, width=14, classes=2))()
    x = x.to(next(network.parameters()).dtype)
    execution = {key: options.pop(key) for key in EXECUTION if key in options}
    recipe = Recipe(
        **{"iterations": 20, "batch_size": 8, "warmup": 3, "validate_every": 7, "save_every": 4, "learning_rate": 1e-2, **options}
    )
    cond = {"label": label}
    if kind == "stream":
        rows = [{"point": point, "label": int(y)} for point, y in zip(x, label, strict=True)]
        source = data.Stream(rows, image="point", cond={"label": "label"})
        return Trainer(ss.ScoreModel(network, CHAIN), source, recipe, folder=folder, **execution)
    return Trainer(
        ss.ScoreModel(network, CHAIN),
        x,
        recipe,
        cond=cond,
        held_out=x[:10],
        held_out_cond={"label": label[:10]},
        folder=folder,
        **execution,
    )


def run(folder, stop=None, **options):
    trainer = make(folder, **options)
    if stop is not None:
        step, steps = trainer._step, iter(range(stop))

        def stops():
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step()

        trainer._step = stops
    try:
        trainer.run(progress=False)
    except KeyboardInterrupt:
        assert stop is not None


def run_or_say_why(folder, options):
    try:
        run(folder, **options)
    except ValueError as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"refused{os.environ.get('RANK', '')}").write_text(str(error))


def main(processes, jobs):
    for folder, options in jobs:
        run_or_say_why(Path(folder), options)
    assert (dist.get_world_size() if dist.is_initialized() else 1) == processes
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
