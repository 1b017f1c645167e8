"""The pictures of the race: the matrix of all rules and problems, performance profiles, the winners' curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Drawing
from workflow.lib.look import DASHES, RULES, Look
from workflow.lib.plotting import GREY, WIDE, Sheet
from workflow.lib.race.standings import RAN, Row, Standings, label
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve

FIGURES: Registry[Callable[[Standings], Drawing]] = Registry()
TITLES = {
    "matrix": "The race: how far each optimizer is behind the best one, on every problem",
    "profiles": "The race: on how many problems each optimizer is nearly as good as the best one",
    "winners": "The race: the tuned optimizers on every problem",
}
# Colours of the matrix end at this many times the best.
FAR = 100
# An axis is logarithmic from this ratio of its ends on.
WIDE_RATIO = 30


@FIGURES("matrix")
def matrix(standings: Standings) -> Drawing:
    """Steps to the target over the best rule's, and how surely a rule gets there: tuned, and on the whole grid."""
    rules, problems = list(standings.race.rules), list(standings.race.problems)
    height = 0.75 + 0.19 * len(rules)
    sheet = Sheet(3, 1, size=(WIDE, 3 * height + 0.6), sharex=True)
    shown: dict[str, tuple[str, Callable[[Row], float], dict[str, Any]]] = {
        "behind": ("steps until the target over those of the best", lambda row: row.behind, _RATIO),
        "reached": ("tuned: share of the judging seeds that get there", lambda row: row.reached, _SHARE),
        "grid": ("untuned: share of all runs of the grid that get there", lambda row: row.grid_reached, _SHARE),
    }
    for ax, (panel, (title, number, style)) in zip(sheet.panels[:, 0], shown.items(), strict=True):
        rows = [[standings.rows[problem, rule] for problem in problems] for rule in rules]
        values = np.array([[number(row) for row in line] for line in rows])
        drawn = np.log10(values) if panel == "behind" else values
        called, name = (f"log10 of {panel}", f"log10 of {title}") if panel == "behind" else (panel, title)
        image = sheet.heat(ax, called, "race", drawn, role="comparison", name=name, **style)
        _bar(sheet, ax, image, panel)
        marks: dict[str, list[tuple[int, int]]] = {}
        for j, line in enumerate(rows):
            for i, row in enumerate(line):
                told = _mark(row, panel)
                if told:
                    marks.setdefault(told, []).append((i, j))
                if row.status == RAN and math.isfinite(number(row)):
                    place = (drawn[j, i] - image.norm.vmin) / (image.norm.vmax - image.norm.vmin)
                    red, green, blue, _ = image.cmap(place)
                    light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5  # what is read best on this colour
                    style = {"ha": "center", "va": "center", "fontsize": 7, "color": "black" if light else "white"}
                    ax.text(i, j, _short(number(row)), **style)
        for told, places in marks.items():
            sheet.points(ax, called, told, *np.array(places, dtype=float).T, role="mark", **_MARKS[told])
        ax.set_yticks(range(len(rules)), [_look(rule, rules).name for rule in rules])
        ax.set_title(title)
        ax.tick_params(length=0)
    sheet.panels[-1, 0].set_xticks(range(len(problems)), problems, rotation=90)
    sheet.letter(sheet.panels[:, 0])
    sheet.legend(columns=4)
    return sheet.drawing(facts(standings))


_RATIO = {"cmap": "viridis_r", "vmin": 0.0, "vmax": math.log10(FAR)}
_SHARE = {"cmap": "viridis", "vmin": 0.0, "vmax": 1.0}
_MARKS: dict[str, dict[str, Any]] = {
    "refused": {"marker": "x", "color": GREY, "label": "refused"},
    "never": {"marker": "_", "color": GREY, "label": "not reached by half of the seeds"},
}


def _mark(row: Row, panel: str) -> str:
    if row.status != RAN:
        return "refused"
    return "never" if panel == "behind" and math.isnan(row.behind) else ""


