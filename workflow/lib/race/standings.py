"""The table of the race: one row for each rule on each problem, read from what its pairs wrote."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from workflow.lib import identity, rooms
from workflow.lib.files import atomic, readable
from workflow.lib.plan.evidence import Setting
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.race import Problem, Race, tunable
from workflow.lib.race import running
from workflow.lib.race.running import Pair, middle


@dataclass(frozen=True)
class Row:
    """What became of one rule on one problem. Numbers that there are none of are NaN, steps that never end too.

    Attributes:
        problem: its name.
        rule: as the configuration calls it.
        status: `ran`, or `refused` with the reason.
        reason: why it was refused.
        unit: of all steps: steps or epochs.
        steps: until the run stays at the target, median over the judging seeds; one that does not counts as infinite.
        fewest: of the seeds that get there.
        most: of the seeds that get there.
        behind: `steps` over those of the best rule on the problem.
        reached: the share of judging seeds that get there.
        cpu_seconds: of training one seed for as many steps.
        end: median of the objective at the end, over the judging seeds; a seed that diverged makes it worse.
        diverged: the share of judging seeds that diverged.
        lr: the learning rate that was judged: the best of the grid.
        edge: whether that lies at an end of the grid, after all extensions, so that better ones may lie beyond.
        tried: how many learning rates were tried.
        added: how many of them the grid was extended by.
        lowest: learning rate that was tried.
        highest: learning rate that was tried.
        grid_reached: the share of all tuning runs, over the whole grid, that get there.
        grid_diverged: the share of them that diverged.
        grid_best: median of the objective at the end, for the best learning rate by that.
        grid_median: the same, for the middle one.
        grid_worst: the same, for the worst one; empty where a median seed diverged.
        tuning_seeds: how many.
        judging_seeds: how many.
    """

    problem: str
    rule: str
    status: str
    reason: str = ""
    unit: str = ""
    steps: float = math.nan
    fewest: float = math.nan
    most: float = math.nan
    behind: float = math.nan
    reached: float = math.nan
    cpu_seconds: float = math.nan
    end: float = math.nan
    diverged: float = math.nan
    lr: float = math.nan
    edge: bool = False
    tried: int = 0
    added: int = 0
    lowest: float = math.nan
    highest: float = math.nan
    grid_reached: float = math.nan
    grid_diverged: float = math.nan
    grid_best: float = math.nan
    grid_median: float = math.nan
    grid_worst: float = math.nan
    tuning_seeds: int = 0
    judging_seeds: int = 0


COLUMNS = tuple(field.name for field in fields(Row))
RAN, REFUSED = "ran", "refused"


@dataclass(frozen=True)
class Standings:
    """The whole race: its plan, the pairs that ran, and the table's rows by problem and rule."""

    race: Race
    pairs: Mapping[tuple[str, str], Pair]
    rows: Mapping[tuple[str, str], Row]

    def lowest(self, problem: str) -> bool:
        """Whether a low objective of a problem is a good one."""
        return self.race.problem(problem).goal.low

    def column(self, problem: str) -> list[Row]:
        """The rows of a problem, in the order of the rules."""
        return [self.rows[problem, rule] for rule in self.race.rules]


def place(folder: Path, problem: str, rule: str) -> Path:
    """Where a pair's file lies."""
    return folder / problem / f"{rule}.json"


def gather(race: Race, folder: Path) -> Standings:
    """Read all pairs that a race has.

    Args:
        race: its plan.
        folder: holds `<problem>/<rule>.json` of all pairs that were not refused.

    Raises:
        UserError: a file is missing or another one than the plan asks for.
    """
    refused = race.refusals(rooms.room)
    pairs = {
        (name, rule): running.read(place(folder, name, rule), identity.of_pair(race.only(name, rule)))
        for name in race.problems
        for rule in race.rules
        if (name, rule) not in refused
    }
    rows = {}
    for name, problem in race.problems.items():
        lowest = problem.goal.low
        own = {rule: pairs[name, rule] for rule in race.rules if (name, rule) in pairs}
        fastest = min((middle(pair.judged.steps) for pair in own.values()), default=math.inf)
        for rule in race.rules:
            if rule in own:
                rows[name, rule] = _row(problem, rule, own[rule], lowest, fastest)
            else:
                rows[name, rule] = Row(name, rule, REFUSED, refused[name, rule], problem.unit)
    return Standings(race, pairs, rows)


