"""Samples per second in training: our `Trainer` and U-Net, and the plain loop that diffusers' examples show with its `UNet2DModel`.

    python benchmarks/training.py [--threads 2] [--steps 2] [--repeats 9] [--budget 100] [--device cpu] [--out benchmarks/results]

Images 28 x 28 x 1, batch 64, float32, AdamW of one learning rate and a clipped gradient for all. `UNet2DModel` has as many levels, the same
place of attention and within 2% as many parameters. The plain loop is timed with and without its average of the weights (`EMAModel`); our
trainer always keeps one, and both networks are timed in both loops. The share of our step that is not the network is found from forward and
backward alone, with the inputs, targets and weights of the loss made before. Medians of interleaved runs of --steps steps each (`timing.py`).
Then what scales. Memory: the largest resident size of a process that takes two steps of an attention U-Net on 32 x 32 x 3, with and without
`recompute`, less that of one that takes none. Reading: the same training from a tensor in memory, and from a folder of 20,000 PNG files that 2
workers decode. Writes training.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import timing
import torch
from torch import Tensor, nn

import scoresde as ss
from scoresde import data, networks
from scoresde.train.recipe import Recipe
from scoresde.train.trainer import Trainer

# diffusers imports torchvision where it is found, and fails where that was built for another torch. No model here needs it.
sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]

BATCH, EVENT, RATE = 64, (1, 28, 28), 2e-3


def diffusers_network() -> nn.Module:
    """`UNet2DModel` of the size of ours."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 48),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=12,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


