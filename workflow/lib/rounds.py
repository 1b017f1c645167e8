"""Snakemake's scheduling rounds, only when a job has ended: a guard for one version of it (docs/snakemake.md).

Version 9.27.1 limits how many jobs may start in a second. For that every round with jobs waiting plants a timer for
another round a second later, on top of the rounds that ended jobs ask for; each timer's round plants the next, so that
after n ended jobs n rounds go by every second, and each looks at the inputs of all jobs that are ready.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

# Where the timers were seen, and the limit that nobody asked for: `--max-jobs-per-timespan 100/1s` is the default.
_VERSION = "9.27.1"
_DEFAULT = (100, 1)


def without_timers(scheduler: Any) -> None:
    """Take the default limit off a scheduler that has not begun; a limit that a user chose stays.

    Args:
        scheduler: snakemake's `JobScheduler`.
    """
    limiter = getattr(scheduler, "job_rate_limiter", None)
    if limiter is not None and version("snakemake") == _VERSION and (limiter.max_jobs, limiter.timespan) == _DEFAULT:
        scheduler.job_rate_limiter = None
