"""How costs grow with sizes: a step of training, and planning; the full benchmark draws docs/growth.png."""

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from tests.benchmarks import Benchmark, cpu_seconds
from tests.benchmarks.scb import milliseconds_per_step
from tests.conftest import ROOT, SNAKEFILE, environment
from workflow.lib import rooms
from workflow.lib.contract import Job
from workflow.lib.plotting import Sheet, look

SHORT = 0.2  # CPU seconds that steps take at least, to be measured
PICTURE, NUMBERS = ROOT / "docs" / "growth.png", ROOT / "docs" / "growth.csv"


class Growth(NamedTuple):
    """A size, its values, and what something costs at each."""

    title: str
    size: str
    values: Sequence[int]
    unit: str
    cost: Callable[[int], float]


def benchmarks(quick: bool) -> Iterator[Benchmark]:
    yield from ()


def trained(
    paper: str, experiment: str, optimizer: str, seeds: int, lasts: Callable[[int], Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], float]:
    """CPU milliseconds of one step of one run, by settings: a training twice as long less one that is not.

    Args:
        paper: its short name.
        experiment: its name.
        optimizer: its label.
        seeds: stacked.
        lasts: the changes that make a training last some steps.
    """

    def cost(settings: Mapping[str, Any]) -> float:
        def seconds(count: int) -> float:
            changes = lasts(count)
            changes = {**changes, "settings": {**settings, **changes.get("settings", {})}}
            e = rooms.load_paper(paper, {"experiments": {experiment: changes}}).experiment(experiment)
            data = {seed: rooms.generate(e)(e, e.seed(seed)) for seed in range(seeds)}
            train, entry = rooms.train(e), e.optimizers[optimizer]
            return min(cpu_seconds(lambda: train(e, entry, data, Job())) for _ in range(2))

        # What a training takes before its first step may be more than all steps, and is noise beside few of them.
        steps = 50
        while (longer := seconds(2 * steps) - seconds(steps)) < SHORT:
            steps *= 4 if longer < SHORT / 4 else 2
        return 1e3 * longer / steps / seeds

    return cost


def planning(jobs: int) -> float:
    """CPU seconds of a dry run with so many trainings, each with data of its own."""
    return _dry_run("two_stage", f"seeds={jobs}")


def planning_sweep(jobs: int) -> float:
    """CPU seconds of a dry run with so many trainings, each of ten of a sweep's 2,000 points."""
    optimizers = {"ngd": {key: {"sweep": {"log": [1e-4, 1, size]}} for key, size in (("lr", 40), ("lr_kq", 50))}}
    swept = {"experiments": {"two_stage": {"optimizers": optimizers}}}
    return _dry_run("two_stage_ngd_lr_lr_kq", f"seeds={jobs // 200}", f"ntp={json.dumps(swept)}")


