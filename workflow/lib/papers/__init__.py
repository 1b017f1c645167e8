"""The rooms: one folder per paper, found by name. No rule and no stage names a paper.

A room `workflow/lib/papers/<paper>/` holds

    settings.py   KINDS: kind -> Settings class            what an experiment may set; imports nothing heavy
    data.py       generate(experiment, seed) -> arrays     the data of one seed
    training.py   train(experiment, optimizer, data, job) -> Run    the runs of one optimizer on a block of seeds
    metrics.py    measure(experiment, data, runs) -> {optimizer: Trace}    targets, alignments, rates
    figures.py    FIGURES: name -> draw(metrics, experiments) -> Drawing
    claims.py     CLAIMS: id -> measured(metrics, experiments) -> number, or one per seed

with the types below. A paper with several families of experiments keeps data.py, training.py and metrics.py in a
folder per family, named by the `part` of its settings classes. The tests hold every room to this contract.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workflow.lib.experiments import Experiment, Optimizer
from workflow.lib.files import Arrays
from workflow.lib.runs import Metrics, Run, Trace
from workflow.lib.streams import Seed

if TYPE_CHECKING:
    import matplotlib.figure
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Job:
    """Where a training job runs.

    `device` is cpu, cuda or auto; `checkpoint` is a file that a long training may keep its state in, to go on
    after a kill; the stage removes it once the results are written.
    """

    device: str = "cpu"
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, the table of exactly the numbers in it, and facts for the caption's template."""

    figure: matplotlib.figure.Figure
    table: pd.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)


class Generate(Protocol):
    """Make the data of one seed, from the settings alone; arrays by name."""

    def __call__(self, experiment: Experiment, seed: Seed) -> Arrays: ...  # noqa: D102


class Train(Protocol):
    """Run one optimizer on the seeds in `data` (seed -> arrays), vectorised where that is faster."""

    def __call__(self, experiment: Experiment, optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:  # noqa: D102
        ...


class Measure(Protocol):
    """From finished runs (by optimizer label) to everything that figures and claims read."""

    def __call__(  # noqa: D102
        self, experiment: Experiment, data: Mapping[int, Arrays], runs: Mapping[str, Run]
    ) -> Mapping[str, Trace]: ...


Draw = Callable[[Metrics, Mapping[str, Experiment]], Drawing]
Measured = Callable[[Metrics, Mapping[str, Experiment]], "float | np.ndarray"]


def generate(experiment: Experiment) -> Generate:
    """The data function of an experiment's room."""
    return importlib.import_module(f"{experiment.room}.data").generate  # type: ignore[no-any-return]


def train(experiment: Experiment) -> Train:
    """The training function of an experiment's room."""
    return importlib.import_module(f"{experiment.room}.training").train  # type: ignore[no-any-return]


def measure(experiment: Experiment) -> Measure:
    """The metrics function of an experiment's room."""
    return importlib.import_module(f"{experiment.room}.metrics").measure  # type: ignore[no-any-return]


def figures(paper: str) -> Mapping[str, Draw]:
    """The figures of a paper, by name."""
    return importlib.import_module(f"{__name__}.{paper}.figures").FIGURES  # type: ignore[no-any-return]


def claims(paper: str) -> Mapping[str, Measured]:
    """The measured sides of a paper's claims, by id."""
    return importlib.import_module(f"{__name__}.{paper}.claims").CLAIMS  # type: ignore[no-any-return]
