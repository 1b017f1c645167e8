"""What the workflow costs a cluster: CPU seconds to plan thousands of jobs, and the number of Slurm jobs."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from math import ceil

from tests.conftest import ROOT, SNAKEFILE, environment, job_counts
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.reading import read_yaml
from workflow.lib.rooms import make_plan

PLANNING_LIMIT = 20.0
SLURM_JOBS_LIMIT = 60


def benchmarks(quick: bool) -> Iterator[object]:
    """No ratios here."""
    yield from ()


def tables(quick: bool) -> Iterator[str]:
    """Lines on planning and on Slurm jobs; an AssertionError when one is over its limit."""
    seeds = 20 if quick else 100
    _, seconds = dry_run("--quiet", "rules", "progress", "--config", f"seeds={seeds}", "seeds_per_job=1")
    runs = seeds * sum(len(e.optimizers) for e in experiments())
    yield (
        f"planning: dry run of all papers with {seeds} seeds, one seed a job: {runs} training jobs and what hangs on "
        f"them in {seconds:.1f} CPU s (limit {PLANNING_LIMIT:.0f})"
    )
    assert seconds <= PLANNING_LIMIT
    counts = job_counts(dry_run("--quiet", "rules")[0])
    on_slurm = slurm_jobs(counts)
    yield (
        f"Slurm jobs of the default workflow: {on_slurm} (limit {SLURM_JOBS_LIMIT}), for {counts['train']} runs on "
        f"CPUs, {counts.get('train_on_gpu', 0)} on GPUs; {sum(counts.values())} jobs in all, the others local"
    )
    assert on_slurm <= SLURM_JOBS_LIMIT


def experiments() -> list[Experiment]:
    """All experiments of the default configuration."""
    papers = make_plan(read_yaml(ROOT / "config" / "config.yaml")).papers.values()
    return [experiment for paper in papers for experiment in paper.experiments.values()]


def dry_run(*arguments: str) -> tuple[str, float]:
    """What a dry run that starts from nothing prints, and its CPU seconds."""
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / SNAKEFILE), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, env=environment(ROOT), capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return done.stdout + done.stderr, seconds


def slurm_jobs(counts: dict[str, int]) -> int:
    """Slurm jobs under the profile: CPU runs in groups, one for each GPU run, nothing for the local rules."""
    profile = read_yaml(ROOT / "workflow" / "profiles" / "slurm" / "profile.yaml")
    return ceil(counts["train"] / profile["group-components"]["train"]) + counts.get("train_on_gpu", 0)
