"""What a stage cost this process: CPU seconds, those of them that went into starting, and memory.

Every stage says so in the last line of its log; `python -m tests.budget` adds them up.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

_began: list[float] = []


class Cost(NamedTuple):
    """CPU seconds of all threads, those before the work itself began, and the most memory held, in MB."""

    stage: str
    seconds: float
    starting: float
    memory: int

    def __str__(self) -> str:
        return f"{self.stage}: {self.seconds:.2f} CPU s, {self.starting:.2f} of them to start, at most {self.memory} MB"

    @classmethod
    def read(cls, text: str) -> Cost | None:
        r"""The cost that a log tells, None where it tells none.

        >>> Cost.read("of the run\n" + str(Cost("draw", 2.5, 0.75, 210)) + "\n")
        Cost(stage='draw', seconds=2.5, starting=0.75, memory=210)
        """
        told = re.findall(r"^(\w+): ([\d.]+) CPU s, ([\d.]+) of them to start, at most (\d+) MB$", text, re.MULTILINE)
        return cls(told[-1][0], float(told[-1][1]), float(told[-1][2]), int(told[-1][3])) if told else None


def work_begins() -> None:
    """Say that everything is imported that a stage needs; the first time counts."""
    if not _began:
        _began.append(time.process_time())


def so_far(stage: str) -> Cost:
    """What a stage has cost by now."""
    seconds = time.process_time()
    return Cost(stage, seconds, _began[0] if _began else seconds, round(_held() / 1e6))


def _held() -> int:
    """The most memory that this process has held, in bytes."""
    # Linux: getrusage would count what the process held that started this one, too.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held
