"""A sampling run for processes: `draw.py FOLDER key=value ...`. With DIE=K it ends after K chunks, in the middle of writing the next one."""

import os
import sys

import torch

import scoresde as ss
from scoresde import networks
from scoresde.sampling import chunk_files

torch.set_num_threads(1)

EVENT = (1, 8, 8)


def make_model(network="unet", seed=0):
    """A small network whose weights are no zeros, on the chain of 1000 steps."""
    torch.manual_seed(seed)
    net = networks.UNet(1, width=8, classes=3) if network == "unet" else networks.MLP(2, width=32, classes=3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return ss.ScoreModel(net.eval(), ss.VPSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)), "noise")


def by_seed(seeds):
    return {"label": seeds % 3}


def draw(folder, **options):
    settings = {"n": 64, "chunk": 8, "solver": "ancestral", "steps": 3, "cond": by_seed, **options}
    return ss.sample_to(folder, make_model(), settings.pop("n"), EVENT, settings.pop("solver"), **settings)


def die_after(chunks):
    """Let this process end as if it were killed, with a part of a chunk on the disk."""
    put, written = chunk_files.Safetensors.put, []

    def put_or_die(self, path, samples, label):
        if len(written) == chunks:
            path.write_bytes(b"a part of a chunk")
            os._exit(9)
        written.append(path)
        put(self, path, samples, label)

    chunk_files.Safetensors.put = put_or_die


if __name__ == "__main__":
    if "DIE" in os.environ:
        die_after(int(os.environ["DIE"]))
    print(draw(sys.argv[1], **{key: int(value) for key, value in (text.split("=") for text in sys.argv[2:])}))
