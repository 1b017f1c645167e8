"""What snakemake itself costs for each of many short jobs, with the guards and without (docs/snakemake.md)."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import Benchmark
from tests.conftest import ROOT, environment

SNAKEFILE = """
import atexit, resource
atexit.register(lambda: print("own", sum(resource.getrusage(resource.RUSAGE_SELF)[:2])))
if {guarded}:
    from workflow.lib import guards
    guards.plan_cheaply()
rule all:
    input: expand("{{i}}.out", i=range({jobs}))
rule one:
    output: "{{i}}.out"
    shell: "sleep 0.2; : > {{output}}"
onstart:
    if {guarded}:
        guards.without_timers(workflow.scheduler)
"""


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    yield from ()


def milliseconds_per_job(jobs: int, guarded: bool, *options: str) -> float:
    """CPU milliseconds for each job of a run of many, beyond those of a run of one; of snakemake without its shells."""

    def cpu(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Snakefile").write_text(SNAKEFILE.format(jobs=count, guarded=guarded))
            command = [sys.executable, "-m", "snakemake", "--cores", "4", "--scheduler", "greedy", "--quiet", "all"]
            done = subprocess.run(
                [*command, *options], cwd=folder, env=environment(ROOT), check=True, capture_output=True, text=True
            )
        return float(re.findall(r"^own (\S+)$", done.stdout, re.MULTILINE)[-1])

    return 1e3 * (cpu(jobs) - cpu(1)) / (jobs - 1)


def tables(quick: bool) -> Iterator[str]:
    """Growth with the number of jobs; left out of the quick benchmark."""
    if quick:
        return
    yield "snakemake without its shells: CPU ms for each job of 0.2 s, four at a time"
    waiting = ("--scheduler-subsample", "100")  # as the default profile has it
    for name, guarded, options in (
        ("as it is", False, ()),
        ("with the guards", True, ()),
        ("and 100 that wait looked at", True, waiting),
    ):
        told = ", ".join(f"{milliseconds_per_job(jobs, guarded, *options):.1f} ({jobs} jobs)" for jobs in (200, 2000))
        yield f"  {name:<32} {told}"
