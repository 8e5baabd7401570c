"""Densities of a score model by the probability-flow ODE.

`encode` and `decode` solve the ODE (`flow`), and `log_likelihood` integrates its divergence as well (`density`, `numerics.jacobian`).
`dequantise` and `bits_per_dim` are for data in bins, such as images of bytes (`dequantisation`).
"""

from .density import Likelihood, log_likelihood, prior_mismatch
from .dequantisation import Dequantised, bits_per_dim, dequantise
from .flow import decode, encode

__all__ = ["Dequantised", "Likelihood", "bits_per_dim", "decode", "dequantise", "encode", "log_likelihood", "prior_mismatch"]
