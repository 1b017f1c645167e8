"""Benchmarks: the fast code against its plain twin, as a ratio of CPU seconds measured in one run.

Each module but `__main__` has a function `benchmarks(quick)` that yields `Benchmark` objects, and may have a
function `tables(quick)` that yields finished lines of further tables (growth with a size, shares of time).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks._roofline import Work


@dataclass(frozen=True)
class Benchmark:
    """Two ways to do the same work.

    `plain` and `fast` are called without arguments; each does its number of units of work (for instance seeds),
    and the ratio compares CPU seconds per unit. Set-up and imports belong outside the calls. `work` is what `fast` does
    for a unit, where counting torch's operations does not find it.
    """

    experiment: str
    plain: Callable[[], object]
    fast: Callable[[], object]
    floor: float
    plain_units: float = 1.0
    fast_units: float = 1.0
    repeats: int = 3
    work: Work | None = None

    def limit(self, seconds: float) -> str:
        """What limits `fast`, at its CPU seconds per unit; empty where its work is not known."""
        work = Work.of(self.fast).times(1 / self.fast_units) if self.work is None else self.work
        return work.line(seconds) if work.moved else ""

    def run(self) -> tuple[float, float]:
        """CPU seconds per unit, the best of several repeats taken in turns: (plain, fast)."""
        plain, fast = [], []
        for _ in range(self.repeats):
            plain.append(cpu_seconds(self.plain) / self.plain_units)
            fast.append(cpu_seconds(self.fast) / self.fast_units)
        return min(plain), min(fast)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads, and of the processes that it starts, for one call."""
    start = _cpu()
    work()
    return _cpu() - start


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
