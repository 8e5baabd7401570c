"""Published hyper-parameters, by name. All are those of CIFAR-10, 32 x 32.

Networks are the nearest of ours, with the published widths, depths, places of attention and dropout. Not taken over: the rates of betas, the
augmentation of EDM, and the ranges of data other than [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The entries of an `Experiment` and of its `Recipe`, in one table.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Ho et al. 2020, arXiv 2006.11239, appendix B.
    "ddpm": {
        "process": "linear", "steps": 1000, "prediction": "noise", "weighting": "noise",
        "network": "adm", "width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (1,), "dropout": 0.1,
        "iterations": 800_000, "batch_size": 128, "learning_rate": 2e-4, "warmup": 5000, "final_rate": 1.0, "weight_decay": 0.0,
        "clip": 1.0, "ema": 0.9999, "validate_every": 5000, "save_every": 5000,
    },
    # Karras et al. 2022, arXiv 2206.00364, table 7, DDPM++ column: 200 million images, 10 million of them warm-up, a half-life of 0.5 million.
    "edm": {
        "process": "edm", "prediction": "edm", "weighting": "edm", "time_sampler": "log_normal",
        "network": "adm", "width": 128, "multipliers": (2, 2, 2), "blocks": 4, "attention": (1,), "dropout": 0.13,
        "iterations": 390_625, "batch_size": 512, "learning_rate": 1e-3, "warmup": 19_531, "final_rate": 1.0, "weight_decay": 0.0,
        "clip": float("inf"), "ema": 0.5 ** (512 / 500_000), "validate_every": 2500, "save_every": 2500,
    },
    # Lipman et al. 2023, arXiv 2210.02747, table 3; the average is that of their successors.
    "flow": {
        "process": "flow", "prediction": "velocity", "weighting": "velocity",
        "network": "adm", "width": 256, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (1,), "dropout": 0.0,
        "iterations": 391_000, "batch_size": 256, "learning_rate": 5e-4, "warmup": 45_000, "decay": "linear", "final_rate": 0.0,
        "weight_decay": 0.0, "clip": float("inf"), "ema": 0.9999, "validate_every": 5000, "save_every": 5000,
    },
    # Song et al. 2021, arXiv 2011.13456, appendix H, NCSN++ on the VE SDE from 0.01 to 50.
    "ncsnpp": {
        "process": "ve", "prediction": "score", "weighting": "sigma2",
        "network": "adm", "width": 128, "multipliers": (1, 2, 2, 2), "blocks": 4, "attention": (1,), "dropout": 0.1,
        "iterations": 1_300_000, "batch_size": 128, "learning_rate": 2e-4, "warmup": 5000, "final_rate": 1.0, "weight_decay": 0.0,
        "clip": 1.0, "ema": 0.999, "validate_every": 5000, "save_every": 5000,
    },
}  # fmt: skip
