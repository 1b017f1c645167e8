"""Python modules run as commands, in forks of a process that has their imports behind it.

To start snakemake takes more than a second of imports, to start a stage up to two, and the tests start hundreds. So
they have one process for all that is served as the workflow serves its jobs (`workflow/lib/forks.py`), but with all
imports behind it: snakemake runs in its forks, and so do the jobs that it starts. `python -m tests.forks COMMAND` has
one for all tests that a command runs.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import workflow.lib
from workflow.lib import forks, papers, places, rooms, sources
from workflow.lib.forked import PLACE, Wish, ask

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
_GIVEN = "TESTS_FORKS"  # the variable that names the folder of the process that forks for several of pytest's
_ROOT = str(Path(__file__).resolve().parents[1])


def run(
    module: str, arguments: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in a folder and capture what it prints."""
    place = _place()
    environ = {**environment, "PWD": str(folder), PLACE: place}
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        Path(os.devnull).open("r+") as nothing,
    ):
        files = (nothing.fileno(), out.fileno(), err.fileno())
        status = ask(place, (["-m", module, *arguments], environ, str(folder)), files)
        for printed in (out, err):
            printed.seek(0)
        assert status is not None
        return subprocess.CompletedProcess([module, *arguments], status, out.read(), err.read())


@cache
def _place() -> str:
    """The folder with the door of the process that forks: one for all tests, or one that ends with this process."""
    if _GIVEN in os.environ:
        return os.environ[_GIVEN]
    opened = ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(_served())


@contextmanager
def _served() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="forks-") as folder:
        with forks.door(folder) as door:
            server = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(door.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                pass_fds=[door.fileno()],
            )
        try:
            yield folder
        finally:
            server.terminate()


def _takes(wish: Wish) -> bool:
    """Whether the library that is asked for is this project's."""
    _, environment, _ = wish
    return environment.get("PYTHONPATH", "").split(os.pathsep)[0] == _ROOT


class _Rooms(list[str]):
    """The folders in which rooms are looked for: those of the environment that a fork is given."""

    def __iter__(self) -> Iterator[str]:
        return iter(places.packages())


def _serve(number: int) -> None:
    """Import what commands import, read what they read, the papers as they are shipped, and fork."""
    for each in pkgutil.walk_packages(workflow.lib.__path__, "workflow.lib."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)
    for name in _IMPORTED:
        importlib.import_module(name)
    importlib.import_module("snakemake.cli").get_argument_parser()  # which looks for plugins
    sources.modules(*(name for name in sys.modules if name.startswith("workflow.lib")))
    for paper in rooms.papers():
        rooms.load_paper(paper)
    papers.__path__ = _Rooms()
    gc.freeze()  # nothing of all this is ever looked through again
    with socket.socket(fileno=number) as opened:
        forks.serve(opened, _takes)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        _serve(int(sys.argv[1]))
    else:  # a command whose processes share one that forks
        with _served() as given:
            sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, _GIVEN: given}).returncode)
