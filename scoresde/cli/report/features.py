"""The distance between two sets of samples.

The Frechet distance between Gaussians fitted to features (Dowson and Landau 1982; with Inception features the FID of Heusel et al. 2017).
Here the features are the pixels, or the last hidden layer of a small classifier trained on the real data. The distance is therefore not an
FID, and two distances compare only with the same features and the same number of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...numerics.random import cpu_generator, global_seed


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features `(N, d)` and `(M, d)`, in float64."""
    a, b = a.double(), b.double()
    cov_a, cov_b = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    # The eigenvalues of C_a C_b are those of the symmetric R C_b R with R = C_a^(1/2).
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    gap = (a.mean(0) - b.mean(0)).square().sum()
    return float(gap + cov_a.trace() + cov_b.trace() - 2 * cross)


class Classifier(nn.Module):
    """A small convolutional classifier of grey or colour images, trained on the real data for its features."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.LazyLinear(128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, classes))
        self.body(torch.zeros(1, channels, height, width))

    @classmethod
    def trained(cls, x: Tensor, labels: Tensor, *, epochs: int = 8, batch_size: int = 64, seed: int = 0) -> Classifier:
        """Train on images `(N, channels, height, width)` with AdamW and a one-cycle rate.

        Raises:
            ValueError: fewer images than a batch.
        """
        if len(x) < batch_size:
            raise ValueError(f"the classifier needs at least {batch_size} images, got {len(x)}")
        with global_seed(seed):
            classifier = cls(x.shape[1], x.shape[2], x.shape[3], int(labels.max()) + 1)
            optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
            steps = epochs * (len(x) // batch_size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
            for epoch in range(epochs):
                order = torch.randperm(len(x), generator=cpu_generator(seed + epoch), device="cpu")
                # The remainder of an epoch is dropped.
                for chosen in order[: len(x) // batch_size * batch_size].split(batch_size):
                    loss = nn.functional.cross_entropy(classifier.head(classifier.body(x[chosen])), labels[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return classifier.eval()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, `(N, 128)`."""
        return torch.cat([self.body(part) for part in x.split(500)])

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities, `(N, classes)`."""
        return self.head(self.features(x)).softmax(1)
