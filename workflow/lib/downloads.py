"""Downloading files: resumed, timed out, retried, checked, and in place whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workflow.lib.errors import UserError

TIMEOUT = 30.0
ATTEMPTS = 5
_CHUNK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Remote:
    """A file to download.

    url: where it is; file: its name in the folder; sha256: of its bytes, None where nobody published one;
    size: in bytes, which a download is held to; about: the same where it is known roughly, for planning alone;
    unpack: the kind of archive that it is; unpacked: what is in it, in bytes, roughly. An archive is removed once
    unpacked.
    """

    url: str
    file: str
    sha256: str | None = None
    size: int | None = None
    about: int = 0
    unpack: Literal["tar", "zip"] | None = None
    unpacked: int = 0

    @property
    def download(self) -> int:
        """Bytes to download, about."""
        return self.size or self.about

    @property
    def disk(self) -> int:
        """Bytes on disk while it is fetched, about: an archive lies beside what is in it."""
        return self.download + self.unpacked


def fetch(
    remote: Remote, folder: Path, *, timeout: float = TIMEOUT, attempts: int = ATTEMPTS, pause: float = 1.0
) -> None:
    """Download a file into a folder unless it is there already, check it, and unpack it if it is an archive.

    A broken connection is taken up again where it broke, also by the next run.

    Args:
        remote: what to download.
        folder: where to; made if need be.
        timeout: seconds without a byte until the connection counts as broken.
        attempts: how often to try in a row without any progress.
        pause: seconds before the second attempt, doubled for each further one.

    Raises:
        UserError: no connection, a refusal by the server, or a file that is not the expected one.
    """
    target = folder / remote.file
    if not (target.is_file() and _fault(target, remote) is None):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{remote.file}.part"
        _download(remote, part, timeout, attempts, pause)
        fault = _fault(part, remote)
        if fault is not None:
            part.unlink()
            raise UserError(
                f"{remote.url}: the download is not the expected file ({fault}) and was removed. Try again; if it "
                "stays so, the source has changed, or something on the way replaces the file."
            )
        part.replace(target)
    if remote.unpack:
        try:
            unpack(target, folder, remote.unpack)
        except UserError:
            target.unlink()  # the next run gets another one
            raise
        target.unlink()


def check(remote: Remote, path: Path) -> None:
    """Raise a UserError unless a file is the expected one."""
    fault = _fault(path, remote)
    if fault is not None:
        raise UserError(f"{path}: is not the official file ({fault}). Replace it, or remove it to have it downloaded.")


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path, remote: Remote) -> str | None:
    """What is wrong with a downloaded file, or None."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{size:,} bytes, expected {remote.size:,}"
    if remote.sha256 is not None and (found := sha256(path)) != remote.sha256:
        return f"SHA-256 {found}, expected {remote.sha256}"
    return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted connection to another one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"{req.full_url}: refused: the server redirects to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(remote: Remote, part: Path, timeout: float, attempts: int, pause: float) -> None:
    """Bring `part` to its full length."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(remote, part, timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # more bytes asked for than there are: the part is of another file
                part.unlink(missing_ok=True)
                reason = "the server has a shorter file than before"
            elif error.code in _PASSING:
                reason = f"the server says {error.code} {error.reason}"
            else:
                raise UserError(f"{remote.url}: the server says {error.code} {error.reason}. {_mend(part)}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failures = 1 if after > before else failures + 1
        if failures >= attempts:
            raise UserError(
                f"{remote.url}: no connection after {attempts} attempts ({reason}). {_mend(part)} "
                "What has arrived is kept, and the next run goes on from there."
            )
        time.sleep(pause * 2 ** (failures - 1))


def _mend(part: Path) -> str:
    name = part.name.removeprefix(".").removesuffix(".part")
    return (
        "Check the network and the variable https_proxy; or get the official files elsewhere and name the folder "
        f"that holds them with the key data_dir (this one is {part.parent.name}/{name})."
    )


def _continue(remote: Remote, part: Path, timeout: float) -> None:
    """Read from where `part` ends to the end of the file."""
    from tqdm import tqdm  # not at the top: planning imports the data sets

    start = part.stat().st_size if part.exists() else 0
    if remote.size is not None and start == remote.size:
        return
    headers = {"User-Agent": "figures-of-transformer-training"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(remote.url, headers=headers)  # noqa: S310  (addresses are this library's own)
    with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
        if response.status != 206:
            start = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=remote.file) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if total is not None and part.stat().st_size < total:
            raise ConnectionError(f"cut after {part.stat().st_size:,} of {total:,} bytes")


def unpack(archive: Path, folder: Path, kind: Literal["tar", "zip"]) -> None:
    """Unpack an archive into a folder; each of its top-level entries arrives whole.

    Raises:
        UserError: the archive is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        if kind == "tar":
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        else:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(temporary)  # noqa: S202  (zipfile keeps every name inside the folder)
        for entry in temporary.iterdir():
            place = folder / entry.name
            if place.is_dir():
                shutil.rmtree(place)
            entry.replace(place)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{archive}: cannot be unpacked ({error}). Get the official file again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
