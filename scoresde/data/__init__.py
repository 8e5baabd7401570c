"""Data: small sets by name, sources larger than memory, streams, and the order in which training reads them."""

from .arrays import Arrays, npy, npz
from .folders import ImageFolder, image_folder
from .idx import idx_folder
from .loader import Loader
from .memory import Data, Memory
from .named import FASHION, NAMES, digits, load, mnist, open
from .order import batch_indices
from .parts import Mirrored, Part, Unconditional, split
from .rows import Rows
from .source import DataError, Source
from .stream import Stream, require_one_stream

__all__ = [
    "FASHION",
    "NAMES",
    "Arrays",
    "Data",
    "DataError",
    "ImageFolder",
    "Loader",
    "Memory",
    "Mirrored",
    "Part",
    "Rows",
    "Source",
    "Stream",
    "Unconditional",
    "batch_indices",
    "digits",
    "idx_folder",
    "image_folder",
    "load",
    "mnist",
    "npy",
    "npz",
    "open",
    "require_one_stream",
    "split",
]
