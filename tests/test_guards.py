"""The guards against what one version of snakemake does in vain."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake import common, jobs
from snakemake.logging import DefaultFilter, logger
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.enums import Quietness
from snakemake.settings.types import MaxJobsPerTimespan

from tests.conftest import python
from workflow.lib import guards

SNAKEFILE = """
if {guarded}:
    from workflow.lib import guards
    guards.plan_cheaply()

class Unhashed:
    __hash__ = None
    def __call__(self, wildcards, output):
        return str(output)

def given(wildcards, threads):
    return [wildcards.i] * threads

rule all:
    input: expand("{{i}}.out", i=range(3))
rule one:
    output: "{{i}}.out"
    threads: lambda wildcards, attempt: 1 + int(wildcards.i == "2")
    params: given=given, told=Unhashed()
    shell: "echo {{params.given}} {{params.told}} {{threads}} > {{output}}"
"""


def scheduler(limit: str) -> SimpleNamespace:
    return SimpleNamespace(job_rate_limiter=JobRateLimiter(MaxJobsPerTimespan.parse_choice(limit)))


def test_the_default_limit_is_taken_off() -> None:
    default = scheduler("100/1s")
    guards.without_timers(default)
    assert default.job_rate_limiter is None
    guards.without_timers(default)  # nothing left to do


def test_a_limit_that_a_user_chose_stays() -> None:
    chosen = scheduler("5/1m")
    guards.without_timers(chosen)
    assert chosen.job_rate_limiter is not None


def test_another_version_of_snakemake_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "version", lambda _: "9.28.0")
    default = scheduler("100/1s")
    guards.without_timers(default)
    assert default.job_rate_limiter is not None
    before = (common.get_function_params, jobs.Job.shellcmd, jobs.Job.log_info, JobScheduler.remaining_jobs)
    guards.plan_cheaply()
    assert before == (common.get_function_params, jobs.Job.shellcmd, jobs.Job.log_info, JobScheduler.remaining_jobs)


@pytest.mark.parametrize("options", [("--dry-run",), ("--dry-run", "-p"), ("-p",)])
def test_what_snakemake_plans_runs_and_prints_is_what_it_is_without(tmp_path: Path, options: tuple[str, ...]) -> None:
    told = {}
    for guarded in (False, True):
        folder = tmp_path / str(guarded)
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE.format(guarded=guarded))
        done = python("snakemake", "--cores", "2", "--scheduler", "greedy", *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        lines = {line for line in (done.stdout + done.stderr).splitlines() if "echo" in line or "rule one" in line}
        told[guarded] = lines, {path.name: path.read_text() for path in folder.glob("*.out")}
    assert told[True] == told[False]
    assert ("echo 2 2 2.out 2" in str(told[True][0])) == ("-p" in options)
    assert bool(told[True][1]) == ("--dry-run" not in options)


class _Job(SimpleNamespace):
    """As much of a job as its command and its description are made of."""


def a_job(**parts: Any) -> Any:
    rule = SimpleNamespace(is_checkpoint=False, is_handover=False)
    return _Job(input=[], output=[], params=[], resources={}, log=[], rule=rule, **parts)


def test_a_command_is_made_anew_where_parameters_are() -> None:
    made: list[Any] = []
    command = guards._kept(lambda job: made.append(job) or f"echo {len(made)}")
    job = a_job()
    assert [command(job), command(job)] == ["echo 1", "echo 1"]
    job.params = []  # snakemake resets them before it runs the job
    assert command(job) == "echo 2"


def test_a_job_is_described_where_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    describe = guards._heard(told.append)
    handler = logging.NullHandler()
    monkeypatch.setattr(logger, "handlers", [handler])
    describe(a_job())
    assert len(told) == 1  # a handler without a filter, such as a plugin's, hears everything
    quiet = DefaultFilter({Quietness.RULES}, debug_dag=False, verbose=False, dryrun=True, printshellcmds=True)
    handler.addFilter(quiet)
    describe(a_job())
    assert len(told) == 1
    job = a_job()
    job.rule.is_checkpoint = True
    describe(job)
    assert len(told) == 2  # snakemake says more of it


def test_a_list_that_nobody_reads_is_not_made() -> None:
    made: list[int] = []

    def make(_: Any) -> list[int]:
        made.append(1)
        return [3, 4]

    jobs_left = guards._later(make)(None)
    assert not made
    assert (list(jobs_left), len(jobs_left), bool(jobs_left), jobs_left[1]) == ([3, 4], 2, True, 4)
