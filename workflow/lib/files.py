"""Reading and writing files: whole or not at all, and never through pickle."""

from __future__ import annotations

import glob
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from workflow.lib.errors import UserError

Arrays = dict[str, np.ndarray]


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it vanishes.

    The suffix is kept, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}~*"):  # by a run of the same job that was killed
        left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}~", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary one's, and not none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(path: Path | str, blocks: Mapping[int, Mapping[str, np.ndarray]]) -> None:
    """Write the arrays of several seeds to one `.npz`, under the keys `{seed}/{name}`.

    An array that several seeds have in common (the same object) is stored once, under `{seed},{seed}/{name}`.
    """
    owners: dict[tuple[str, int], list[int]] = {}
    for seed, block in blocks.items():
        for name, array in block.items():
            owners.setdefault((name, id(array)), []).append(seed)
    with atomic(path) as temporary:
        stored = {f"{','.join(map(str, s))}/{name}": blocks[s[0]][name] for (name, _), s in owners.items()}
        np.savez(temporary, **stored)  # type: ignore[arg-type]


def read_arrays(path: Path | str) -> dict[int, Arrays]:
    """Read what `write_arrays` wrote: seed -> name -> array."""
    blocks: dict[int, Arrays] = {}
    with readable(path), np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            seeds, name = key.split("/", 1)
            array = archive[key]
            for seed in seeds.split(","):
                blocks.setdefault(int(seed), {})[name] = array
    return blocks


def write_parameters(path: Path | str, parameters: Mapping[str, np.ndarray]) -> None:
    """Write named arrays in the safetensors format."""
    from safetensors.numpy import save

    # Written by Python, so that a full disk is the OSError it is everywhere else.
    with atomic(path) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in parameters.items()}))


def read_parameters(path: Path | str) -> Arrays:
    """Read what `write_parameters` wrote."""
    from safetensors.numpy import load_file

    with readable(path):
        return load_file(path)


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Turn the many ways in which a cut or foreign file fails into one clear error."""
    import struct
    import zlib

    if not Path(path).exists():
        raise UserError(f"{path}: there is no such file. Run the stage that makes it first.")
    errors: list[type[Exception]] = [ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error, zlib.error]
    try:
        from safetensors import SafetensorError

        errors.append(SafetensorError)
    except ImportError:
        pass
    try:
        yield
    except tuple(errors) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read ({reason}). It was probably cut short by an interrupted run: "
            "delete it and run snakemake again."
        ) from error
