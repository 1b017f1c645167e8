"""Shared fixtures: running the workflow as its user does, in directories of its own."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import cache_from_source
from pathlib import Path

import pytest
import yaml

from tests import forks
from workflow.lib.plan.model import Paper

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them all that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As the jobs do that a test calls: with more threads torch adds in another order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Until all tests are collected: hardly anything of what is imported by then can go.
gc.disable()

ROOT = Path(__file__).parents[1]
SNAKEFILE = Path("workflow", "Snakefile")


def snakemake(
    directory: Path, *arguments: str, project: Path = ROOT, check: bool = True, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run snakemake on a project's Snakefile with all outputs under `directory`."""
    command = ["--snakefile", str(project / SNAKEFILE), "--directory", str(directory), *arguments]
    done = python("snakemake", *command, cwd=directory, project=project, anew=anew)
    if check and done.returncode != 0:
        pytest.fail(f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def stage(*arguments: str, cwd: Path = ROOT, anew: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `python -m workflow.lib <arguments>`."""
    return python("workflow.lib", *arguments, cwd=cwd, anew=anew)


def python(
    module: str, *arguments: str, cwd: Path, project: Path = ROOT, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `python -m <module> <arguments>` with a project's library.

    It runs in a fork of a process that has loaded this one's, and so do snakemake's jobs; `anew`, in a process whose
    CPU seconds count, start and all, among those of this one's children.
    """
    if not anew and project == ROOT and sys.platform == "linux":  # elsewhere libraries may not bear to be forked
        return forks.run(module, list(arguments), environment(ROOT), cwd)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(project), cwd=cwd)


def environment(project: Path) -> dict[str, str]:
    """The environment of a child: this Python first on PATH, one thread, the project's own library."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Compiled modules are kept, whatever the shell wishes: hundreds of jobs would compile the library anew.
    own = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project)}


def jobs_at_work(directory: Path, stage: str) -> list[int]:
    """The process ids of the jobs of a stage that run in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_text().split("\0")
            here = Path(os.readlink(process / "cwd")) == directory.resolve()
        except OSError:
            continue
        if here and ["-m", "workflow.lib", stage] in (arguments[1:4], arguments[3:6]):
            found.append(int(process.name))
    return found


def job_counts(output: str) -> dict[str, int]:
    """The table 'Job stats' of a (dry) run: rule -> number of jobs."""
    table = output.split("Job stats:")[1].split("\n\n")[0]
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+)\s+(\d+)$", table, re.MULTILINE) if m[1] != "total"}


def copy_project(target: Path) -> Path:
    """A copy of the files under version control, to edit in a test; of modules with what is compiled of them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        names = [name, cache_from_source(name)] if name.endswith(".py") else [name]
        for found in filter(lambda each: (ROOT / each).is_file(), names):
            (target / found).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / found, target / found)
    return target


# Fixtures and marks of tests that use a whole run of the workflow, or another program.
WHOLE_FIXTURES, WHOLE_MARKS = {"shipped_run", "small_run"}, ("browser", "catalog", "slurm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses a whole run, or another program, is slow."""
    for item in items:
        if WHOLE_FIXTURES & set(getattr(item, "fixturenames", ())) or any(map(item.get_closest_marker, WHOLE_MARKS)):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.whole)


def pytest_collection_finish() -> None:
    """What is imported by now, and every test, lives to the end: it is not looked through for cycles time and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shipped_run() -> Path:
    """The workflow as it is shipped, as `make figures` ran it in this checkout: the folder that holds its `results`."""
    planned = snakemake(ROOT, "-n", "--quiet", "rules", check=False)
    if "Nothing to be done" not in planned.stdout + planned.stderr:
        pytest.skip("of the results of `make figures`, which are not there or of other code or settings")
    return ROOT


# What the small run is told: experiments at a small size, of every kind one at least, and these figures.
SMALL = ("--configfile", "small.yaml")
SMALL_FIGURES = {
    "ntp": ("fig1", "fig2", "extra_rates"),
    "icl": ("fig1", "fig2"),
    "ib": ("fig1", "fig2", "fig5", "fig6", "extra_variants"),
    "scb": ("fig2", "extra_alignment"),
}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole workflow at small sizes, run once, as a user runs it: the folder that holds its `results`.

    It is killed on the way, and goes on with another number of cores.
    """
    from tests import small
    from workflow.lib import rooms

    directory = tmp_path_factory.mktemp("small")
    (directory / SMALL[1]).write_text(
        yaml.safe_dump({paper: small.changes(paper, figures=SMALL_FIGURES[paper]) for paper in rooms.papers()})
    )
    kill_in_training(directory, "--cores", "3", *SMALL)
    snakemake(directory, "--cores", "2", "--rerun-incomplete", *SMALL, anew=True)
    return directory


def kill_in_training(directory: Path, *arguments: str) -> None:
    """Start snakemake, and kill it and its jobs at once as soon as the first training is done and others are not."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / SNAKEFILE), *arguments]
    with (directory / "killed.txt").open("wb") as out:
        running = subprocess.Popen(
            command, cwd=directory, env=environment(ROOT), start_new_session=True, stdout=out, stderr=out
        )
    try:
        while not list(directory.glob("results/*/runs/*/*/[0-9]*.parquet")):  # a temporary file begins with a dot
            assert running.poll() is None, (directory / "killed.txt").read_text()[-3000:]
            time.sleep(0.05)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert running.returncode == -signal.SIGKILL
    assert not (directory / "results" / "claims.csv").exists()
    snakemake(directory, "--unlock", *SMALL)


def each_training(papers: Mapping[str, Paper]) -> list[tuple[str, str, str]]:
    """Of every kind of training that papers have, a run that starts from no other: paper, experiment and optimizer."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for paper in papers.values():
        for experiment in paper.experiments.values():
            label = next(label for label in experiment.optimizers if not experiment.before(label))
            found.setdefault((paper.name, experiment.kind), (paper.name, experiment.name, label))
    return list(found.values())
