"""Guards against what one version of snakemake does in vain, each measured in docs/snakemake.md with a patch for it.

None changes what snakemake plans, runs or prints. In any other version nothing is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

_VERSION = "9.27.1"
# The limit that nobody asked for: `--max-jobs-per-timespan 100/1s` is the default.
_LIMIT = (100, 1)


def _known() -> bool:
    return version("snakemake") == _VERSION


def plan_cheaply() -> None:
    """Before a workflow is planned: signatures are read once, jobs described once and only to who listens."""
    if not _known():
        return
    from snakemake import common, jobs, rules
    from snakemake.scheduling import job_scheduler

    if getattr(common, "guarded", False):  # this workflow is in the process a second time, as a module
        return
    common.guarded = True
    for module in (common, jobs, rules):
        module.get_function_params = _once(module.get_function_params)
    jobs.Job.shellcmd = property(_kept(jobs.Job.shellcmd.fget))
    jobs.Job.log_info = _heard(jobs.Job.log_info)
    job_scheduler.JobScheduler.remaining_jobs = property(_later(job_scheduler.JobScheduler.remaining_jobs.fget))


def without_timers(scheduler: Any) -> None:
    """Take the default limit of jobs a second off a scheduler that has not begun; a limit that a user chose stays.

    For the limit every round with jobs waiting plants a timer for another round a second later, on top of the rounds
    that ended jobs ask for; each timer's round plants the next, so that after n ended jobs n rounds go by every second,
    and each looks at the inputs of all jobs that are ready.

    Args:
        scheduler: snakemake's `JobScheduler`.
    """
    limiter = getattr(scheduler, "job_rate_limiter", None)
    if limiter is not None and _known() and (limiter.max_jobs, limiter.timespan) == _LIMIT:
        scheduler.job_rate_limiter = None


def _once(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Which parameters a function takes, read off its signature once and not some twenty times for each job."""
    kept = lru_cache(maxsize=1000)(plain)  # a bound, for workflows that make functions as they go

    def parameters(function: Callable[..., Any]) -> Any:
        try:
            return kept(function)
        except TypeError:  # not everything that can be called has a hash
            return plain(function)

    return parameters


def _kept(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A job's shell command, made anew only where what it is made of was."""

    def command(job: Any) -> Any:
        parts = (job.input, job.output, job.params, job.resources, job.log)
        before, text = getattr(job, "_told", ((), None))
        if len(before) != len(parts) or any(new is not old for new, old in zip(parts, before, strict=True)):
            text = plain(job)
            job._told = (parts, text)
        return text

    return command


def _heard(plain: Callable[..., None]) -> Callable[..., None]:
    """The description of a job, left out where every handler of snakemake's logger would drop it (`--quiet rules`)."""
    from snakemake.logging import LogEvent, logger

    kinds = (LogEvent.JOB_INFO, LogEvent.SHELLCMD)
    probes = [logging.makeLogRecord({"levelno": logging.INFO, "event": event}) for event in kinds]

    def log_info(job: Any, *arguments: Any, **options: Any) -> None:
        says_more = job.rule.is_checkpoint or job.rule.is_handover
        if says_more or any(handler.filter(probe) for handler in logger.handlers for probe in probes):
            plain(job, *arguments, **options)

    return log_info


class _Later(Sequence[Any]):
    """A list that is made when somebody reads it."""

    def __init__(self, make: Callable[[], list[Any]]) -> None:
        self._make = make

    def __getitem__(self, at: Any) -> Any:
        return self._make()[at]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


def _later(plain: Callable[[Any], list[Any]]) -> Callable[[Any], Sequence[Any]]:
    """The jobs that remain, which each round lists and the greedy scheduler does not read."""
    return lambda scheduler: _Later(lambda: plain(scheduler))
