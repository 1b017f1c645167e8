"""The guards against what one version of snakemake does in vain."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import snakemake.api  # before its parts, which import each other
from snakemake import common, jobs, rules
from snakemake.exceptions import ChildIOException
from snakemake.iocontainers import Wildcards
from snakemake.logging import DefaultFilter, logger
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.enums import Quietness
from snakemake.settings.types import MaxJobsPerTimespan

from tests.conftest import python
from workflow.lib import guards

SNAKEFILE = """
import atexit, gc
before = gc.get_freeze_count()
atexit.register(lambda: print("frozen", gc.get_freeze_count() > before))  # what is registered later goes first
if {guarded}:
    from workflow.lib import guards
    guards.plan_cheaply()

class Unhashed:
    __hash__ = None
    def __call__(self, wildcards, output):
        return str(output)

def given(wildcards, threads):
    wildcards.i += " changed"  # which the next function does not see
    return [wildcards["i"][0]] * threads

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
    places = (common, jobs.Job, rules, snakemake.dag.DAG, JobScheduler)
    before = [dict(vars(place)) for place in places]
    guards.plan_cheaply()
    assert before == [dict(vars(place)) for place in places]


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--dry-run",), ("--dry-run", "-p"), ("-p",)])
def test_what_snakemake_plans_runs_and_prints_is_what_it_is_without(tmp_path: Path, options: tuple[str, ...]) -> None:
    told = {}
    for guarded in (False, True):
        folder = tmp_path / str(guarded)
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE.format(guarded=guarded))
        done = python("snakemake", "--cores", "2", "--scheduler", "greedy", *options, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert f"frozen {guarded}" in done.stdout
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


def test_a_log_is_named_once() -> None:
    named: list[str] = []
    rule = SimpleNamespace(expand_log=named.append, expand_benchmark=named.append)
    job = SimpleNamespace(rule=rule, wildcards_dict={}, log=["a.log"], benchmark=None)
    guards._expanded(job)
    assert not named


def test_each_function_of_a_job_is_handed_wildcards_of_its_own() -> None:
    made: list[Any] = []

    def plain(fromdict: dict[str, str]) -> Wildcards:
        made.append(fromdict)
        return Wildcards(fromdict=fromdict)

    handed = guards._copied(plain)
    values = {"paper": "ntp", "index": "3"}
    first = handed(fromdict=values)
    assert (first.paper, first["index"], list(first), dict(first.items())) == ("ntp", "3", ["ntp", "3"], values)
    first.paper = "changed"
    first.update({"seeds": "0"})
    second = handed(fromdict=values)
    assert (dict(second.items()), len(second), vars(second).keys()) == (values, 2, vars(plain(values)).keys())
    assert len(made) == 2  # one of them just now
    with pytest.raises(AttributeError, match="sort"):
        second.sort()
    values["paper"] = "icl"
    assert handed(fromdict=values).paper == "icl"
    assert list(handed(fromdict={"index": "3", "paper": "icl"})) == ["3", "icl"]


class _Planned(NamedTuple):
    """A job, as much as the search needs of it."""

    output: tuple[str, ...]


@pytest.mark.parametrize(
    ("outputs", "searched", "refused"),
    [
        (["a/b/c.txt", "a/b/d.txt", "a/b.txt", "e"], False, False),
        (["a/b", "a/b/c.txt"], True, True),
        (["a", "a/b/c.txt", "a.txt"], True, True),
        (["a//b", "a/b/c.txt"], True, True),
        (["./a", "a/b"], True, True),
        (["a/../b", "b/c"], True, False),
    ],
)
def test_outputs_inside_of_outputs_are_searched_for_where_there_may_be_some(
    outputs: list[str], searched: bool, refused: bool
) -> None:
    looked: list[Any] = []

    def plain(planned: Any) -> None:
        looked.append(planned)
        snakemake.dag.DAG.check_directory_outputs(planned)

    planned: Any = SimpleNamespace(jobs=[_Planned((path,)) for path in outputs])
    if refused:
        with pytest.raises(ChildIOException):
            guards._apart(plain)(planned)
    else:
        guards._apart(plain)(planned)
    assert bool(looked) == searched


def test_inputs_through_pipes_are_searched_for_where_a_rule_has_one() -> None:
    searched: list[str] = []
    comes = guards._piped(lambda job, path: not searched.append(path))  # type: ignore[func-returns-value]

    class Dag:
        def __init__(self, **flags: bool) -> None:
            self.workflow = SimpleNamespace(rules=[SimpleNamespace(output=[SimpleNamespace(flags=flags)])])

    assert not comes(SimpleNamespace(dag=Dag(temp=True)), "a")
    assert not searched
    assert comes(SimpleNamespace(dag=Dag(pipe=True)), "b")
    assert comes(SimpleNamespace(dag=Dag(service=True)), "c")
    assert searched == ["b", "c"]


def test_a_round_looks_at_the_sample_that_it_is_asked_for() -> None:
    listed: list[Any] = []

    def plain(scheduler: Any) -> list[int]:
        listed.append(scheduler)
        return list(scheduler.workflow.dag.ready_jobs)

    def looked_at(subsample: int | None, dryrun: bool = False) -> list[int]:
        workflow = SimpleNamespace(dag=SimpleNamespace(ready_jobs=set(range(10))))
        return guards._sampled(plain)(SimpleNamespace(workflow=workflow, subsample=subsample, dryrun=dryrun))

    assert (set(looked_at(None)), set(looked_at(10)), set(looked_at(3, dryrun=True))) == (set(range(10)),) * 3
    assert len(listed) == 3
    sample = looked_at(3)
    assert len(listed) == 3
    assert len(set(sample)) == 3
    assert set(sample) < set(range(10))


def test_a_list_that_nobody_reads_is_not_made() -> None:
    made: list[int] = []

    def make(_: Any) -> list[int]:
        made.append(1)
        return [3, 4]

    jobs_left = guards._later(make)(None)
    assert not made
    assert (list(jobs_left), len(jobs_left), bool(jobs_left), jobs_left[1]) == ([3, 4], 2, True, 4)
    assert len(made) == 1
