"""Downloading: resume, retries, checks, and one clear line when it does not work. A local server plays the parts."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT, snakemake
from workflow.lib import datasets, downloads
from workflow.lib.cli import main
from workflow.lib.downloads import Remote, fetch
from workflow.lib.errors import UserError

BODY = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; `faults` are played once each: a number of bytes after which to hang up, a status, or a pause."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": BODY}
        self.faults: list[tuple[str, float]] = []
        self.ranges: list[str | None] = []
        self.with_ranges = True

    def url(self, name: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        kind, amount = self.server.faults.pop(0) if self.server.faults else ("", 0)
        if kind == "status":
            self.send_error(int(amount))
            return
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = 0
        if self.server.with_ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if kind == "cut":
            body = body[: start + int(amount)]
        self.wfile.write(body[start:])
        self.wfile.flush()
        if kind == "hang":
            time.sleep(amount)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    served.shutdown()


def get(remote: Remote, folder: Path, attempts: int = 3) -> None:
    fetch(remote, folder, timeout=0.5, attempts=attempts, pause=0.01)


def test_a_good_download(server: Server, tmp_path: Path) -> None:
    remote = Remote(server.url(), "file", SHA256, len(BODY))
    get(remote, tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    get(remote, tmp_path)  # it is there: no second request
    assert len(server.ranges) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.faults = [("cut", 300_000), ("status", 503), ("cut", 400_000)]
    get(Remote(server.url(), "file", SHA256), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=700000-"]


def test_the_next_run_goes_on_as_well(server: Server, tmp_path: Path) -> None:
    server.faults = [("cut", 500_000), ("status", 503), ("status", 503)]
    with pytest.raises(UserError, match="no connection after 2 attempts"):
        get(Remote(server.url(), "file", SHA256), tmp_path, attempts=2)
    assert not (tmp_path / "file").exists()
    get(Remote(server.url(), "file", SHA256), tmp_path)
    assert server.ranges[-1] == "bytes=500000-"
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.with_ranges = False
    server.faults = [("cut", 300_000)]
    get(Remote(server.url(), "file", SHA256), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_the_part_of_another_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(BODY + b"more")
    get(Remote(server.url(), "file", SHA256), tmp_path)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = BODY
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="timed out"):
        get(Remote(f"http://127.0.0.1:{silent.getsockname()[1]}/file", "file", SHA256), tmp_path, attempts=1)


@pytest.mark.parametrize(
    ("remote", "said"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"size": 5}, "expected 5"), ({"size": 5_000_000}, "expected 5,000,000")],
)
def test_another_file_than_expected(server: Server, tmp_path: Path, remote: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        get(Remote(server.url(), "file", **remote), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_no_such_file_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="404"):
        get(Remote(server.url("/other"), "file"), tmp_path)
    assert len(server.ranges) == 1


def test_no_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=r"no connection after 2 attempts.*data_dir"):
        get(Remote(f"http://127.0.0.1:{port}/file", "file"), tmp_path, attempts=2)


def packed(kind: str, member: str) -> bytes:
    """An archive with one member."""
    raw = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(raw, "w") as archive:
            archive.writestr(member, b"inside")
    else:
        with tarfile.open(fileobj=raw, mode="w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.size = 6
            archive.addfile(info, io.BytesIO(b"inside"))
    return raw.getvalue()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_are_unpacked_and_removed(server: Server, tmp_path: Path, kind: str) -> None:
    server.files["/file"] = packed(kind, "folder/inside.txt")
    get(Remote(server.url(), "archive", unpack=kind), tmp_path)  # type: ignore[arg-type]
    assert (tmp_path / "folder" / "inside.txt").read_bytes() == b"inside"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_archive_that_reaches_outside_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = packed("tar", "../outside.txt")
    with pytest.raises(UserError, match="cannot be unpacked"):
        get(Remote(server.url(), "archive", unpack="tar"), tmp_path / "in")
    assert not (tmp_path / "outside.txt").exists()
    assert not list((tmp_path / "in").iterdir())


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_cut_archive(server: Server, tmp_path: Path, kind: str) -> None:
    server.files["/file"] = packed(kind, "inside.txt")[:60]
    with pytest.raises(UserError, match="cannot be unpacked"):
        get(Remote(server.url(), "archive", unpack=kind), tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_every_data_set_says_where_it_comes_from() -> None:
    for name in datasets.names():
        source = datasets.source(name)
        assert source.licence
        for remote in source.remotes:
            assert remote.url.startswith("https://")
            assert remote.sha256 is None or len(remote.sha256) == 64
    # Only what nobody published a sum of goes without one.
    unsummed = [r.file for name in datasets.names() for r in datasets.source(name).remotes if r.sha256 is None]
    assert sorted(unsummed) == ["civilcomments_v1.0.tar.gz", "config.json"]


def test_the_command_takes_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "lab" / "civil_comments"
    folder.mkdir(parents=True)
    (folder / "all_data_with_identities.csv").write_text("comment_text,split,toxicity\nfine,train,0.1\n")
    target = tmp_path / "civil_comments"
    lab = str(tmp_path / "lab")
    assert main(["fetch", "--dataset", "civil_comments", "--folder", str(target), "--data-dir", lab]) == 0
    manifest = json.loads(target.with_suffix(".json").read_text())
    assert manifest["folder"] == str(folder)
    assert list(manifest["files"]) == ["all_data_with_identities.csv"]
    assert not target.exists()


@pytest.mark.parametrize(
    ("present", "said"), [(None, "there is no folder"), (".hidden", "train-images-idx3-ubyte.gz of mnist is missing")]
)
def test_the_command_names_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], present: str | None, said: str
) -> None:
    if present:
        (tmp_path / "mnist").mkdir()
        (tmp_path / "mnist" / present).touch()
    out = tmp_path / "out"
    assert main(["fetch", "--dataset", "mnist", "--folder", str(out), "--data-dir", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert "Traceback" not in told
    assert not out.with_suffix(".json").exists()


@pytest.mark.parametrize(("size", "said"), [(9_912_422, "SHA-256"), (14, "14 bytes, expected 9,912,422")])
def test_a_changed_official_file_is_refused(tmp_path: Path, size: int, said: str) -> None:
    (tmp_path / "mnist").mkdir()
    for remote in datasets.source("mnist").remotes:
        (tmp_path / "mnist" / remote.file).write_bytes(bytes(size))
    with pytest.raises(UserError, match=rf"train-images-idx3-ubyte.gz.*{said}"):
        datasets.fetch("mnist", tmp_path / "out", data_dir=tmp_path)


def test_fetching_again_downloads_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workflow.lib.datasets import civil_comments

    table = b"comment_text,split,toxicity\nfine,train,0.1\n"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        info = tarfile.TarInfo("all_data_with_identities.csv")
        info.size = len(table)
        archive.addfile(info, io.BytesIO(table))
    server.files["/file"] = raw.getvalue()
    source = datasets.Source("civil_comments", "civil_comments", "-", (Remote(server.url(), "a.tar.gz", unpack="tar"),))
    monkeypatch.setattr(civil_comments, "SOURCE", source)
    first = datasets.fetch("civil_comments", tmp_path)
    assert datasets.fetch("civil_comments", tmp_path) == first
    assert len(server.ranges) == 1


@pytest.mark.slow
def test_paper_scale_plans_its_downloads(tmp_path: Path) -> None:
    overlay = str(ROOT / "config" / "paper.yaml")
    done = snakemake(tmp_path, "-n", "--configfile", overlay, "--", "results/ib/figures/fig6.png")
    output = done.stdout + done.stderr
    assert "--dataset mnist" in output or "results/datasets/mnist.json" in output
    assert "multinli" not in output


def test_sums(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    assert downloads.sha256(tmp_path / "file") == SHA256
