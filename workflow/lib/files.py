"""Reading and writing files: whole or not at all, and never through pickle."""

from __future__ import annotations

import glob
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from workflow.lib.errors import UserError

Arrays = dict[str, np.ndarray]

# Under which a file keeps what it is.
IDENTITY = "identity"
_SUM = "crc32"
REMAKE = "delete it and run snakemake again"
# Set in the workflow's jobs, to the number of the process that started them: what they read was made by the workflow,
# which makes again what is missing.
JOB = "WORKFLOW_JOB"
_BROKEN = ".broken"


class Identity(Protocol):
    """What a file is, as a text in it; see `workflow.lib.identity`."""

    def __str__(self) -> str: ...

    def check(self, path: Path | str, found: str | None) -> None:
        """Raise a UserError unless a file that says `found` is this one."""


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


def write_arrays(
    path: Path | str, blocks: Mapping[int, Mapping[str, np.ndarray]], identity: Identity | None = None
) -> None:
    """Write the arrays of several seeds to one `.npz`, under the keys `{seed}/{name}`, and what the file is.

    An array that several seeds have in common (the same object) is stored once, under `{seed},{seed}/{name}`.
    """
    owners: dict[tuple[str, int], list[int]] = {}
    for seed, block in blocks.items():
        for name, array in block.items():
            owners.setdefault((name, id(array)), []).append(seed)
    stored = {f"{','.join(map(str, s))}/{name}": blocks[s[0]][name] for (name, _), s in owners.items()}
    with atomic(path) as temporary:
        np.savez(temporary, **stored, **({} if identity is None else {IDENTITY: np.array(str(identity))}))  # type: ignore[arg-type]


def read_arrays(path: Path | str, identity: Identity | None = None) -> dict[int, Arrays]:
    """Read what `write_arrays` wrote: seed -> name -> array; refuse a file that is not the one asked for."""
    blocks: dict[int, Arrays] = {}
    with readable(path), np.load(path, allow_pickle=False) as archive:
        if identity is not None:
            identity.check(path, str(archive[IDENTITY]) if IDENTITY in archive else None)
        for key in archive.files:
            if key == IDENTITY:
                continue
            seeds, name = key.split("/", 1)
            array = archive[key]
            for seed in seeds.split(","):
                blocks.setdefault(int(seed), {})[name] = array
    return blocks


def write_parameters(path: Path | str, parameters: Mapping[str, np.ndarray], identity: Identity | None = None) -> None:
    """Write named arrays in the safetensors format, with a checksum, and what the file is."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in parameters.items()}
    metadata = {_SUM: _sum(arrays)} | ({} if identity is None else {IDENTITY: str(identity)})
    whole = _settled(save(arrays, metadata))
    with atomic(path) as temporary:  # written by Python, so that a full disk is the OSError it is everywhere else
        temporary.write_bytes(whole)


def _settled(whole: bytes) -> bytes:
    """A file with its metadata in a fixed order, which safetensors draws by lot: equal runs, equal bytes."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(end - 8)
    if len(text) != end - 8:
        raise AssertionError("the header of a safetensors file grew when it was sorted")
    return whole[:8] + text + whole[end:]


def read_parameters(path: Path | str, identity: Identity | None = None) -> Arrays:
    """Read what `write_parameters` wrote; refuse a file that is not the one asked for, or not as it was written."""
    from safetensors import safe_open

    with readable(path), safe_open(path, "np") as file:
        told = file.metadata() or {}
        if identity is not None:
            identity.check(path, told.get(IDENTITY))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if told.get(_SUM) != _sum(arrays):
            raise ValueError("its checksum is another one")
    return arrays


def _sum(arrays: Arrays) -> str:
    """A checksum of some arrays and their names, whatever their order; the other formats have their own."""
    return str(
        sum(
            zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(name.encode()))
            for name, array in arrays.items()
        )
    )


@contextmanager
def readable(path: Path | str, mend: str = REMAKE) -> Iterator[None]:
    """Turn the many ways in which reading a cut or foreign file fails into one clear error that says how to mend it.

    In a job of the workflow a file that the workflow made is moved aside, so that the same command makes it again.
    """
    if not Path(path).exists():
        before = " (a broken one was moved aside)" if Path(f"{path}{_BROKEN}").exists() else ""
        raise UserError(f"{path}: there is no such file{before}. Run the stage that makes it first.")
    if not Path(path).is_file():
        raise UserError(f"{path}: cannot be read: it is {'a folder' if Path(path).is_dir() else 'no regular file'}.")
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:  # the file may be whole
        raise UserError(
            f"{path}: cannot be read: out of memory ({_reason(error)}). Take a machine with more memory; if the "
            f"file was not made by this workflow, {mend}."
        ) from error
    except Exception as error:  # each format's reader raises kinds of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = _reason(error)
        if mend == REMAKE and os.environ.get(JOB):
            mend = f"it is {set_aside(path)} now, and the same command makes it again where it is needed"
        raise UserError(
            f"{path}: cannot be read ({reason}). It was cut short or is another kind of file: {mend}."
        ) from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def set_aside(path: Path | str) -> Path:
    """Move a broken file out of the way, beside itself; the place where it is then."""
    aside = Path(f"{path}{_BROKEN}")
    with suppress(FileNotFoundError):  # another job that reads it was first
        os.replace(path, aside)
    return aside
