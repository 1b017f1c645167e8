"""CIFAR-10: 60,000 small colour images in the six official Python pickles."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from workflow.lib.datasets import REPLACE, Images, Source, check_labels, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError, shortened
from workflow.lib.files import readable

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_LARGEST = 1 << 26  # bytes; the official batches have 31 million
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
    images, labels = getattr(found[b"data"], "values", None), found[b"labels"]
    if not isinstance(images, np.ndarray) or images.shape[1:] != (3072,):
        told = f"shape {images.shape}" if isinstance(images, np.ndarray) else f"no array ({shortened(found[b'data'])})"
        raise UserError(f"{path}: expected data of unsigned bytes of shape (n, 3072), found {told}")
    if not isinstance(labels, list) or len(labels) != len(images):
        told = f"{len(labels):,}" if isinstance(labels, list) else type(labels).__name__
        raise UserError(f"{path}: expected a list of {len(images):,} labels, one for each image; found {told}")
    return images.reshape(-1, 3, 32, 32), check_labels(labels, 10, path)


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values and arrays of unsigned bytes, without calling anything that it names.

    Raises:
        UserError: it asks for anything else, is damaged, or is larger than any official batch.
    """
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes are more than a CIFAR-10 batch has")
    with readable(path, REPLACE):
        try:
            return _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        except _RefusedError as error:
            raise UserError(f"{path}: {error}") from None


class _RefusedError(Exception):
    """A pickle names what no batch of images needs."""


class _Array:
    """What stands for a NumPy array in a pickle until its state is known; no memory but the pickle's own bytes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, raw = state
        if kind.name not in ("u1", b"u1") or by_columns or not isinstance(raw, bytes):
            raise ValueError("expected an array of unsigned bytes, stored row by row")
        self.values = np.frombuffer(raw, np.uint8).reshape(shape)


class _Kind:
    """A NumPy dtype in a pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes have none of."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined]  # in Python, whose memory no count in the file governs
    """An unpickler that knows the three names a pickled NumPy array needs, and has harmless stand-ins for them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Kind
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        raise _RefusedError(f"refused: it asks to call {module}.{name}, which a CIFAR-10 batch never does")
