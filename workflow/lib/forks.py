"""Jobs of this machine as forks of processes that have imported what jobs of their kind use.

A third of the CPU time of a default run would go into imports. So snakemake starts one process beside itself, and its
jobs ask that one (`forked.py`) for the Python that they would have started. For each kind of job, such as a paper's
drawings, it has a process that forks: the first job of a kind imports what it uses, and all that is then imported once,
before the next fork. A fork has its own memory, folder, environment, files and exit status, as a process that was
started anew has. It ends when the process ends in whose place it runs.

A job starts Python anew where it may use a GPU, or would find another environment or folder than the process that forks
has: with more threads, under Slurm, in a container. `WORKFLOW_FORKS=no` has all jobs do so.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from workflow.lib import costs
from workflow.lib.forked import NUMBER, PLACE, SOCKET, Wish, unpacked

# What is imported before jobs are forked. A package that a user brings is imported by the jobs that use it alone.
_SHARED = {"workflow", "numpy", "torch", "scipy", "numba", "matplotlib", "pyarrow", "pydantic", "yaml", "safetensors"}
# What snakemake says to a job of how many threads it has, one here.
_THREADS = [f"{library}_NUM_THREADS" for library in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")]
_THREADS += ["VECLIB_MAXIMUM_THREADS"]
# Variables that may differ from those of the process that forks: nothing reads them when it is imported.
_OWN = {"_", "SHLVL", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR"}
_IDLE = 30.0  # seconds after which a process that forks ends; the next job of its kind starts another
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # of prctl.h


def begin(python: str) -> None:
    """Start the process that the jobs of this process ask, and that ends with it.

    Args:
        python: how a shell starts the Python of a job that has one thread, variables included.
    """
    # Elsewhere libraries may not bear to be forked.
    if PLACE in os.environ or sys.platform != "linux":
        return
    place = tempfile.mkdtemp(prefix="forks-")
    try:
        os.close(os.pidfd_open(os.getpid()))  # Linux knows files for processes since 5.3
        opened = door(place)  # and no long paths to it
    except OSError:
        shutil.rmtree(place)
        return
    os.environ[PLACE] = place
    with opened:
        server = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", f"exec env {python} -m {__name__} {opened.fileno()}"],
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # as jobs, whose output is no terminal
            pass_fds=[opened.fileno()],
        )

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()

    atexit.register(end)


def door(place: str) -> socket.socket:
    """What those connect to who ask for a fork, in a folder; they wait until it is served."""
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(f"{place}/{SOCKET}")
    opened.listen(64)
    return opened


def serve(opened: socket.socket, takes: Callable[[Wish], bool]) -> None:
    """Fork for all who ask, until the standard input of this process ends, and then until the last fork has.

    Args:
        opened: a `door`.
        takes: whether a fork of this process is to one that asks what a Python is that starts anew.
    """
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for those in whose place forks run
    ready = selectors.DefaultSelector()
    ready.register(opened, selectors.EVENT_READ)
    ready.register(0, selectors.EVENT_READ)
    forking: dict[str, socket.socket] = {}  # lines to the processes that fork, by kind of job
    while all(key.fileobj != 0 for key, _ in ready.select()):
        line, _ = opened.accept()
        # Who is told nothing starts Python anew. Some are gone before they have said what they want.
        with line, contextlib.suppress(OSError, ValueError, LookupError):
            wish = _Wish.read(line, 3)
            if wish is None:
                continue
            with wish:
                if not takes(wish.said):
                    continue
                try:
                    wish.send(forking[wish.kind], line.fileno())
                except (KeyError, OSError):  # there is none yet, or it was idle for too long
                    forking[wish.kind], theirs = socket.socketpair()
                    if os.fork() == 0:
                        wish.__exit__()
                        ready.close()
                        for each in (opened, line, *forking.values()):
                            each.close()
                        _Forking(theirs, interrupt).run()
                        os._exit(0)
                    theirs.close()
                    wish.send(forking[wish.kind], line.fileno())
    for each in (opened, *forking.values()):
        each.close()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


class _Wish:
    """What is to run, as it was sent, and the open files that came with it."""

    def __init__(self, text: bytes, files: list[int]) -> None:
        self._text, self.files = text, files
        self.said = unpacked(text)

    @classmethod
    def read(cls, line: socket.socket, files: int) -> _Wish | None:
        """The next that comes over a line, None where nothing comes any more."""
        size, numbers, _, _ = socket.recv_fds(line, NUMBER, files, socket.MSG_WAITALL)
        text = line.recv(int.from_bytes(size, sys.byteorder), socket.MSG_WAITALL) if size else b""
        return cls(text, list(numbers)) if text else None

    @cached_property
    def kind(self) -> str:
        """The stage, the paper and a training's kind of experiment: what jobs have in common that import the same."""
        arguments, _, folder = self.said
        given = {name: value for name, value in pairwise(arguments) if name in ("--paper", "--plan")}
        parts = [*arguments[2:3], given.get("--paper", "")]
        if parts[0] == "train" and "--plan" in given:
            planned = json.loads(Path(folder, given["--plan"]).read_text())["experiments"].values()
            parts += [experiment["kind"] for experiment in planned]
        return " ".join(parts)

    def send(self, line: socket.socket, first: int) -> None:
        """Pass it on, with one more file before the others."""
        socket.send_fds(line, [len(self._text).to_bytes(NUMBER, sys.byteorder)], [first, *self.files])
        line.sendall(self._text)

    def __enter__(self) -> _Wish:
        return self

    def __exit__(self, *_: object) -> None:
        for number in self.files:
            os.close(number)


