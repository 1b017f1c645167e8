"""What a stage cost: seconds, CPU seconds, those of them that went into starting, and memory.

Every stage says so in the last line of its log; `python -m tests.budget` adds them up.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds by the clock, CPU seconds of all threads, those before the work itself began, the most MB held."""

    stage: str
    took: float
    seconds: float
    starting: float
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.stage}: {self.took:.1f} s, {self.seconds:.2f} CPU s, {self.starting:.2f} of them to start, "
            f"at most {self.memory} MB"
        )

    @classmethod
    def read(cls, text: str) -> Cost | None:
        r"""The cost that a log tells, None where it tells none.

        >>> Cost.read("of the run\n" + str(Cost("draw", 3, 2.5, 0.75, 210)) + "\n")
        Cost(stage='draw', took=3.0, seconds=2.5, starting=0.75, memory=210)
        """
        number = r"([\d.]+)"
        line = rf"^(\w+): {number} s, {number} CPU s, {number} of them to start, at most (\d+) MB$"
        told = re.findall(line, text, re.MULTILINE)
        if not told:
            return None
        stage, took, seconds, starting, memory = told[-1]
        return cls(stage, float(took), float(seconds), float(starting), int(memory))


class _Process:
    """When this process began, and when its work did, in CPU seconds; what it has of the one that it is a fork of."""

    began = time.monotonic()
    work: float | None = None
    inherited = 0.0
    mapped = 0


def forked(inherited: float, mapped: int) -> None:
    """Say that this process is a fork that has just begun: what was imported for it is among its cost.

    Args:
        inherited: CPU seconds that the other process has spent for this one.
        mapped: bytes of files, such as libraries, that the other has in memory. A fork has only those that it uses.
    """
    _Process.began, _Process.work = time.monotonic(), None
    _Process.inherited, _Process.mapped = inherited, mapped


def work_begins() -> None:
    """Say that everything is imported that a stage needs; the first time counts."""
    if _Process.work is None:
        _Process.work = _seconds()


def so_far(stage: str) -> Cost:
    """What a stage has cost by now."""
    seconds = _seconds()
    starting = seconds if _Process.work is None else _Process.work
    return Cost(stage, time.monotonic() - _Process.began, seconds, starting, round(_held() / 1e6))


def _seconds() -> float:
    return _Process.inherited + time.process_time()


def _held() -> int:
    """The most memory that this process has held, in bytes."""
    # Linux: getrusage would count what the process held that started this one, too.
    if most := _status("VmHWM"):
        return most + mapped() - _status("RssFile")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def mapped() -> int:
    """Bytes of files in memory, of this process or the one that it is a fork of."""
    return max(_Process.mapped, _status("RssFile"))


def _status(name: str) -> int:
    """What Linux knows of this process, in bytes; elsewhere 0."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return 1024 * int(found[1]) if found else 0
