"""The runs of one rule on one problem: its learning rate is tuned on some seeds, and judged on others."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workflow.lib import costs, optim, rooms
from workflow.lib.contract import Job, Run
from workflow.lib.files import IDENTITY, Arrays, Identity, readable, write_text
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.race import UNTUNED, Problem, point, tunable
from workflow.lib.plan.sweeps import Target
from workflow.lib.runs import Curve, Metrics
from workflow.lib.sweep import reached, worst


@dataclass(frozen=True)
class Entrant:
    """The runs at one learning rate (NaN for a rule without one), on one set of seeds.

    `end` is the objective at the end, NaN for a seed that diverged; `steps` those until it stays at the target, counted
    from where the runs begin, NaN for a seed that does not get there; both of shape (seeds,). `ran` is how many steps
    they were given, and `seconds` the CPU seconds of training for each seed.
    """

    lr: float
    end: np.ndarray
    steps: np.ndarray
    ran: int
    seconds: float
    curve: tuple[np.ndarray, np.ndarray]

    def rank(self, lowest: bool) -> tuple[float, float, float]:
        """What entrants are sorted by, the best first: the median of steps, the share that got there, the end.

        A seed that did not reach the target counts as one that never will, one that diverged as the worst at the end.
        """
        end = np.where(np.isnan(self.end), math.inf, self.end if lowest else -self.end)
        return middle(self.steps), -float(np.mean(~np.isnan(self.steps))), float(np.median(end))


def middle(steps: np.ndarray) -> float:
    """The median of steps to a target, infinite where half of the seeds or more never get there."""
    return float(np.median(np.where(np.isnan(steps), math.inf, steps)))


@dataclass(frozen=True)
class Pair:
    """What became of a rule on a problem: the entrants of the grid by learning rate, and the judged one.

    `first` is how many of the grid stood there before it was extended; `edge` says that the best one lies at an end
    still.
    """

    grid: tuple[Entrant, ...]
    judged: Entrant
    first: int
    edge: bool


def best(grid: tuple[Entrant, ...], lowest: bool) -> int:
    """The place of the best entrant; of equally good ones the one nearest to the middle of the grid.

    Args:
        grid: by learning rate.
        lowest: whether a low objective is a good one.
    """
    centre = (len(grid) - 1) / 2
    return min(range(len(grid)), key=lambda place: (*grid[place].rank(lowest), abs(place - centre)))


def beyond(grid: tuple[Entrant, ...], lowest: bool) -> int:
    """On which side the grid has to go on: -1 below, 1 above, 0 on none.

    Where no learning rate keeps a single seed from diverging, smaller ones are asked for.
    """
    if all(np.isnan(entrant.end).all() for entrant in grid):
        return -1
    place = best(grid, lowest)
    return -1 if place == 0 else 1 if place == len(grid) - 1 else 0


def more(lrs: tuple[float, ...], side: int, count: int) -> tuple[float, ...]:
    """The next learning rates beyond one end of a log grid, in its ratio, rounded to three digits.

    >>> more((0.01, 0.1, 1.0), -1, 2)
    (0.0001, 0.001)
    """
    ratio = (lrs[-1] / lrs[0]) ** (1 / (len(lrs) - 1))
    start = lrs[0] if side < 0 else lrs[-1]
    return tuple(sorted(float(f"{start * ratio ** (side * step):.3g}") for step in range(1, count + 1)))


def run(problem: Problem, rule: str, hyperparameters: Mapping[str, Setting]) -> Pair:
    """Tune and judge one rule on one problem.

    Raises:
        UserError: the problem cannot carry the rule.
    """
    track = _Track(problem, rule, hyperparameters)
    lrs = problem.lrs if tunable(rule) else (math.nan,)
    grid = track.entrants(lrs)
    extended, side = 0, 0
    lowest = track.lowest
    while len(lrs) > 1 and (side := beyond(grid, lowest)) and extended < problem.protocol.extensions:
        new = more(tuple(entrant.lr for entrant in grid), side, problem.protocol.extension_points)
        grid = tuple(sorted((*grid, *track.entrants(new)), key=lambda entrant: entrant.lr))
        extended += 1
    # Where every run diverged, the smallest learning rate did the least harm.
    place = 0 if all(np.isnan(e.end).all() for e in grid) else best(grid, lowest)
    (judged,) = track.entrants((grid[place].lr,), judging=True)
    return Pair(grid, judged, len(lrs), bool(side))


class _Track:
    """A problem as one rule runs on it; data and the runs that others start from are made once."""

    def __init__(self, problem: Problem, rule: str, hyperparameters: Mapping[str, Setting]) -> None:
        self.problem, self.rule, self.hyperparameters = problem, rule, hyperparameters
        self.room = rooms.room(problem.paper)
        first = self._experiment(problem.lrs[:1], judging=False)
        self.lowest = first.goal.low
        self._data: dict[bool, dict[int, Arrays]] = {}
        self._starts: dict[tuple[bool, str], Run] = {}
        self.train = rooms.train(first)
        self.measure = rooms.measure(first)
        costs.work_begins()

    def _experiment(self, lrs: tuple[float, ...], judging: bool) -> Experiment:
        return self.problem.experiment(self.room, self.rule, self.hyperparameters, lrs, judging)

    def entrants(self, lrs: tuple[float, ...], judging: bool = False) -> tuple[Entrant, ...]:
        """Run some learning rates, all seeds of one together."""
        experiment = self._experiment(lrs, judging)
        if judging not in self._data:
            generate = rooms.generate(experiment)
            seeds = range(experiment.seeds)
            self._data[judging] = {number: generate(experiment, experiment.seed(number)) for number in seeds}
        data = self._data[judging]
        runs: dict[str, Run] = {}
        seconds = {}
        labels = {lr: UNTUNED if math.isnan(lr) else point(lr) for lr in lrs}
        for label in [*self.problem.section["optimizers"], *labels.values()]:
            entry = experiment.optimizers[label]
            start = None
            if entry.start_from is not None:
                start = runs[entry.start_from].parameters
            kept = (judging, label)
            if kept not in self._starts:
                optim.begin(entry.rule, experiment.seed(0))
                before = time.process_time()
                made = self.train(experiment, entry, data, Job(start=start))
                seconds[label] = (time.process_time() - before) / experiment.seeds
                if label in self.problem.section["optimizers"]:
                    self._starts[kept] = made
                runs[label] = made
            else:
                runs[label] = self._starts[kept]
        metrics = Metrics({experiment.name: self.measure(experiment, data, runs)})
        return tuple(self._entrant(metrics, experiment, label, lr, seconds[label]) for lr, label in labels.items())

    def _entrant(self, metrics: Metrics, experiment: Experiment, label: str, lr: float, seconds: float) -> Entrant:
        end, _ = reached(metrics, experiment, label)
        begin = _begin(metrics, experiment, label)
        curve = worst(metrics, experiment, label)
        steps = np.where(np.isnan(end), np.nan, settled(curve, experiment.goal))  # what diverges stays nowhere
        after = curve.steps >= begin
        ran = int(curve.steps[-1] - begin) if curve.steps.size else 0
        return Entrant(
            lr, end, np.maximum(steps - begin, 0), ran, seconds, (curve.steps[after] - begin, curve.values[:, after])
        )


def settled(curve: Curve, goal: Target) -> np.ndarray:
    """The first recorded step from which each seed stays at the target to its end, NaN where there is none: (seeds,).

    A step that only passes through the target, as one of a rule that is about to diverge may, does not count.
    """
    stays = np.logical_and.accumulate(goal.met(curve.values)[:, ::-1], axis=1)[:, ::-1]
    if not curve.steps.size:
        return np.full(len(curve.seeds), np.nan)
    return np.where(stays.any(axis=1), curve.steps[stays.argmax(axis=1)], np.nan)


def _begin(metrics: Metrics, experiment: Experiment, label: str) -> int:
    """The step at which an entry's own runs begin: where those end that they start from, if these count as one."""
    start = experiment.optimizers[label].start_from
    if start is None or not experiment.settings.compared(experiment.optimizers[start]):
        return 0
    assert experiment.objective is not None, "problems have one"
    steps = [
        metrics.curve(experiment.name, experiment.objective.value, start, index).steps[-1]
        for index in metrics.indices(experiment.name, experiment.objective.value, start)
    ]
    return int(max(steps, default=0))


