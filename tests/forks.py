"""Python modules run as commands, in forks of a process that has their imports behind it.

To start snakemake takes more than a second of imports, to start a stage up to two, and the tests start hundreds. So
they have one process for all that is served as the workflow serves its jobs (`workflow/lib/forks.py`), but with all
imports behind it: snakemake runs in its forks, and so do the jobs that it starts.
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
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import workflow.lib
from workflow.lib import forks, rooms
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
    """The folder with the door of the process that forks, which ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    atexit.register(folder.cleanup)
    with forks.door(folder.name) as door:
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(door.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=[door.fileno()],
        )
    atexit.register(server.terminate)
    return folder.name


def _takes(wish: Wish) -> bool:
    """Whether the library that is asked for is this project's, with the papers that it ships."""
    _, environment, _ = wish
    return environment.get("PYTHONPATH", "").split(os.pathsep)[0] == _ROOT and "OWN_ROOMS" not in environment


if __name__ == "__main__":
    # Import what commands import, and read what they read: the papers as they are shipped.
    for each in pkgutil.walk_packages(workflow.lib.__path__, "workflow.lib."):
        if not each.name.endswith("__main__"):
            importlib.import_module(each.name)
    for name in _IMPORTED:
        importlib.import_module(name)
    for paper in rooms.papers():
        rooms.load_paper(paper)
    gc.freeze()  # nothing of all this is ever looked through again
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        forks.serve(opened, _takes)
