"""MNIST: 70,000 handwritten digits in the four official IDX files."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from workflow.lib.datasets import REPLACE, Images, Source, check_labels, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError
from workflow.lib.files import readable

_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FILES = {  # with their sizes in bytes
    "train-images-idx3-ubyte.gz": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
    "train-labels-idx1-ubyte.gz": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
    "t10k-images-idx3-ubyte.gz": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
    "t10k-labels-idx1-ubyte.gz": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
}
_LARGEST = 1 << 27  # values that one file may hold; the official ones hold 47 million
SOURCE = Source(
    name="mnist",
    folder="mnist",
    licence="CC BY-SA 3.0 (LeCun and Cortes)",
    remotes=tuple(Remote(_ADDRESS + file, file, sha256, size) for file, (sha256, size) in _FILES.items()),
)


def check(folder: Path) -> None:
    """Raise UserError unless all four files are there."""
    require(folder, _FILES, SOURCE)


def load(folder: Path) -> Images:
    """The images, (60000, 1, 28, 28) and (10000, 1, 28, 28), with their labels."""
    train, test = (_split(folder, name) for name in ("train", "t10k"))
    return Images(*train, *test)


def _split(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    path = folder / f"{name}-labels-idx1-ubyte.gz"
    labels = check_labels(read_idx(path), 10, path)
    if images.shape[1:] != (28, 28):
        raise UserError(f"{folder / f'{name}-images-idx3-ubyte.gz'}: expected images of 28 x 28, found {images.shape}")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{path}: labels of shape {labels.shape} do not fit images of shape {images.shape}")
    return images[:, None], labels


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from a compressed IDX file.

    Raises:
        UserError: the file is not of this format, or is cut short.
    """
    with readable(path, REPLACE), gzip.open(path) as file:
        start = file.read(4)
        if len(start) < 4 or start[:3] != b"\0\0\x08":
            raise UserError(f"{path}: is not an IDX file of unsigned bytes (it starts with {start!r})")
        shape = [int.from_bytes(file.read(4), "big") for _ in range(start[3])]
        expected = math.prod(shape)
        if expected > _LARGEST:
            raise UserError(f"{path}: its header says {' x '.join(map(str, shape))}, which is more than MNIST has")
        found = np.frombuffer(file.read(expected + 1), np.uint8)
    if found.size != expected:
        more = "more" if found.size > expected else f"{found.size:,}"
        raise UserError(f"{path}: holds {more} values, but its header says {' x '.join(map(str, shape))}")
    return found.reshape(shape)