def write(path: Path, pair: Pair, what: Identity) -> None:
    """Write a pair as JSON, whole or not at all; numbers that a run does not have are null."""
    told = {
        IDENTITY: str(what),
        "tried_first": pair.first,
        "edge": pair.edge,
        "judged": _told(pair.judged),
        "grid": [_told(entrant) for entrant in pair.grid],
    }
    write_text(path, json.dumps(told, allow_nan=False) + "\n")


def read(path: Path, what: Identity) -> Pair:
    """Read what `write` wrote; refuse a file that is not the one asked for."""
    with readable(path):
        told = json.loads(path.read_text(encoding="utf-8"))
        what.check(path, told.get(IDENTITY))
        grid = tuple(_read(entrant) for entrant in told["grid"])
        return Pair(grid, _read(told["judged"]), int(told["tried_first"]), bool(told["edge"]))


def _told(entrant: Entrant) -> dict[str, Any]:
    steps, values = entrant.curve
    return {
        "lr": _nulls(entrant.lr),
        "end": _nulls(entrant.end),
        "steps": _nulls(entrant.steps),
        "ran": entrant.ran,
        "seconds": entrant.seconds,
        "curve": {"steps": steps.tolist(), "values": _nulls(values)},
    }


def _read(told: Mapping[str, Any]) -> Entrant:
    end, steps = (np.array(told[key], dtype=np.float64) for key in ("end", "steps"))
    at = np.array(told["curve"]["steps"], dtype=np.int64)
    values = np.array(told["curve"]["values"], dtype=np.float64).reshape(end.size, at.size)
    lr = math.nan if told["lr"] is None else float(told["lr"])
    return Entrant(lr, end, steps, int(told["ran"]), float(told["seconds"]), (at, values))


def _nulls(numbers: Any) -> Any:
    if isinstance(numbers, np.ndarray):
        return [_nulls(number) for number in numbers.tolist()]
    if isinstance(numbers, list):
        return [_nulls(number) for number in numbers]
    return numbers if math.isfinite(numbers) else None
