"""Audit samplers, ours or anyone's: order, bias, noise left, seeds, batches, precision, each with a verdict.

from scoresde import audit
print(audit.run("dpm++2m").markdown())
print(audit.run(my_sampler, order=2).broken)        # def my_sampler(denoiser, z, sigmas): ...
"""

from .audit import PROPERTIES, Audit, run
from .findings import Finding
from .levels import Levels
from .named import sampler_of
from .probe import Coefficients, NotLinearError, probe
from .sampler import Sampler

__all__ = ["PROPERTIES", "Audit", "Coefficients", "Finding", "Levels", "NotLinearError", "Sampler", "probe", "run", "sampler_of"]