class Sample(nn.Module):
    """A `UNet2DModel` with the call of our networks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.network(z, t, return_dict=False)[0]


def trainer_loop(network: nn.Module, x: Tensor, steps: int) -> timing.Loop:
    """`Trainer.run`, without validation: each call goes on for `steps` iterations."""
    recipe = Recipe(batch_size=BATCH, learning_rate=RATE)
    trainer = Trainer(ss.ScoreModel(network, timing.chain()), x, recipe)

    def run() -> None:
        trainer.recipe = replace(recipe, iterations=trainer.iteration + steps)
        trainer.run(progress=False)

    return run


def plain_loop(network: nn.Module, x: Tensor, steps: int, average: bool) -> timing.Loop:
    """The loop of diffusers' training example: its DDPM scheduler adds the noise."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    scheduler = DDPMScheduler(timing.T, trained_betas=timing.BETAS.tolist())
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    ema = EMAModel(network.parameters(), decay=0.995) if average else None

    def run() -> None:
        for _ in range(steps):
            clean = x[torch.randint(len(x), (BATCH,), device=x.device)]
            noise = torch.randn_like(clean)
            t = torch.randint(timing.T, (BATCH,), device=x.device)
            loss = nn.functional.mse_loss(network(scheduler.add_noise(clean, noise, t), t), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.step(network.parameters())
            loss.item()  # as the example logs it

    return run


def network_only(network: nn.Module, x: Tensor, steps: int) -> timing.Loop:
    """Forward and backward of the network on the loss, its inputs made before."""
    clean, t = x[:BATCH], torch.arange(BATCH, dtype=torch.float64, device=x.device) * 15 / timing.T + 1 / timing.T
    z, noise = timing.chain().perturb(clean, t)
    index = (t * timing.T - 1).float()

    def run() -> None:
        for _ in range(steps):
            for parameter in network.parameters():
                parameter.grad = None
            (network(z, index) - noise).square().mean().backward()

    return run


def peak(recompute: bool, steps: int, threads: int, device: str) -> float:
    """Megabytes at the peak of a process of its own; on a GPU those that torch allocated."""
    program = f"""
import torch
from scoresde import networks
torch.set_num_threads({threads})
net = networks.ADM(3, 64, (1, 2, 2), 2, (1, 2), recompute={recompute}).to("{device}")
z, t = torch.randn(32, 3, 32, 32, device="{device}"), torch.rand(32, device="{device}")
for _ in range({steps}):
    net(z, t).square().mean().backward()
cpu = "{device}" == "cpu"
# Not of getrusage, which a process inherits from the one that starts it.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak / 1024 if cpu else torch.cuda.max_memory_allocated() / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def memory(threads: int, device: str) -> dict[str, float]:
    """Megabytes of the activations and gradients of a step."""
    least = peak(False, 0, threads, device)
    return {name: peak(recompute, 2, threads, device) - least for name, recompute in (("kept", False), ("recomputed", True))}


def write_images(folder: Path, count: int) -> Tensor:
    """Files of random grey images, and their bytes `(count, 28, 28)`."""
    from PIL import Image

    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for i, image in enumerate(images):
        Image.fromarray(image.numpy()).save(folder / f"{i:05d}.png")
    return images


def reading(device: torch.device, steps: int, repeats: int, budget: float) -> dict[str, float]:
    """Samples per second from memory and from files. Workers are started before the clock."""
    with tempfile.TemporaryDirectory() as name:
        images = write_images(Path(name), 20_000)
        sources = {
            "tensor in memory": (data.Memory(images[:, None].float() / 127.5 - 1), 0),
            "20,000 PNG files, 2 workers": (data.ImageFolder(name), 2),
        }
        loops: dict[str, timing.Loop] = {}
        for label, (source, workers) in sources.items():
            model = ss.ScoreModel(networks.UNet(1).to(device), timing.chain())
            recipe = Recipe(batch_size=BATCH, learning_rate=RATE, iterations=100_000)
            trainer = Trainer(model, source, recipe, workers=workers)
            loops[label] = steps_of(trainer, steps)
        seconds = timing.interleaved(loops, device, repeats, budget)
    return {label: BATCH * steps / statistics.median(values) for label, values in seconds.items()}


def steps_of(trainer: Trainer, steps: int) -> timing.Loop:
    """Some steps of a run that goes on, without validation."""

    def run() -> None:
        for _ in range(steps):
            trainer._step()
            trainer.iteration += 1

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=100.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, steps = torch.device(options.device), options.steps
    x = torch.rand(2048, *EVENT, device=device) * 2 - 1

    def our_network() -> nn.Module:
        return networks.UNet(1).to(device)

    def their_network() -> nn.Module:
        return Sample(diffusers_network()).to(device)

    def last(network: nn.Module) -> nn.Module:
        return network.to(memory_format=torch.channels_last)

    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in (("ours", our_network), ("theirs", their_network))}
    loops: dict[str, timing.Loop] = {
        "our U-Net, forward and backward alone": network_only(our_network(), x, steps),
        "our U-Net, our Trainer (with average)": trainer_loop(our_network(), x, steps),
        "our U-Net, plain loop": plain_loop(our_network(), x, steps, average=False),
        "our U-Net, plain loop with EMAModel": plain_loop(our_network(), x, steps, average=True),
        "our U-Net in channels_last, forward and backward alone": network_only(last(our_network()), x, steps),
        "our U-Net in channels_last, our Trainer (with average)": trainer_loop(last(our_network()), x, steps),
        "UNet2DModel in channels_last, forward and backward alone": network_only(last(their_network()), x, steps),
        "UNet2DModel in channels_last, plain loop with EMAModel": plain_loop(last(their_network()), x, steps, average=True),
        "UNet2DModel, forward and backward alone": network_only(their_network(), x, steps),
        "UNet2DModel, our Trainer (with average)": trainer_loop(their_network(), x, steps),
        "UNet2DModel, plain loop": plain_loop(their_network(), x, steps, average=False),
        "UNet2DModel, plain loop with EMAModel": plain_loop(their_network(), x, steps, average=True),
    }
    seconds = timing.interleaved(loops, device, options.repeats, options.budget)
    medians = {name: statistics.median(values) / steps for name, values in seconds.items()}
    results: dict[str, Any] = {"batch": BATCH, "parameters": sizes, "rounds": len(next(iter(seconds.values()))), "loops": {}}
    for name, median in medians.items():
        alone = medians[f"{name.split(',')[0]}, forward and backward alone"]
        figures = {"ms": 1e3 * median, "samples_per_second": BATCH / median, "outside_network": 1 - alone / median}
        results["loops"][name] = {key: float(f"{value:.4g}") for key, value in figures.items()}
    timing.print_table(
        f"Batch {BATCH} of 28 x 28 x 1 on {device}; parameters: {sizes['ours']:,} and {sizes['theirs']:,}",
        ("loop", "ms a step", "samples/s", "share outside the network"),
        [(name, row["ms"], row["samples_per_second"], f"{row['outside_network']:.1%}") for name, row in results["loops"].items()],
    )
    results["samples_per_second_by_source"] = {
        key: float(f"{value:.4g}") for key, value in reading(device, steps, options.repeats, options.budget / 2).items()
    }
    results["megabytes_of_a_step"] = {key: round(value) for key, value in memory(options.threads, options.device).items()}
    timing.print_table("Reading", ("source", "samples/s"), list(results["samples_per_second_by_source"].items()))
    timing.print_table(
        "ADM of width 64, batch 32 of 32 x 32 x 3", ("activations", "megabytes"), list(results["megabytes_of_a_step"].items())
    )
    timing.write(options.out / "training.json", {"threads": options.threads, **results})


if __name__ == "__main__":
    main()
