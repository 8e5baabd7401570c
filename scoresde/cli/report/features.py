"""Features of small images without foreign weights: the last hidden layer of a small classifier trained on the real data.

A distance in them is not an FID, and two distances compare only with the same features and the same number of samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import deprecation
from ...numerics.random import cpu_generator, global_seed

__getattr__ = deprecation.moved_names(__name__)


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