class _Fork(NamedTuple):
    """A fork by its number, and open files: of itself, of the line to whoever waits for it, of what it has to tell."""

    number: int
    process: int
    line: int
    told: int


class _Forking:
    """Forks for jobs of a kind; each finds imported what those that have ended imported."""

    def __init__(self, line: socket.socket, interrupt: Any) -> None:
        self._line, self._interrupt = line, interrupt
        self._ready = selectors.DefaultSelector()
        self._ready.register(line, selectors.EVENT_READ, self._fork)
        self._missing: list[str] = []
        self._told = 0.0  # CPU seconds of this process that forks have told as theirs
        self._mapped = 0  # bytes of files that a job of this kind has in memory

    def run(self) -> None:
        """Until the line ends and all forks have, or until nobody has asked for a while."""
        while at_work := len(self._ready.get_map()):
            events = self._ready.select(_IDLE)
            if events:
                events[0][0].data()  # one at a time: it may close the files of another
            elif at_work == 1:
                return

    def _fork(self) -> None:
        wish = _Wish.read(self._line, 4)
        if wish is None:
            self._ready.unregister(self._line)
            return
        with wish:
            self._import()
            told = os.memfd_create("told")
            used = time.process_time()
            number = os.fork()
            if number == 0:
                try:
                    for key in list(self._ready.get_map().values()):
                        os.close(key.fd)
                    self._ready.close()
                    signal.signal(signal.SIGINT, self._interrupt)
                    costs.forked(used - self._told, self._mapped)
                    _become(wish, told)
                finally:
                    os._exit(1)
            self._told = used
            fork = _Fork(number, os.pidfd_open(number), os.dup(wish.files[0]), told)
        self._ready.register(fork.process, selectors.EVENT_READ, lambda: self._ended(fork))
        self._ready.register(fork.line, selectors.EVENT_READ, lambda: self._left(fork))
        _tell(fork, "+")

    def _ended(self, fork: _Fork) -> None:
        _, status = os.waitpid(fork.number, 0)
        _tell(fork, str(os.waitstatus_to_exitcode(status)))
        if fork.line in self._ready.get_map():
            self._ready.unregister(fork.line)
        self._ready.unregister(fork.process)
        os.close(fork.line)
        os.close(fork.process)
        with open(fork.told) as told:
            told.seek(0)
            mapped, *names = told.read().split() or ["0"]
        self._mapped = max(self._mapped, int(mapped))
        self._missing += names

    def _left(self, fork: _Fork) -> None:
        """Who waited is there no more."""
        self._ready.unregister(fork.line)
        signal.pidfd_send_signal(fork.process, signal.SIGTERM)

    def _import(self) -> None:
        if self._missing:
            for name in self._missing:
                if name not in sys.modules:
                    with contextlib.suppress(Exception):  # then it is for the jobs that use it to say so
                        importlib.import_module(name)
            self._missing = []
            gc.collect()
            gc.freeze()  # is not looked through again, and so not copied


def _tell(fork: _Fork, what: str) -> None:
    with contextlib.suppress(OSError):  # who waited is there no more, which is an event of its own
        os.write(fork.line, what.encode())


def _become(wish: _Wish, told: int) -> NoReturn:
    """Be the Python that was asked for; at its end, tell what it has of files in memory, and had to import."""
    arguments, environment, folder = wish.said
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(_PR_SET_NAME, wish.kind.encode())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if not sys.flags.safe_path:
        sys.path[0] = folder
    importlib.invalidate_caches()
    tempfile.tempdir = None
    for number, file in enumerate(wish.files[1:]):
        os.dup2(file, number)
    wish.__exit__()
    known = set(sys.modules)

    def tell() -> None:
        new = [name for name in sys.modules if name not in known and name.split(".")[0] in _SHARED]
        os.write(told, "\n".join([str(costs.mapped()), *new]).encode())

    atexit.register(tell)
    sys.argv = arguments[1:]
    status: Any = 1
    try:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(status, str):
        print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _same(wish: Wish) -> bool:
    """Whether Python, started anew, would find what this process has found."""
    arguments, environment, folder = wish
    mine, theirs = ({k: v for k, v in each.items() if k not in _OWN} for each in (os.environ, environment))
    # CUDA does not bear to be forked once anything that was imported has asked for it.
    cpu = {each for name, each in pairwise(arguments) if name == "--device"} <= {"cpu"}
    return arguments[:2] == ["-m", "workflow.lib"] and cpu and folder == os.getcwd() and mine == theirs


if __name__ == "__main__":
    gc.set_threshold(50_000, 10, 10)  # as jobs do
    importlib.import_module("workflow.lib.cli")  # and this is what they begin with
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as _opened:
        serve(_opened, _same)
    shutil.rmtree(os.environ[PLACE])
