"""Sets of samples as sets of features. The number of a distance means something only beside the features that it was measured in.

The weights of the usual networks belong to others and are not shipped. Any module from images to `(B, d)` is taken. For the numbers of papers:

    class Inception(torch.nn.Module):                                     # FID and KID, with images="uint8"
        def __init__(self, file):                                         # weights-inception-2015-12-05-6726825d.pth of torch-fidelity
            super().__init__()
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file)

        def forward(self, images):                                        # (B, 3, H, W) uint8
            return self.net(images)[0]                                    # (B, 2048)

    class PytorchFID(torch.nn.Module):                                    # pytorch-fid: pt_inception-2015-12-05-6726825d.pth
        def __init__(self):
            super().__init__()
            from pytorch_fid.inception import InceptionV3
            self.net = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]])

        def forward(self, images):
            return self.net(images / 255)[0].flatten(1)

    class DINOv2(torch.nn.Module):                                        # Stein et al. 2023, arXiv 2306.04675
        def __init__(self):
            super().__init__()
            self.net = torch.hub.load("facebookresearch/dinov2", "dinov2_vitl14")

        def forward(self, images):
            x = torch.nn.functional.interpolate(images / 255, (224, 224), mode="bicubic", antialias=True)
            mean, std = (x.new_tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            return self.net((x - mean) / std)                             # (B, 1024)

    report.frechet("samples", "reference", features=Inception(file).eval(), images="uint8")     # FID, Heusel et al. 2017
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor, nn

from ..models.training_mode import layers_in_training
from ..numerics.arrays import flatten_events
from ..numerics.files import digest
from ..numerics.inputs import as_count, as_one_of, as_state
from ..sampling.chunk_files import to_bytes
from ..sampling.chunks import count_samples, read_samples
from .sums import Moments

SampleSet = Tensor | str | PathLike[str]

IMAGES = ("states", "uint8")


@dataclass(frozen=True)
class Features:
    """A map from samples to features `(B, d)`.

    Attributes:
        module: maps a batch to `(B, d)`, in evaluation mode; None for the coordinates themselves.
        images: what the module gets. "states": the samples as they are. "uint8": images in [-1, 1] as bytes `(B, 3, H, W)`, grey ones in three
            equal channels, as Inception networks for the FID expect.
        batch_size: samples in one call of the module.
    """

    module: nn.Module | None = None
    images: str = "states"
    batch_size: int = 256

    def __post_init__(self) -> None:
        as_one_of("images", self.images, IMAGES)
        as_count("batch_size", self.batch_size, 1)
        layer = next(layers_in_training(self.module), None) if self.module is not None else None
        if layer is not None:
            raise ValueError(f"features is in training mode, in which {type(layer).__name__} is random: call features.eval() first")

    @property
    def name(self) -> str:
        """The class of the module, a hash of its weights, and what it gets."""
        module = "coordinates" if self.module is None else f"{type(self.module).__name__} {digest(self.module.state_dict())[:12]}"
        return module if self.images == "states" else f"{module} of {self.images}"

    def rows(self, samples: SampleSet) -> Iterator[Tensor]:
        """The features of a set in its order, `(B, d)` on the device of the module.

        Args:
            samples: `(N, *event)`, or a folder of `sample_to`.

        Raises:
            TypeError: no tensor of real numbers and no folder.
            ValueError: chunks of the folder are missing, or the module returns another shape.
        """
        chunks = (samples,) if isinstance(samples, Tensor) else (x for x, _ in read_samples(samples))
        for x in chunks:
            for part in x.split(self.batch_size):
                yield self(part)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The features `(B, d)` of a batch `(B, *event)`.

        Raises:
            ValueError: the module returns another shape, or "uint8" is asked of what is no image.
        """
        inputs = self._bytes(x) if self.images == "uint8" else as_state("samples", x)
        if self.module is None:
            return flatten_events(inputs).double()
        parameter = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        f = self.module(inputs if parameter is None else inputs.to(parameter.device))
        if not isinstance(f, Tensor) or f.ndim != 2 or len(f) != len(x):
            shown = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
            raise ValueError(f"features must return a tensor (B, d), here ({len(x)}, d): it returns {shown}")
        return f

    def _bytes(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f'images="uint8" needs images (B, 1, H, W) or (B, 3, H, W), got {tuple(x.shape)}')
        return (x if x.dtype == torch.uint8 else to_bytes(x)).expand(-1, 3, -1, -1)

    def all_rows(self, samples: SampleSet) -> Tensor:
        """The features of a whole set, `(N, d)` float64."""
        return torch.cat([rows.double() for rows in self.rows(samples)])


def moments(samples: SampleSet, features: nn.Module | None = None, *, images: str = "states", batch_size: int = 256) -> Moments:
    """n, the sum and the sum of outer products of the features of a set, read chunk by chunk. Keep those of a reference by `save`.

    Args:
        samples: `(N, *event)`, or a folder of `sample_to`.
        features, images, batch_size: as in `frechet`.

    Raises:
        TypeError, ValueError: as `frechet`.
    """
    described = Features(features, images, batch_size)
    rows = described.rows(samples)
    first = next(rows)
    found = Moments(first.shape[1], described.name)
    for each in itertools.chain([first], rows):
        found.add(each)
    return found


def size(samples: SampleSet) -> int:
    """The number of samples of a set."""
    return len(samples) if isinstance(samples, Tensor) else count_samples(samples)
