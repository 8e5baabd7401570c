"""How good samples are: distances of a set, in memory or in a folder of `sample_to`, to a reference.

report.frechet("samples", real, features=module, images="uint8")        # FID with the Inception network of `feature_sets`
report.kernel_distance("samples", real, features=module)                # KID
report.precision_recall("samples", real, features=module)
report.moments(real, module).save("real.safetensors")                   # once for a reference, or by each process for its share
"""

from .. import deprecation
from .distances import Frechet, KernelDistance, frechet, kernel_distance, squared_mmd
from .feature_sets import Features, moments
from .neighbours import PrecisionRecall, precision_recall, share_on_manifold
from .sums import Moments, frechet_distance

# Until 0.2 this was the name of `cli.report`.
__getattr__ = deprecation.moved_names(__name__)

__all__ = [
    "Features",
    "Frechet",
    "KernelDistance",
    "Moments",
    "PrecisionRecall",
    "frechet",
    "frechet_distance",
    "kernel_distance",
    "moments",
    "precision_recall",
    "share_on_manifold",
    "squared_mmd",
]
