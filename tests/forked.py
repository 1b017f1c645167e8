"""What jobs start as their Python in the tests: a stage of this project runs in a fork (see `tests/forks.py`).

Run as a script it needs nothing but the standard library; whatever is no such stage starts Python anew.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLACE = "TESTS_FORKS"  # the variable that names the folder of the socket
ANEW = "TESTS_ANEW"  # the variable that names a stage whose jobs start Python anew
SOCKET = "socket"
ROOT = str(Path(__file__).resolve().parents[1])


def ask(place: str, wish: Sequence[Any], files: Sequence[int]) -> int:
    """The exit status of what a fork runs, with three open files as its input, output and errors."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"{place}/{SOCKET}")
        socket.send_fds(line, [b"\n"], files)
        line.sendall(json.dumps(wish).encode())
        line.shutdown(socket.SHUT_WR)
        told = line.makefile().read()
    return int(told) if told else 1  # nobody is there any more


def main() -> int:
    """A stage in a fork, if its library is this project's and its papers are the shipped ones."""
    environ, arguments = dict(os.environ), sys.argv[1:]
    ours = environ.get("PYTHONPATH", "").split(os.pathsep)[0] == ROOT and "OWN_ROOMS" not in environ
    if not ours or arguments[:2] != ["-m", "workflow.lib"] or arguments[2:3] == [environ.get(ANEW)]:
        os.execv(sys.executable, [sys.executable, *arguments])
    return ask(environ[PLACE], ["workflow.lib", arguments[2:], environ, os.getcwd()], (0, 1, 2))


if __name__ == "__main__":
    sys.exit(main())
