"""MNIST: 70,000 handwritten digits in the four official IDX files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from workflow.lib.datasets import Images, Source, check_labels, require
from workflow.lib.downloads import Remote
from workflow.lib.errors import UserError

_ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FILES = {  # with their sizes in bytes
    "train-images-idx3-ubyte.gz": ("440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
    "train-labels-idx1-ubyte.gz": ("3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
    "t10k-images-idx3-ubyte.gz": ("8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
    "t10k-labels-idx1-ubyte.gz": ("f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
}
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
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(f"{path}: labels of shape {labels.shape} do not fit images of shape {images.shape}")
    return images[:, None], labels


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes from a compressed IDX file.

    Raises:
        UserError: the file is not of this format, or is cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: is damaged or cut short ({error})") from error
    if raw[:3] != b"\0\0\x08" or len(raw) < 4:
        raise UserError(f"{path}: is not an IDX file of unsigned bytes (it starts with {raw[:4]!r})")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], ">u4").astype(np.int64)
    found = np.frombuffer(raw, np.uint8, offset=start)
    if found.size != shape.prod():
        raise UserError(f"{path}: holds {found.size:,} values, but its header says {' x '.join(map(str, shape))}")
    return found.reshape(shape)
