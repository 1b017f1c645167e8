"""Where the CPU time of a whole run goes: the work itself, or starting processes and importing libraries."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import Benchmark
from tests.conftest import ROOT, SNAKEFILE, environment, job_counts

# What a job of each stage imports before its work begins, for one paper's room.
IMPORTS = {
    "generate": "workflow.lib.cli, {room}.data",
    "train": "workflow.lib.cli, workflow.lib.tables, {room}.training, workflow.lib.optim.ngd",
    "measure": "workflow.lib.cli, workflow.lib.tables, {room}.metrics",
    "draw": "workflow.lib.cli, workflow.lib.tables, workflow.lib.captions, {room}.figures",
    "judge": "workflow.lib.cli, workflow.lib.tables, workflow.lib.judging, {room}.claims",
}


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    yield from ()


def tables(quick: bool) -> Iterator[str]:
    """One paper's whole run on one core, in CPU seconds; left out of the quick benchmark."""
    if quick:
        return
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / SNAKEFILE), "--config", "papers=[ntp]"]
    with tempfile.TemporaryDirectory() as folder:
        planned, plan = _cpu([*snakemake, "-n"], Path(folder))
        total, _ = _cpu([*snakemake, "--cores", "1"], Path(folder))
    counts = job_counts(plan)
    imports = {
        stage: _cpu([sys.executable, "-c", f"import {names.format(room='workflow.lib.papers.ntp')}"], ROOT)[0]
        for stage, names in IMPORTS.items()
    }
    start_up = sum(imports[stage] * counts[stage] for stage in imports)
    yield ""
    yield f"a whole run of ntp, {sum(counts.values())} jobs: {total:.1f} CPU s"
    yield f"  snakemake itself (a dry run)  {planned:5.1f} s  {planned / total:4.0%}"
    each = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in imports.items())
    yield f"  starting Python and imports   {start_up:5.1f} s  {start_up / total:4.0%}  (a job: {each})"
    work = total - planned - start_up
    yield f"  work                          {work:5.1f} s  {work / total:4.0%}"


def _cpu(command: list[str], folder: Path) -> tuple[float, str]:
    """CPU seconds of a command with all its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment(ROOT), capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr
