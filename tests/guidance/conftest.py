"""A conditional mixture: every condition keeps some of the modes."""

import torch

import scoresde as ss
from scoresde import analytic

from ..conftest import generator

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, -1.0], [0.8, 0.9], [-0.7, -0.8], [0.0, 0.1]], dtype=torch.float64)
VARIANCES = torch.tensor([0.05, 0.1, 0.2, 0.15, 0.1, 0.08], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.25, 0.15, 0.1, 0.2, 0.1], dtype=torch.float64)
# Label k keeps these modes; label -1 keeps all.
MODES = {-1: [0, 1, 2, 3, 4, 5], 0: [0, 1], 1: [2, 3], 2: [4, 5]}


def of_label(label=-1):
    keep = MODES[label]
    return analytic.GaussianMixture(MEANS[keep], VARIANCES[keep], WEIGHTS[keep])


def log_label(z, t, sde, label):
    """log p(label | z_t = z) by the densities of the modes."""
    logs = torch.stack([of_label(k).log_prob(z, t, sde) + WEIGHTS[MODES[k]].sum().log() for k in range(3)])
    return logs.log_softmax(0).gather(0, label[None])[0]


class Conditional(ss.Model):
    """The exact model of the mixture under a label for each sample; counts its calls and the samples in them."""

    def __init__(self, sde, prediction="data"):
        self.sde = sde
        self.prediction = ss.Preconditioned() if prediction == "edm" else prediction
        self.parts = {label: of_label(label).model(sde) for label in MODES}
        self.calls, self.samples = 0, 0

    @property
    def dtype(self):
        return torch.float64

    def output(self, z, t, label=None, **cond):
        if cond:
            raise TypeError(f"unknown conditions {', '.join(cond)}")
        self.calls, self.samples = self.calls + 1, self.samples + len(z)
        if label is None:
            label = torch.full((len(z),), -1)
        out = torch.zeros_like(z)
        for k, part in self.parts.items():
            rows = label == k
            if bool(rows.any()):
                at = t[rows] if isinstance(t, torch.Tensor) and t.ndim else t
                out[rows] = part._read(self.prediction, z[rows], at, {})
        return out


def states(sde, count=16, seed=0):
    return sde.prior_std * torch.randn(count, 2, dtype=torch.float64, generator=generator(seed))


def labels(count):
    return torch.arange(count) % 3
