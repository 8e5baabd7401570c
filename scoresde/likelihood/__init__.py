"""Densities of a score model, and the map between data and noise that they come from.

`encode` and `decode` run the probability-flow ODE (`flow`), `log_likelihood` its divergence along with it (`density`, `divergence`).
`dequantise` and `bits_per_dim` are for data in bins, such as images of bytes (`dequantisation`).
"""

from .density import Likelihood, log_likelihood, prior_mismatch
from .dequantisation import Dequantised, bits_per_dim, dequantise
from .flow import decode, encode

__all__ = ["Dequantised", "Likelihood", "bits_per_dim", "decode", "dequantise", "encode", "log_likelihood", "prior_mismatch"]
