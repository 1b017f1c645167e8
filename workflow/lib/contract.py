"""The contract of a paper's room: what its functions get and what they give.

A room `workflow/lib/papers/<paper>/` holds

    settings.py   KINDS: kind -> settings class, and DRAWINGS: drawing function -> the settings classes of the
                  experiments it draws; imports nothing heavy
    data.py       generate(experiment, seed) -> arrays             the data of one seed
    training.py   train(experiment, optimizer, data, job) -> Run   the runs of one optimizer on a block of seeds
    metrics.py    measure(experiment, data, runs) -> {optimizer: Trace}   targets, alignments, rates
    figures.py    FIGURES: name -> draw(metrics, *experiments) -> Drawing
    claims.py     CLAIMS: id -> measured(metrics, experiments) -> number, or one per seed

with the types below. A paper with several families of experiments keeps data.py, training.py and metrics.py in a
folder per family, named by the `family` of its settings classes. The tests hold every room to this contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workflow.lib.drawn import Table
from workflow.lib.files import Arrays
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Metrics, Trace
from workflow.lib.streams import Seed

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Job:
    """Where a training job runs.

    `device` is cpu, cuda or auto; `checkpoint` is a file that a long training may keep its state in, to go on
    after a kill; the stage removes it once the results are written. `start` holds the final parameters of the runs
    that these go on from (`Optimizer.start_from`), their leading dimension the seeds of the job; None where they start
    on their own. `events` is a folder for what TensorBoard shows while the job runs, None where nobody asked for it.
    """

    device: str = "cpu"
    checkpoint: Path | None = None
    start: Arrays | None = None
    events: Path | None = None


@dataclass
class Run:
    """The runs of one optimizer over some seeds.

    `parameters` holds the final parameters and sparse snapshots by name; the leading dimension of every
    array is the seeds of the trace, in their order.
    """

    trace: Trace
    parameters: Arrays = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs, in the order of every leading dimension."""
        return self.trace.seeds


@dataclass(frozen=True)
class Drawing:
    """A drawn figure, the table of exactly the numbers in it, and facts for the caption's template.

    Of what stands in a figure's place, `template` is the caption's; `diverged` names the runs that did, in words.
    """

    figure: matplotlib.figure.Figure
    table: Table
    facts: Mapping[str, Any] = field(default_factory=dict)
    template: Path | None = None
    diverged: tuple[str, ...] = ()


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


# Drawing functions take the metrics and then the experiments that the figure's YAML names, in its order.
Draw = Callable[..., Drawing]
Measured = Callable[[Metrics, Mapping[str, Any]], "float | np.ndarray"]
