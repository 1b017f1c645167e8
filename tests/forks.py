"""Python modules run as commands, in forks of a process that has their imports behind it.

To start snakemake takes more than a second of imports, to start a stage up to two, and the tests start hundreds: stages
themselves, and those that snakemake's jobs start (`tests/forked.py`). A fork has its own memory, folder, environment,
arguments, files and exit status, as a process that was started anew has; only what is imported, and when, has to be
seen in a process that was started anew.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import select
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tests import forked

_IMPORTED = (
    "snakemake.cli",
    "snakemake.dag",
    "snakemake.executors.local",
    "snakemake.report",
    "snakemake.report.html_reporter",
    "smart_open",
    "snakemake_logger_plugin_rich",
    "torch",
    "torch._dynamo",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
)


def run(
    module: str, arguments: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in a folder and capture what it prints."""
    place = _place()
    environ = {**environment, "PWD": str(folder), forked.PLACE: place}
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        Path(os.devnull).open("r+") as nothing,
    ):
        wish = [module, arguments, environ, str(folder)]
        status = forked.ask(place, wish, [each.fileno() for each in (nothing, out, err)])
        for printed in (out, err):
            printed.seek(0)
        return subprocess.CompletedProcess([module, *arguments], status, out.read(), err.read())


@cache
def _place() -> str:
    """The folder of what jobs start as their Python, and of the socket of the process that forks.

    That process ends with this one, which holds the other end of its input.
    """
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    atexit.register(folder.cleanup)
    python = Path(folder.name, "python")
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -ISs {shlex.quote(forked.__file__)} "$@"\n')
    python.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, folder.name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.terminate)
    assert server.stdout is not None
    server.stdout.readline()  # it listens
    return folder.name


def _serve(place: str) -> None:
    """Import what commands import, read what they read (the papers as they are shipped), and fork for every wish."""
    import workflow.lib
    from workflow.lib import rooms

    with socket.socket(socket.AF_UNIX) as line:
        line.bind(f"{place}/{forked.SOCKET}")
        line.listen(64)
        print(flush=True)
        found = pkgutil.walk_packages(workflow.lib.__path__, "workflow.lib.")
        for name in (*_IMPORTED, *(each.name for each in found if not each.name.endswith("__main__"))):
            importlib.import_module(name)
        for paper in rooms.papers():
            rooms.load_paper(paper)
        gc.freeze()  # nothing of all this is ever looked through again
        while line in select.select([line, sys.stdin], [], [])[0]:
            with line.accept()[0] as asked:
                if os.fork() == 0:
                    line.close()
                    _answer(asked)
                    os._exit(0)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # those that have answered
                    pass


def _answer(asked: socket.socket) -> None:
    """Run what is asked for in a process of its own, and tell how it ended."""
    _, files, _, _ = socket.recv_fds(asked, 1, 3)
    module, arguments, environment, folder = json.loads(asked.makefile().read())
    child = multiprocessing.get_context("fork").Process(
        target=_become, args=(module, arguments, environment, folder, files)
    )
    child.start()
    child.join()
    assert child.exitcode is not None
    asked.sendall(str(child.exitcode if child.exitcode >= 0 else 128 - child.exitcode).encode())


def _become(module: str, arguments: list[str], environment: dict[str, str], folder: str, files: list[int]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, opened in enumerate(files):
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [module, *arguments]
    sys.path[0] = folder
    if module == "snakemake":
        sys.executable = f"{environment[forked.PLACE]}/python"  # what its jobs start
    importlib.invalidate_caches()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a fork ends without taking apart all that was imported: half a second for nothing


if __name__ == "__main__":
    _serve(sys.argv[1])