def _bar(sheet: Sheet, ax: Axes, image: Any, panel: str) -> None:
    bar = sheet.figure.colorbar(image, ax=ax, pad=0.01)
    if panel == "behind":
        bar.set_ticks([0, 1, 2], labels=["1", "10", f"≥ {FAR}"])
    else:
        bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])


def _short(value: float) -> str:
    """A number in a cell: three digits at most.

    >>> _short(1.0), _short(1.26), _short(37.4), _short(1234.0)
    ('1', '1.3', '37', '1e3')
    """
    if value >= 1000:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")


@FIGURES("profiles")
def profiles(standings: Standings) -> Drawing:
    """Performance profiles of Dolan and More (2002): the share of problems within a factor of the best."""
    rules, problems = list(standings.race.rules), list(standings.race.problems)
    sheet = Sheet(1, 2, size=(WIDE, 2.9), sharey=True)
    shown: Sequence[tuple[str, str, Callable[[Row], float]]] = (
        ("steps", "steps to the target", lambda row: max(row.steps, 1)),
        ("seconds", "CPU seconds to the target", lambda row: row.cpu_seconds),
    )
    for ax, (panel, title, cost) in zip(sheet.panels[0], shown, strict=True):
        costs = np.array([[cost(standings.rows[p, rule]) for p in problems] for rule in rules])
        costs[np.isnan([[standings.rows[p, rule].behind for p in problems] for rule in rules])] = np.inf
        found = ratios(costs)
        known = found[np.isfinite(found)]
        last = max(10.0, 1.3 * float(known.max())) if known.size else 10.0
        for rule, own in zip(rules, found, strict=True):
            x, y = profile(own, last)
            look = _look(rule, rules)
            sheet.line(ax, panel, label(rule), x, y, alpha=0.9, **look.line)
        ax.set(xscale="log", xlim=(0.95, last), ylim=(-0.03, 1.03), title=title, xlabel="factor of the best")
    sheet.panels[0, 0].set_ylabel("share of the problems")
    sheet.letter()
    sheet.legend(columns=5)
    return sheet.drawing(facts(standings))


def ratios(costs: np.ndarray) -> np.ndarray:
    """Costs (rules, problems) over the least one of each problem; infinite where a rule does not solve it.

    >>> ratios(np.array([[1.0, np.inf], [3.0, np.inf]])).tolist()
    [[1.0, inf], [3.0, inf]]
    """
    least = costs.min(axis=0)
    return np.where(np.isfinite(costs), costs / np.where(np.isfinite(least) & (least > 0), least, 1.0), np.inf)


