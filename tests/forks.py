"""Python modules run as commands, in forks of a process that has their imports behind it.

To start snakemake takes more than a second of imports, to start a stage half of one, and the tests start hundreds. A
fork has its own memory, folder, environment, arguments and exit status, as a process that was started anew has; only
what is imported, and when, has to be seen in a process that was started anew.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_IMPORTED = (
    "snakemake.cli",
    "snakemake.dag",
    "snakemake.executors.local",
    "snakemake.report",
    "snakemake.report.html_reporter",
    "smart_open",
    "snakemake_logger_plugin_rich",
    "workflow.lib.preflight",
    "workflow.lib.cli",
)


def run(
    module: str, arguments: list[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in a folder and capture what it prints."""
    with tempfile.TemporaryDirectory() as place:
        printed = [Path(place, name) for name in ("out", "err")]
        wish = [module, arguments, {**environment, "PWD": str(folder)}, *map(str, [folder, *printed])]
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(wish) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([module, *arguments], status, *(path.read_text() for path in printed))


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks; it ends with this one, which holds the other end of its input."""
    return subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    """Import, and read what every command reads: the papers as they are shipped."""
    from workflow.lib import rooms

    for name in _IMPORTED:
        importlib.import_module(name)
    for paper in rooms.papers():
        rooms.load_paper(paper)
    gc.freeze()  # nothing of all this is ever looked through again
    for line in sys.stdin:
        child = multiprocessing.get_context("fork").Process(target=_become, args=json.loads(line))
        child.start()
        child.join()
        print(child.exitcode, flush=True)


def _become(module: str, arguments: list[str], environment: dict[str, str], folder: str, *printed: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate([os.devnull, *printed]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [module, *arguments]
    sys.path[0] = folder
    importlib.invalidate_caches()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a fork ends without taking apart all that was imported: half a second for nothing


if __name__ == "__main__":
    _serve()