def _row(problem: Problem, rule: str, pair: Pair, lowest: bool, fastest: float) -> Row:
    judged = pair.judged
    steps = middle(judged.steps)
    lrs = [entrant.lr for entrant in pair.grid]
    ends = [_middle_end(entrant.end, lowest) for entrant in pair.grid]
    order = sorted(ends, key=lambda end: (math.isnan(end), end if lowest else -end))
    return Row(
        problem=problem.name,
        rule=rule,
        status=RAN,
        unit=problem.unit,
        steps=steps if math.isfinite(steps) else math.nan,
        fewest=_of(np.min, judged.steps),
        most=_of(np.max, judged.steps),
        # Where the target is met at the first record, which is at the start, nobody was faster than one step.
        behind=max(steps, 1) / max(fastest, 1) if math.isfinite(steps) else math.nan,
        reached=float(np.mean(~np.isnan(judged.steps))),
        cpu_seconds=judged.seconds * steps / judged.ran if math.isfinite(steps) and judged.ran else math.nan,
        end=_middle_end(judged.end, lowest),
        diverged=float(np.mean(np.isnan(judged.end))),
        lr=judged.lr,
        edge=pair.edge,
        tried=len(pair.grid),
        added=len(pair.grid) - pair.first,
        lowest=min(lrs),
        highest=max(lrs),
        grid_reached=float(np.mean([~np.isnan(entrant.steps) for entrant in pair.grid])),
        grid_diverged=float(np.mean([np.isnan(entrant.end) for entrant in pair.grid])),
        grid_best=order[0],
        grid_median=order[(len(order) - 1) // 2],
        grid_worst=order[-1],
        tuning_seeds=pair.grid[0].end.size,
        judging_seeds=judged.end.size,
    )


def _middle_end(end: np.ndarray, lowest: bool) -> float:
    """The median at the end, where a seed that diverged counts as the worst; NaN where the median seed did."""
    bad = math.inf if lowest else -math.inf
    found = float(np.median(np.where(np.isnan(end), bad, end)))
    return found if math.isfinite(found) else math.nan


def _of(what: object, steps: np.ndarray) -> float:
    known = steps[~np.isnan(steps)]
    return float(what(known)) if known.size else math.nan  # type: ignore[operator]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write race.csv, whole or not at all; nothing for NaN."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value != value else value for key, value in asdict(row).items()})


def read(path: Path) -> list[dict[str, str]]:
    """The lines of a race.csv, by column."""
    with readable(path), path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if {*COLUMNS} - {*(reader.fieldnames or ())}:
            raise ValueError("its columns are others than those of a race.csv")
        return list(reader)


def label(rule: str) -> str:
    """What a rule's entry is called where all rules of a problem stand beside each other.

    >>> label("adam"), label("torch.optim.RMSprop")
    ('adam', 'torch_optim_rmsprop')
    """
    return rule.lower().replace(".", "_").lstrip("_")


def tuned(standings: Standings, problem: str) -> Experiment:
    """A problem with every rule that ran on it at the learning rate that it was judged at."""
    race = standings.race
    whole = race.problem(problem)
    entries = {}
    for row in standings.column(problem):
        if row.status == RAN:
            where = f"the best of {row.tried}, from {row.lowest:g} to {row.highest:g}, on the tuning seeds"
            lr = {"lr": Setting(value=row.lr, source="choice", where=where)} if tunable(row.rule) else {}
            own = {**lr, **race.rule(row.rule), **whole.entry}
            entries[label(row.rule)] = {"rule": row.rule, **{key: value.model_dump() for key, value in own.items()}}
    return whole.entered(rooms.room(whole.paper), entries, judging=True)
