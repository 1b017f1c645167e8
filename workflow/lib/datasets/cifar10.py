"""CIFAR-10: 60,000 small colour images in the six official Python pickles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from workflow.lib.datasets import Images, Source, check_labels, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
SOURCE = Source(
    name="cifar10",
    folder=_FOLDER,
    licence="none formal; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    remotes=(
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170_498_071,
            unpack="tar",
            unpacked=60_000 * 3_100,  # 3,073 bytes each, and their names
        ),
    ),
)


def check(folder: Path) -> None:
    """Raise UserError unless all six batches are there."""
    require(_place(folder), (*_TRAIN, "test_batch"), SOURCE)


def load(folder: Path) -> Images:
    """The images, (50000, 3, 32, 32) and (10000, 3, 32, 32), with their labels."""
    batches = [_batch(_place(folder) / name) for name in _TRAIN]
    train, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Images(train, labels, *_batch(_place(folder) / "test_batch"))


def _place(folder: Path) -> Path:
    """The official archive puts its files into a folder of its own."""
    return folder / _FOLDER if (folder / _FOLDER).is_dir() else folder


def _batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = read_pickle(path)
    if not isinstance(found, dict) or not {b"data", b"labels"} <= found.keys():
        raise UserError(f"{path}: is not a CIFAR-10 batch: expected a dict with data and labels")
    images, labels = np.asarray(found[b"data"]), np.asarray(found[b"labels"])
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072 or labels.shape != images.shape[:1]:
        raise UserError(f"{path}: expected (n, 3072) unsigned bytes and n labels, found {images.shape}, {labels.shape}")
    return images.reshape(-1, 3, 32, 32), check_labels(labels, 10, path)


def read_pickle(path: Path) -> Any:
    """Read a pickle that holds plain values and NumPy arrays, and nothing that runs code.

    Raises:
        UserError: it asks for anything else, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {error}") from None
    except (EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, ImportError) as error:
        raise UserError(f"{path}: is damaged or cut short ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the three names a pickled NumPy array needs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        raise pickle.UnpicklingError(f"refused: it asks to call {module}.{name}, which a CIFAR-10 batch never does")