def _dry_run(experiment: str, *changes: str) -> float:
    """CPU seconds, the better of two."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / SNAKEFILE), "-n", "--quiet", "rules"]
    changes = ("papers=[ntp]", "seeds_per_job=1", *changes)
    found = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [*command, "--config", *changes, "--", f"results/ntp/metrics/{experiment}.parquet"],
                cwd=folder, env=environment(ROOT), check=True, capture_output=True,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def growths() -> Iterator[Growth]:
    step = "CPU ms a step"  # of one run
    tokens = 5e6  # of one measurement

    def scb(positions: int, batch: int) -> float:
        return milliseconds_per_step(positions, batch, max(10, int(tokens / positions / batch)))

    lengths = [500, 1500, 5000, 15000, 50000, 200000, 1000000]
    yield Growth("scb, B = 64", "T", lengths, step, lambda t: scb(t, 64))
    yield Growth("scb, T = 5000", "B", [16, 64, 256, 1024], step, lambda b: scb(5000, b))

    def ib_lasts(steps: int) -> Mapping[str, Any]:
        return {"optimizers": {"ngd": {"iterations": steps}}}

    ib = trained("ib", "orthogonal", "ngd", 2, ib_lasts)
    yield Growth("ib, W trained", "n", [10, 20, 40, 80], step, lambda n: ib({"samples": n, "dimension": 800}))
    yield Growth("ib, W trained", "T", [5, 10, 20, 40], step, lambda t: ib({"tokens": t, "dimension": 800}))
    yield Growth("ib, W trained", "d", [400, 800, 1600], step, lambda d: ib({"dimension": d}))

    def ntp_lasts(steps: int) -> Mapping[str, Any]:
        return {"settings": {"steps_ov": steps, "steps_kq": steps}}

    ntp = trained("ntp", "two_stage", "ngd", 10, ntp_lasts)

    def vocabulary(size: int) -> float:
        return ntp({"vocabulary_size": size, "embedding_dimension": size, "sentences": size + 2})

    yield Growth("ntp, d = |V|", "|V|", [20, 40, 80, 150], step, vocabulary)

    def icl_lasts(epochs: int) -> Mapping[str, Any]:
        return {"settings": {"epochs": epochs}}

    icl = trained("icl", "balanced", "adam", 2, icl_lasts)
    scale: dict[str, int] = {"fresh_prompts": 100}
    yield Growth(
        "icl, N = 100", "K", [5, 10, 20, 40], step, lambda k: icl({**scale, "feature_count": k, "dimension": 50})
    )
    yield Growth("icl, K = 5", "N", [100, 400, 1600], step, lambda n: icl({**scale, "context_length": n}))
    yield Growth("planning", "trainings", [100, 1000, 5000], "CPU s", planning)


def tables(quick: bool) -> Iterator[str]:
    """All growths, as numbers and as a picture; left out of the quick benchmark."""
    if quick:
        return
    rows = []
    for growth in growths():
        costs = [growth.cost(value) for value in growth.values]
        rows += [(growth.title, growth.size, growth.unit, *pair) for pair in zip(growth.values, costs, strict=True)]
        yield f"growth of {growth.title} with {growth.size} ({growth.unit}); log-log slope at the end {slope(rows):.2f}"
        yield "  " + "".join(f"{value:>10}" for value in growth.values)
        yield "  " + "".join(f"{cost:>10.4g}" for cost in costs)
    table = pd.DataFrame(rows, columns=["title", "size", "unit", "value", "cost"])
    table["machine"], table["date"] = processor(), f"{datetime.now(UTC):%Y-%m-%d}"
    table.to_csv(NUMBERS, index=False, float_format="%.4g")
    draw()
    yield f"drawn in {PICTURE.relative_to(ROOT)}"
    yield f"planning a sweep of 2,000 points with 50 seeds, 10,000 trainings: {planning_sweep(10_000):.1f} CPU s"
    yield f"scb, T = 1,000,000: a run's process holds at most {held(1_000_000)} MB"


def slope(rows: Sequence[tuple[Any, ...]]) -> float:
    """The slope between the last two of some rows, on log axes."""
    (*_, first, before), (*_, last, after) = rows[-2:]
    return float(np.log(after / before) / np.log(last / first))


def draw() -> None:
    """Draw the numbers of the last full benchmark."""
    table = pd.read_csv(NUMBERS)
    groups = table.groupby(["title", "size", "unit"], sort=False)
    with look():
        lines = -(-len(groups) // 3)
        sheet = Sheet(lines, 3, size=(6.75, 2.0 * lines))
        panels = sheet.panels.ravel()
        for ax in panels[len(groups) :]:
            ax.set_visible(False)
        for ax, ((title, size, unit), rows) in zip(panels, groups, strict=False):
            sheet.line(ax, title, size, rows["value"], rows["cost"], marker="o", markersize=3)
            end = slope(rows[["value", "cost"]].to_records(index=False).tolist())
            ax.set(xscale="log", yscale="log", xlabel=size, ylabel=unit, title=f"{title} (slope {end:.2f})")
            middle = float(np.exp(np.log(rows["cost"]).mean()))
            low, high = ax.get_ylim()
            ax.set_ylim(min(low, middle / 4), max(high, middle * 4))  # a decade at least: what is flat looks flat
            named = list(rows["value"]) if len(rows) < 6 else [1_000, 30_000, 1_000_000]
            ax.set_xticks(named, [f"{value:,}" for value in named])
            ax.xaxis.set_minor_locator(NullLocator())
        told = f"{table['machine'].iloc[0]}, {table['date'].iloc[0]}"
        sheet.figure.suptitle(f"CPU time by size; slope on log axes between the last two ({told})")
        sheet.finish()
        sheet.figure.savefig(PICTURE)


def held(positions: int) -> int:
    """The most MB that a process holds in a few steps of scb at a length."""
    code = (
        "import resource\nfrom tests.benchmarks.scb import milliseconds_per_step\n"
        f"milliseconds_per_step({positions}, 64, 1)\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"
    )
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, env=environment(ROOT), check=True, capture_output=True, text=True).stdout)


def processor() -> str:
    """What the machine calls its processor."""
    found = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", found.read_text(), re.MULTILINE) if found.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