def profile(own: np.ndarray, last: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of problems within each factor of the best, from 1 to the last factor, as the corners of a stair.

    >>> x, y = profile(np.array([1.0, 4.0, np.inf, 1.0]), 10.0)
    >>> x.tolist(), y.tolist()
    ([1.0, 4.0, 4.0, 10.0], [0.5, 0.5, 0.75, 0.75])
    """
    solved = np.sort(own[np.isfinite(own)])
    at = np.unique(np.concatenate([[1.0], solved]))
    share = np.searchsorted(solved, at, side="right") / own.size
    return np.append(np.repeat(at, 2)[1:], last), np.repeat(share, 2)


@FIGURES("winners")
def winners(standings: Standings) -> Drawing:
    """The objective of each tuned rule along its runs on the judging seeds, a panel for each problem."""
    rules, problems = list(standings.race.rules), list(standings.race.problems)
    columns = min(3, len(problems))
    rows = -(-len(problems) // columns)
    sheet = Sheet(rows, columns, size=(WIDE, 0.7 + 1.75 * rows))
    for ax, name in zip(sheet.panels.ravel(), problems, strict=False):
        problem = standings.race.problem(name)
        known = []
        for rule in rules:
            pair = standings.pairs.get((name, rule))
            if pair is None or not pair.judged.curve[0].size:
                continue
            steps, values = pair.judged.curve
            sheet.band(ax, name, label(rule), Curve(tuple(range(len(values))), steps, values), middle="median",
                       **_look(rule, rules).line)  # fmt: skip
            known.append(values[np.isfinite(values)])
        target = problem.goal.number
        sheet.level(ax, name, "target", target, label="target")
        _scales(ax, np.concatenate([*known, [target]]), standings.lowest(name))
        ax.set_title(name)
        ax.set_xlabel(problem.unit)
        ax.set_ylabel(str(problem.section["objective"]["value"]).replace("_", " "))
    for ax in sheet.panels.ravel()[len(problems) :]:
        ax.remove()
    sheet.letter()
    sheet.legend(columns=5)
    return sheet.drawing(facts(standings))


def _scales(ax: Axes, known: np.ndarray, lowest: bool) -> None:
    """Steps on a log axis that has a 0, and an objective that falls far on a log axis, from above nothing to 1e-8."""
    ax.set_xscale("symlog", linthresh=1)
    last = ax.get_xlim()[1]
    powers = [10**power for power in range(0, 1 + math.floor(math.log10(max(last, 1))))]
    ax.set_xticks([0, *powers], ["0", *map(str, powers)])
    ax.set_xticks([], minor=True)
    ax.set_xlim(0, last)
    if lowest:
        positive = known[known > 0]
        if positive.size and positive.max() >= WIDE_RATIO * positive.min():
            ax.set_yscale("log")
            # What lies below says nothing more about the race.
            ax.set_ylim(max(0.5 * positive.min(), 1e-8 * positive.max()), 3 * positive.max())


def _look(rule: str, rules: Sequence[str]) -> Look:
    """A registered rule's look; any other one's by its place among those."""
    if rule in RULES:
        return RULES[rule]
    others = [other for other in rules if other not in RULES]
    place = others.index(rule)
    colors, markers = ("#000000", "#999933", "#661100", "#44AA99", "#888888"), "hpd>8"
    dash = DASHES[1 + place % (len(DASHES) - 1)]
    name = rule.rpartition(".")[2]
    taken = [RULES[other].name for other in rules if other in RULES]
    return Look(rule if name in taken else name, colors[place % 5], dash, markers[place % 5])


def facts(standings: Standings) -> dict[str, Any]:
    """What the captions tell."""
    rows = list(standings.rows.values())
    ran = [row for row in rows if row.status == RAN]
    race = standings.race
    wins: dict[str, int] = {}
    for problem in race.problems:
        for row in standings.column(problem):
            if row.behind == 1:
                wins[row.rule] = wins.get(row.rule, 0) + 1
    protocols = [problem.protocol for problem in race.problems.values()]
    told: Mapping[str, Any] = {
        "rules": len(race.rules),
        "problems": [
            f"{p.name}: {p.about} ({str(p.section['objective']['value']).replace('_', ' ')} "
            f"{' '.join(f'{side} {number:g}' for side, number in p.section['target']['value'].items())}, "
            f"steps are {p.unit})"
            for p in race.problems.values()
        ],
        "tuning_seeds": sorted({p.tuning_seeds for p in protocols}),
        "judging_seeds": sorted({p.judging_seeds for p in protocols}),
        "points": sorted({len(p.lrs) for p in race.problems.values()}),
        "extensions": max(p.extensions for p in protocols),
        "wins": [f"{_look(rule, list(race.rules)).name} {count}" for rule, count in
                 sorted(wins.items(), key=lambda item: -item[1])],
        "unsolved": [p for p in race.problems if all(math.isnan(row.behind) for row in standings.column(p))],
        "at_once": [p for p in race.problems if any(row.behind == 1 and row.steps <= 1 for row in standings.column(p))],
        "edges": [
            f"on {p} {', '.join(f'{row.rule} ({row.lr:g})' for row in standings.column(p) if row.edge)}"
            for p in race.problems
            if any(row.edge for row in standings.column(p))
        ],
        "extended": sum(row.added > 0 for row in ran),
        "pairs": len(ran),
        "refused": [f"{row.rule} on {row.problem}: {row.reason}" for row in rows if row.status != RAN],
        "set": [f"{rule}: {', '.join(f'{key} = {setting.value}' for key, setting in values.items())}"
                for rule, values in race.rules.items() if values],
        "diverged": [f"{row.rule} on {row.problem}" for row in ran if row.diverged > 0],
    }  # fmt: skip
    return dict(told)
