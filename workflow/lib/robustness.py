"""How often claims hold on fresh seeds: whether a band is right for more than the seeds that are drawn.

Not part of the default run. Every experiment of a paper is run again with another stream of random numbers and many
seeds, and each claim that gives one number per seed is judged on all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from workflow.lib import rooms, stages
from workflow.lib.files import atomic
from workflow.lib.judging import ROBUST, inside
from workflow.lib.plan.model import Experiment, Paper, block_seeds
from workflow.lib.runs import NotRecordedError
from workflow.lib.tables import read_metrics

COLUMNS = ("claim", "values", "share", "lowest", "median", "highest", "robust")


def run(name: str, seeds: int, stream: int, experiments: Collection[str], folder: Path) -> Iterator[str]:
    """Run a paper's experiments on fresh seeds, with the files of each stage under a folder; yields what is done.

    Args:
        name: of the paper.
        seeds: how many.
        stream: of random numbers; 0 has the seeds that are drawn by default.
        experiments: those to run; none for all that need no GPU.
        folder: holds the files of all stages, and in the end `robustness.csv`.
    """
    paper = rooms.load_paper(name)
    chosen = experiments or [e.name for e in paper.claimed.values() if not e.settings.needs().gpu]
    changes = {label: {"seeds": seeds, "stream": stream} for label in chosen}
    fresh = rooms.load_paper(name, {"experiments": changes})
    metrics = {}
    for label in chosen:
        yield label
        metrics[label] = _measured(fresh.experiment(label), folder)
    with atomic(folder / "robustness.csv") as temporary:
        shares(fresh, metrics).to_csv(temporary, index=False)


def _measured(experiment: Experiment, folder: Path) -> Path:
    """The metric table of one experiment, after all its stages."""
    blocks = experiment.blocks()
    runs = folder / "runs" / experiment.name
    data = {block: folder / "data" / experiment.name / f"{block}.npz" for block in blocks}
    metrics = folder / "metrics" / f"{experiment.name}.parquet"
    for block, path in data.items():
        stages.generate(experiment, block_seeds(block), path)
        before = {job: experiment.before(labels[0]) for job, labels in experiment.jobs.items()}
        for job in sorted(before, key=lambda job: len(before[job])):
            stem = runs / job / block
            start = [runs / earlier / f"{block}.safetensors" for earlier in before[job][-1:]]
            outputs = stem.with_suffix(".parquet"), stem.with_suffix(".safetensors")
            stages.train(experiment, job, block_seeds(block), path, *outputs, start=start[0] if start else None)
    stages.measure(experiment, list(data.values()), runs, blocks, metrics)
    return metrics


def shares(paper: Paper, tables: dict[str, Path]) -> pd.DataFrame:
    """The share of values inside the band, for every claim with more than one value on these experiments."""
    metrics = read_metrics(tables)
    rows = []
    for claim in paper.claims.values():
        try:
            values = np.atleast_1d(rooms.claims(paper.name)[claim.name](metrics, paper.experiments)).ravel()
        except NotRecordedError:
            continue
        if values.size > 1:
            share = float(inside(values, claim.low, claim.high).mean())
            known = values[~np.isnan(values)] if not np.isnan(values).all() else values
            spread = (known.min(), np.median(known), known.max())
            rows.append((claim.name, values.size, share, *spread, share >= ROBUST))
    return pd.DataFrame(rows, columns=list(COLUMNS))
