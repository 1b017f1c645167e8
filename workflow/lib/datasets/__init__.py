"""Real data sets and pre-trained encoders, one per file: where they are, how they are checked, how they are read.

A file `workflow/lib/datasets/<name>.py` has

    SOURCE                  a `Source`: folder, addresses, licence
    check(folder)           raise UserError unless the folder holds what is read
    load(folder)            read it

A name with hyphens stands in the file with underscores.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workflow.lib.errors import UserError, shortened, unknown
from workflow.lib.files import readable, write_text

if TYPE_CHECKING:
    from workflow.lib.downloads import Remote

# How to mend an official file that cannot be read.
REPLACE = "replace it by the official one"


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: its name, its folder inside `data_dir`, its licence and its files."""

    name: str
    folder: str
    licence: str
    remotes: tuple[Remote, ...]


class Images(NamedTuple):
    """Images (n, channels, height, width) and labels (n,), both uint8, for training and for the test."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


class Sentences(NamedTuple):
    """Texts, or pairs of texts, with a label each."""

    first: list[str]
    second: list[str] | None
    labels: np.ndarray


class Texts(NamedTuple):
    """A text data set, for training and for the test."""

    train: Sentences
    test: Sentences


def names() -> tuple[str, ...]:
    """The names of all data sets."""
    return tuple(sorted(_module(path.stem).SOURCE.name for path in Path(__file__).parent.glob("[!_]*.py")))


def source(name: str) -> Source:
    """Where a data set comes from, or a UserError that lists the names."""
    if name not in names():
        raise UserError(unknown("data set", name, names()))
    found: Source = _module(name).SOURCE
    return found


def load(name: str, folder: Path) -> Images | Texts:
    """Read a data set from its folder, or raise a UserError that names the file and what is wrong with it."""
    _module(name).check(folder)
    found: Images | Texts = _module(name).load(folder)
    return found


def fetch(name: str, folder: Path, data_dir: Path | None = None) -> dict[str, object]:
    """Have the files of a data set and check them.

    Args:
        name: of the data set.
        folder: where to download to.
        data_dir: a folder that already holds the files, in the data set's own folder, or the official archives; then
            nothing is downloaded.

    Returns:
        The data set's manifest: its folder, licence, and the SHA-256 of each file.
    """
    from workflow.lib import downloads  # which every stage would import otherwise, and the network's modules with it

    found = source(name)
    if data_dir is not None:
        folder = _provided(name, data_dir.expanduser(), folder)
    else:
        if not _complete(name, folder):
            for remote in found.remotes:
                downloads.fetch(remote, folder)
    _module(name).check(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    sums = {path.relative_to(folder).as_posix(): downloads.sha256(path) for path in files}
    return {"dataset": name, "folder": str(folder), "licence": found.licence, "files": sums}


def _provided(name: str, data_dir: Path, unpacked: Path) -> Path:
    """The folder with the files that a user has: as they are, or unpacked from the official archive in its place."""
    from workflow.lib import downloads

    found = source(name)
    place = data_dir / found.folder
    for remote in found.remotes:
        files = [path for path in (place / remote.file, data_dir / remote.file) if path.is_file()]
        for path in files[:1]:
            downloads.check(remote, path)
            if remote.unpack and not _complete(name, place):
                downloads.unpack(path, unpacked, remote.unpack)
                return unpacked
    if not place.is_dir():
        raise UserError(f"data_dir: there is no folder {place}, where {name} is looked for; {_official(found)}")
    return place


def _complete(name: str, folder: Path) -> bool:
    try:
        _module(name).check(folder)
    except UserError:
        return False
    return True


def write_manifest(path: Path, manifest: Mapping[str, object]) -> None:
    """Write a manifest, whole or not at all."""
    write_text(path, json.dumps(manifest, indent=1) + "\n")


def read_manifests(paths: Iterable[Path]) -> dict[str, Path]:
    """The folder of each data set, from their manifests."""
    folders = {}
    for path in paths:
        with readable(path):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            folders[manifest["dataset"]] = Path(manifest["folder"])
    return folders


def require(folder: Path, files: Iterable[str], of: Source) -> None:
    """Raise a UserError that names the first file that is not there."""
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"{folder}: the file {file} of {of.name} is missing; {_official(of)}")


def check_labels(labels: Sequence[object] | np.ndarray, classes: int, path: Path) -> np.ndarray:
    """Labels as uint8, or a UserError that names the first that is none of 0 .. classes - 1, or says there are none."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iuf":
        wrong = np.flatnonzero(~np.isin(labels, np.arange(classes)))
    else:
        whole = (type(label) in (int, float) and label in range(classes) for label in labels)  # not True, not "1"
        wrong = np.flatnonzero([not fits for fits in whole])
    if wrong.size:
        at = int(wrong[0])
        found = labels[at].item() if isinstance(labels, np.ndarray) else labels[at]
        raise UserError(f"{path}: the label of example {at} is {shortened(found)}; expected 0 to {classes - 1}")
    if not len(labels):
        raise UserError(f"{path}: holds no labelled example")
    return np.array(labels, dtype=np.uint8)


def check_texts(texts: Iterable[object], path: Path) -> list[str]:
    """Texts without blank ends, or a UserError that names the first one that is empty or no text."""
    checked = []
    for at, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}: the text of example {at} is empty or no text ({shortened(text)})")
        checked.append(text.strip())
    return checked


def _official(of: Source) -> str:
    return f"expected the official files ({', '.join(remote.url for remote in of.remotes)})"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
