"""Guidance: models that are made from the predictions of other models, and corrections that make their samples exact."""

from ..models.thresholding import thresholded
from .cfgpp import GridWeight, cfgpp
from .conditions import Conditioned, conditioned
from .feynman_kac import FeynmanKac
from .guided import Guided
from .product import Product, Tilted, product, tilted
from .rules import APG, Rescaled, Rule, ZeroStar, apg, rescaled, zero_star
from .weights import Interval, Weight

__all__ = [
    "APG",
    "Conditioned",
    "FeynmanKac",
    "GridWeight",
    "Guided",
    "Interval",
    "Product",
    "Rescaled",
    "Rule",
    "Tilted",
    "Weight",
    "ZeroStar",
    "apg",
    "cfgpp",
    "conditioned",
    "product",
    "rescaled",
    "thresholded",
    "tilted",
    "zero_star",
]
