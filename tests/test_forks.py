"""Forks in the place of Pythons that start anew: what they have of their own, what they share, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment
from workflow.lib import forked, forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are of Linux alone")

SERVER = """
import socket, sys
from workflow.lib import forks
forks._SHARED.add("ours")
forks._IDLE = float(sys.argv[2])
with socket.socket(fileno=int(sys.argv[1])) as opened:
    forks.serve(opened, lambda wish: "refused" not in wish[0])
"""
# A module that is run: what it finds, and then what it is told to do.
PROBE = """
import os, sys
print(os.getpid(), os.getppid(), *(name for name in ("ours", "theirs") if name in sys.modules), flush=True)
exec(sys.argv[1])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts the probe as a job starts its Python; those that fork end after some idle seconds."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "probe.py").write_text(PROBE)
    for name in ("ours", "theirs"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "door").mkdir()
    with forks.door(str(tmp_path / "door")) as door:
        server = subprocess.Popen(
            [sys.executable, str(tmp_path / "server.py"), str(door.fileno()), str(getattr(request, "param", 30.0))],
            env=environment(ROOT),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            pass_fds=[door.fileno()],
        )

    def client(*arguments: str, place: str = "door", **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-Ss", forked.__file__, "-m", "probe", *arguments]
        env = {**environment(ROOT), **variables, forked.PLACE: str(tmp_path / place)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    yield client
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(60) == 0


def found(job: subprocess.Popen[str]) -> tuple[int, int, list[str]]:
    """The numbers of the process that runs the probe and of its parent, and the modules that it has from the start."""
    assert job.stdout is not None
    own, parent, *modules = job.stdout.readline().split()
    return int(own), int(parent), modules


def gone(process: int) -> bool:
    """Whether a process ends, soon."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_fork_has_what_a_python_has_that_starts_anew(start: Start) -> None:
    code = "import os; print(sys.argv[1:], os.environ['X'], sys.stdin.read()); sys.exit(3)"
    job = start(code, "a b", X="ä\n")
    out, _ = job.communicate("typed")
    line, rest = out.split("\n", 1)
    assert int(line.split()[0]) != job.pid
    assert rest == f"{[code, 'a b']} ä\n typed\n"
    assert job.returncode == 3


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
    ],
)
def test_it_ends_as_that_does(start: Start, code: str, status: int, told: str) -> None:
    job = start(code)
    _, err = job.communicate()
    assert job.returncode == status
    assert err.endswith(told)


@pytest.mark.parametrize("start", [30.0, 0.01], indirect=True, ids=["", "idle"])
def test_what_one_imports_the_next_finds_if_it_is_no_user_s_own(start: Start) -> None:
    modules = []
    for _ in range(3):
        job = start("import ours, theirs")
        modules.append(found(job)[2])
        job.communicate()
        assert job.returncode == 0
        time.sleep(0.05)  # for what is idle to end
    assert modules[0] == []
    assert all(each in ([], ["ours"]) for each in modules)


def test_who_has_imported_is_asked_again(start: Start) -> None:
    parents, modules = [], []
    for _ in range(2):
        job = start("import ours")
        _, parent, known = found(job)
        job.communicate()
        parents.append(parent)
        modules.append(known)
    assert parents[0] == parents[1]
    assert modules == [[], ["ours"]]


@pytest.mark.parametrize(("arguments", "place"), [(["pass", "refused"], "door"), (["pass"], "nowhere")])
def test_who_is_refused_or_finds_nobody_starts_anew(start: Start, arguments: list[str], place: str) -> None:
    job = start(*arguments, place=place)
    assert found(job)[:2] == (job.pid, os.getpid())
    job.communicate()
    assert job.returncode == 0


def test_a_fork_ends_with_the_process_in_whose_place_it_runs(start: Start) -> None:
    job = start("import time; time.sleep(60)")
    process, _, _ = found(job)
    job.kill()
    assert gone(process)
    job.communicate()


def test_a_fork_ends_with_the_process_that_forked_it_and_the_next_job_has_another(start: Start) -> None:
    job = start("import time; time.sleep(60)")
    process, parent, _ = found(job)
    os.kill(parent, signal.SIGKILL)
    job.communicate()
    assert job.returncode == -signal.SIGKILL
    assert gone(process)
    job = start("pass")
    assert found(job)[0] != job.pid
    job.communicate()
    assert job.returncode == 0


def test_forks_are_for_the_same_stages_environment_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    same, here = dict(os.environ), str(tmp_path)
    asked = ["-m", "workflow.lib", "draw"]
    assert forks._same((asked, {**same, "TMPDIR": "/elsewhere"}, here))
    assert forks._same(([*asked, "--device", "cpu"], same, here))
    assert not forks._same(([*asked, "--device", "auto"], same, here))
    assert not forks._same((["-m", "pip"], same, here))
    assert not forks._same((asked, same, "/"))
    assert not forks._same((asked, {**same, "OMP_NUM_THREADS": "many"}, here))
    assert not forks._same((asked, {name: value for name, value in same.items() if name != "PATH"}, here))


def test_none_are_begun_where_they_are_not_wanted_or_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess, "Popen", begun)
    monkeypatch.setenv(forked.PLACE, "no")
    forks.begin("python")
    monkeypatch.delenv(forked.PLACE)
    (deep := tmp_path / ("x" * 120)).mkdir()  # longer than the path of a socket may be
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    forks.begin("python")
    assert forked.PLACE not in os.environ
    assert not list(deep.iterdir())


def test_the_kind_of_a_job_is_read_where_it_runs(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"experiments": {"mine": {"kind": "joint"}}}')
    asked = ["-m", "workflow.lib", "train", "--paper", "ib", "--plan", "plan.json"]
    assert forks._Wish(forked.packed((asked, {}, str(tmp_path))), []).kind == "train ib joint"
