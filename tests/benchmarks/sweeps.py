"""Sweeps: a training job of five values against one of a single value, processes and all, and how fast points plan."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import Benchmark
from tests.benchmarks._roofline import Work
from tests.conftest import stage
from workflow.lib import stages
from workflow.lib.plan import jobs
from workflow.lib.plan.model import block_seeds
from workflow.lib.rooms import load_paper

# Paper, experiment, optimizer, value and seeds; and how much less a value of five must cost than one alone.
# A hundred seeds of ntp take 1.3 s to train, half of what the process costs, so that joining saves less there. Floors
# leave room for a busy machine.
SWEPT = [
    ("ntp", "two_stage", "ngd", "lr_kq", 10, 2.2),
    ("ntp", "two_stage", "ngd", "lr_kq", 100, 1.4),
    ("icl", "balanced", "adam", "lr", 10, 1.9),
    ("ib", "orthogonal", "ngd", "lr", 5, 2.5),
]
VALUES = [0.005, 0.01, 0.02, 0.04, 0.08]
GRID = {"lr": {"sweep": {"log": [1e-4, 1, 40]}}, "lr_kq": {"sweep": {"log": [1e-4, 1, 50]}}}


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    """A ratio of 2.5 per value is five values at twice the cost of one."""
    for paper, experiment, label, key, seeds, floor in SWEPT:
        if quick and seeds == 100:
            continue
        at = {"paper": paper, "experiment": experiment, "label": label, "key": key, "seeds": seeds}
        with tempfile.TemporaryDirectory() as folder:
            yield Benchmark(
                f"{paper} {experiment}, {seeds} seeds: a job of 5 values of {key}",
                plain=_job(Path(folder) / "one", VALUES[:1], **at),
                fast=_job(Path(folder) / "five", VALUES, **at),
                floor=floor,
                fast_units=len(VALUES),
                repeats=1 if quick else 3,
                work=Work({}, 0, 0),  # done in other processes
            )


def _job(
    folder: Path, values: list[float], *, paper: str, experiment: str, label: str, key: str, seeds: int
) -> Callable[[], None]:
    """One training job of the points of a sweep, to be called."""
    mine = {"experiments": {experiment: {"seeds": seeds, "optimizers": {label: {key: {"sweep": values}}}}}}
    swept = load_paper(paper, mine).experiment(f"{experiment}_{label}_{key}")
    (name,) = swept.jobs
    block = swept.blocks()[0]
    stages.generate(swept, block_seeds(block), folder / "data.npz")
    plan = jobs.hand(folder, "run", jobs.for_run(swept, name))
    told = ["--paper", paper, "--experiment", swept.name, "--seeds", block, "--optimizer", name, "--plan", plan]
    files = ["--data", "data.npz", "--trace", "trace.parquet", "--parameters", "parameters.safetensors"]

    def run() -> None:
        done = stage("train", *told, *files, cwd=folder, anew=True)
        assert done.returncode == 0, done.stderr

    return run


def tables(quick: bool) -> Iterator[str]:
    """How long two thousand points take to plan, without snakemake's own share."""
    start = time.process_time()
    mine = {"experiments": {"two_stage": {"seeds": 10, "optimizers": {"ngd": GRID}}}}
    swept = load_paper("ntp", mine).experiment("two_stage_ngd_lr_lr_kq")
    count, trained = len(swept.optimizers), len(swept.jobs)
    yield f"a grid of {count} points, {trained} training jobs: planned in {time.process_time() - start:.2f} CPU s"
