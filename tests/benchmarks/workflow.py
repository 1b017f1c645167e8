"""Where the CPU time of a whole default run goes: by stage and paper, starting apart from work, snakemake apart."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import budget
from tests.benchmarks import Benchmark
from tests.conftest import snakemake


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    yield from ()


def tables(quick: bool) -> Iterator[str]:
    """The budget of the default run on two cores; left out of the quick benchmark."""
    if quick:
        return
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        snakemake(Path(folder), "--cores", "2", anew=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        results = Path(folder, "results")
        jobs = budget.costs(results)
        total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        yield ""
        yield "the default run, in CPU seconds"
        yield from budget.budget(jobs, results, total - sum(cost.seconds for cost in jobs.values()))
        for name, held, asked in budget.memory(jobs, results):
            if asked > 2 * held:
                yield f"{name}: asks for {asked} MB and holds {held}"
