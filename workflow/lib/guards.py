"""Guards against what one version of snakemake does in vain, each measured in docs/snakemake.md with a patch for it.

None changes what snakemake plans, runs or prints. In any other version nothing is touched.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import random
from collections import UserList
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any

_VERSION = "9.27.1"
# The limit that nobody asked for: `--max-jobs-per-timespan 100/1s` is the default.
_LIMIT = (100, 1)


def _known() -> bool:
    return version("snakemake") == _VERSION


def plan_cheaply() -> None:
    """Before a workflow is planned: what a job needs is made once, and what nobody looks at is not made."""
    if not _known():
        return
    from snakemake import common, dag, jobs, rules
    from snakemake.scheduling.job_scheduler import JobScheduler

    if getattr(common, "guarded", False):  # this workflow is in the process a second time, as a module
        return
    common.guarded = True
    for module in (common, jobs, rules):
        module.get_function_params = _once(module.get_function_params)
    jobs.Job.shellcmd = property(_kept(jobs.Job.shellcmd.fget))
    jobs.Job.log_info = _heard(jobs.Job.log_info)
    jobs.Job.is_valid = _expanded
    rules.Wildcards = _copied(rules.Wildcards)
    dag.DAG.check_directory_outputs = _apart(dag.DAG.check_directory_outputs)
    jobs.Job.is_pipe_or_service_input = _piped(jobs.Job.is_pipe_or_service_input)
    JobScheduler.open_jobs = property(_sampled(JobScheduler.open_jobs.fget))
    JobScheduler.remaining_jobs = property(_later(JobScheduler.remaining_jobs.fget))
    atexit.register(gc.freeze)  # nobody looks for cycles among all that a plan holds when the process ends


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


def _expanded(job: Any) -> None:
    """Whether a job's log and benchmark can be named: they are, and kept."""
    _ = job.benchmark, job.log


def _copied(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The wildcards that each function of a job is handed: a copy of those of its first one."""
    last: tuple[Any, Any, Any] = (None, None, None)

    def wildcards(fromdict: Mapping[str, str]) -> Any:
        nonlocal last
        values = tuple(fromdict.items())
        before, same, made = last
        if before is not fromdict or same != values:
            made = plain(fromdict=fromdict)
            last = fromdict, values, made
        copy = made.__class__.__new__(made.__class__)
        copy.extend(made)
        vars(copy).update(vars(made))
        copy._names = dict(made._names)
        return copy

    return wildcards


def _apart(plain: Callable[[Any], None]) -> Callable[[Any], None]:
    """The search for outputs inside of other outputs, left out where no output is named as a folder of another is."""

    def check(dag: Any) -> None:
        outputs = {str(file) for job in dag.jobs for file in job.output}
        folders = set[str]()
        for folder in {os.path.dirname(path) for path in outputs}:
            while folder and folder not in folders:
                folders.add(folder)
                folder = os.path.dirname(folder)
        # Where paths are not written in the shortest way, names do not tell.
        plainly = all(os.path.normpath(path) == path and path[0] not in "/." for path in outputs)
        if not plainly or not outputs.isdisjoint(folders):
            plain(dag)

    return check


def _piped(plain: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """Whether an input comes through a pipe, not searched for among all jobs before where no rule has a pipe."""

    @lru_cache(maxsize=1)
    def any_pipe(dag: Any) -> bool:
        outputs = (file for rule in dag.workflow.rules for file in rule.output)
        return any(file.flags.get(kind) for file in outputs for kind in ("pipe", "service"))

    return lambda job, path: any_pipe(job.dag) and plain(job, path)


def _sampled(plain: Callable[[Any], Sequence[Any]]) -> Callable[[Any], Sequence[Any]]:
    """The jobs that are ready; where a round looks at a sample of them, that sample (`--scheduler-subsample`)."""

    def ready(scheduler: Any) -> Sequence[Any]:
        jobs, size = scheduler.workflow.dag.ready_jobs, scheduler.subsample
        whole = scheduler.dryrun or not size or len(jobs) <= size
        return plain(scheduler) if whole else random.sample(tuple(jobs), size)

    return ready


class _Later(UserList[Any]):
    """A list that is made when somebody reads it."""

    def __init__(self, make: Callable[[], list[Any]]) -> None:
        self._make = make

    @cached_property
    def data(self) -> list[Any]:  # type: ignore[override]
        return self._make()


def _later(plain: Callable[[Any], list[Any]]) -> Callable[[Any], Sequence[Any]]:
    """The jobs that remain, which each round lists and the greedy scheduler does not read."""
    return lambda scheduler: _Later(lambda: plain(scheduler))
