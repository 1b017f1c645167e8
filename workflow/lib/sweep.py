"""The figure of a sweep, of whatever paper: what the runs reach and how soon, against the swept values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look, looks
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import GREY, RED, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()

PANELS = ("objective", "steps")
# An axis is logarithmic from this ratio of its ends on.
WIDE_RATIO = 10


@dataclass(frozen=True)
class Point:
    """One point of a sweep: the swept values, the objective at the end and the steps to the target, per seed.

    `end` is NaN for a seed that diverged, `steps` for one that did not reach the target; both have shape (seeds,).
    """

    values: tuple[Any, ...]
    end: np.ndarray
    steps: np.ndarray


@FIGURES("sweep")
def sweep(metrics: Metrics, *experiments: Experiment) -> Drawing:
    """The points of a sweep: as curves over one value, as heat maps over two."""
    first = experiments[0]
    assert first.sweep is not None, "the plan refuses others"
    series = _series(metrics, experiments)
    drawn = {label: looks(first)[label] for label in first.optimizers if label in series}
    if first.sweep.entry is not None:
        known = looks(first)[first.sweep.points[0]]
        drawn = {first.sweep.entry: Look(first.sweep.entry, known.color, known.dash, known.marker)}
    axes = [_Axis.of(first, key, [p.values[place] for p in next(iter(series.values()))])
            for place, key in enumerate(first.sweep.axes)]  # fmt: skip
    sheet = _curves(first, series, drawn, axes[0]) if len(axes) == 1 else _maps(first, series, axes)
    return Drawing(sheet.figure, sheet.table, _facts(metrics, first, series, axes))


def _series(metrics: Metrics, experiments: Sequence[Experiment]) -> dict[str, list[Point]]:
    """The points by what they belong to: the swept entry, or each optimizer where settings alone are swept."""
    found: dict[str, list[Point]] = {}
    for experiment in experiments:
        assert experiment.sweep is not None, "the plan refuses others"
        for label in experiment.sweep.points or experiment.optimizers:
            if experiment.settings.compared(experiment.optimizers[label]):
                values = tuple(experiment.swept(label).values())
                point = Point(values, *reached(metrics, experiment, label))
                found.setdefault(experiment.sweep.entry or label, []).append(point)
    return found


def reached(metrics: Metrics, experiment: Experiment, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The objective at the end of each seed's run, and the first recorded step at which the target is reached.

    Of a metric with several indices the worst counts. A seed that diverged reaches nothing after that.

    Returns:
        Twice shape (seeds,); NaN at the end for a seed that diverged, and in the steps for one that did not get there.
    """
    assert experiment.objective is not None, "sweeps have one"
    goal, metric = experiment.goal, experiment.objective.value
    indices = metrics.indices(experiment.name, metric, label)
    if not indices:
        raise NotRecordedError(f"{metric} was not recorded for {label} in {experiment.name}")
    curves = [metrics.curve(experiment.name, metric, label, index) for index in indices]
    if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
        raise NotRecordedError(
            f"{metric} of {label} in {experiment.name} was not recorded at the same steps throughout"
        )
    stack = np.stack([curve.values for curve in curves])
    worst = stack.max(axis=0) if goal.above is None else stack.min(axis=0)
    there = worst < goal.number if goal.above is None else worst > goal.number
    end = worst[:, -1].copy()
    for index in metrics.indices(experiment.name, "diverged_at", label):
        end[~np.isnan(metrics.value(experiment.name, "diverged_at", label, index=index))] = np.nan
    return end, np.where(there.any(axis=1), curves[0].steps[there.argmax(axis=1)], np.nan)


@dataclass(frozen=True)
class _Axis:
    """A swept value's axis: where its points lie, and what it is without the sweep (None where it is nothing)."""

    name: str
    values: tuple[Any, ...]
    shipped: Any
    source: str

    @classmethod
    def of(cls, experiment: Experiment, key: str, values: Sequence[Any]) -> _Axis:
        assert experiment.sweep is not None, "sweeps alone have axes"
        setting = experiment.sweep.shipped.get(key)
        told = (None, "") if setting is None else (setting.value, setting.source)
        return cls(key, tuple(dict.fromkeys(values)), *told)

    @property
    def numeric(self) -> bool:
        return all(type(value) in (int, float) for value in self.values)

    @property
    def log(self) -> bool:
        return self.numeric and min(self.values) > 0 and max(self.values) >= WIDE_RATIO * min(self.values)

    @property
    def mark(self) -> str:
        """What the value without the sweep is called."""
        return "the paper's value" if self.source == "paper" else f"value without the sweep ({self.source})"

    def place(self, value: Any) -> float:
        """Where a value lies among the points, counted from 0; NaN outside."""
        if value in self.values:
            return float(self.values.index(value))
        if not self.numeric or type(value) not in (int, float) or (self.log and value <= 0):
            return float("nan")
        order = np.argsort(self.values)
        scale = np.log if self.log else np.asarray
        at = np.interp(scale(value), scale(np.asarray(self.values, dtype=float)[order]), order, np.nan, np.nan)
        return float(at)

    def ticks(self) -> tuple[list[int], list[str]]:
        """At most eight of the points, by place, with their names."""
        places = list(range(0, len(self.values), -(-len(self.values) // 8)))
        return places, [_told(self.values[place]) for place in places]


def _told(value: Any) -> str:
    return f"{value:.3g}" if type(value) in (int, float) else str(value)


def _curves(first: Experiment, series: dict[str, list[Point]], drawn: dict[str, Look], axis: _Axis) -> Sheet:
    """Both panels against one value: median and range of the seeds."""
    sheet = Sheet(1, 2, size=(WIDE, 2.7))
    lost, failed = [], []
    for label, look in drawn.items():
        points = sorted(series[label], key=lambda point: point.values[0]) if axis.numeric else series[label]
        x = np.array([p.values[0] if axis.numeric else axis.values.index(p.values[0]) for p in points], dtype=float)
        for ax, panel, rows in zip(
            sheet.panels[0], PANELS, ([p.end for p in points], [p.steps for p in points]), strict=True
        ):
            low, middle, high = _spread(rows)
            style = {**look.points, "linestyle": look.dash}
            sheet.points(ax, panel, label, x, middle, low, high, part="median", **style)
        lost += [at for at, p in zip(x, points, strict=True) if np.isnan(p.end).any()]
        failed += [at for at, p in zip(x, points, strict=True) if np.isnan(p.steps).any()]
    for ax, panel in zip(sheet.panels[0], PANELS, strict=True):
        _scales(ax, axis, [row for points in series.values() for p in points for row in (getattr(p, _FIELDS[panel]),)])
    _marks(sheet, first, axis, np.unique(lost), np.unique(failed))
    sheet.letter()
    sheet.legend()
    return sheet


_FIELDS = {"objective": "end", "steps": "steps"}


def _spread(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least, median and largest of each row's numbers; NaN where it has none."""
    known = [row[~np.isnan(row)] for row in rows]
    found = [(row.min(), np.median(row), row.max()) if row.size else (np.nan,) * 3 for row in known]
    low, middle, high = np.array(found, dtype=float).T
    return low, middle, high


def _scales(ax: Axes, axis: _Axis, rows: Sequence[np.ndarray]) -> None:
    if axis.log:
        ax.set_xscale("log")
    if not axis.numeric:
        ax.set_xticks(*axis.ticks())
        ax.set_xlim(-0.5, len(axis.values) - 0.5)
    known = np.concatenate(rows)
    known = known[~np.isnan(known)]
    if known.size and known.min() > 0 and known.max() >= WIDE_RATIO * known.min():
        ax.set_yscale("log")


def _marks(sheet: Sheet, first: Experiment, axis: _Axis, lost: np.ndarray, failed: np.ndarray) -> None:
    """What the points are held against: target, value without the sweep; and where seeds fell short."""
    left, right = sheet.panels[0]
    sheet.level(left, "objective", "target", first.goal.number, label="target")
    crosses = (left, "objective", lost, {"marker": "x", "color": RED, "label": "a seed diverged"})
    hollow = {"marker": "v", "color": GREY, "markerfacecolor": "none", "label": "not reached by every seed"}
    for ax, panel, places, style in (crosses, (right, "steps", failed, hollow)):
        low, high = ax.get_ylim()
        shipped = axis.shipped
        at = shipped if axis.numeric else axis.place(shipped)
        if type(at) in (int, float) and not np.isnan(at) and (at > 0 or not axis.log):
            sheet.moment(ax, panel, axis.mark, at, color="black", linewidth=1, label=axis.mark)
        if places.size:
            tops = np.full(places.shape, high)
            sheet.points(ax, panel, str(style["label"]), places, tops, role="mark", clip_on=False, **style)
        ax.set_ylim(low, high)
        ax.set_xlabel(axis.name)
    left.set(title=f"{_objective(first)} at the end", ylabel=_objective(first))
    right.set(title=f"steps until {_objective(first)} is {_target(first)}", ylabel="steps")


def _objective(experiment: Experiment) -> str:
    assert experiment.objective is not None, "sweeps have one"
    return str(experiment.objective.value).replace("_", " ")


def _target(experiment: Experiment) -> str:
    return f"{'below' if experiment.goal.above is None else 'above'} {experiment.goal.number:g}"


def _maps(first: Experiment, series: dict[str, list[Point]], axes: Sequence[_Axis]) -> Sheet:
    """A row of two heat maps for each series: medians over the seeds, over two values."""
    across, up = axes
    sheet = Sheet(len(series), 2, size=(WIDE, 0.6 + min(2.3 * len(series), 9)))
    for row, (label, points) in enumerate(series.items()):
        cells = {point.values: point for point in points}
        for ax, panel in zip(sheet.panels[row], PANELS, strict=True):
            matrix = np.full((len(up.values), len(across.values)), np.nan)
            flawed = []
            for j, y in enumerate(up.values):
                for i, x in enumerate(across.values):
                    found = getattr(cells[x, y], _FIELDS[panel])
                    matrix[j, i] = np.nan if np.isnan(found).all() else np.nanmedian(found)
                    if np.isnan(found).any():
                        flawed.append((i, j))
            _map(
                sheet, ax, f"{label}, {panel}", label, matrix, axes, "steps" if panel == "steps" else _objective(first)
            )
            what = "a seed diverged" if panel == "objective" else "not reached by every seed"
            if flawed:
                style = {"marker": "x" if panel == "objective" else "v", "color": RED if panel == "objective" else GREY}
                sheet.points(
                    ax, f"{label}, {panel}", what, *np.array(flawed, dtype=float).T, role="mark", label=what, **style
                )
            at = [axis.place(axis.shipped) for axis in axes]
            if not np.isnan(at).any():
                ring = {
                    "color": "black",
                    "markerfacecolor": "none",
                    "markersize": 8,
                    "label": "values without the sweep",
                }
                sheet.points(ax, f"{label}, {panel}", "values without the sweep", [at[0]], [at[1]], role="mark", **ring)
            told = f"{_objective(first)} at the end" if panel == "objective" else f"steps until {_target(first)}"
            ax.set(title=f"{label}: {told}" if len(series) > 1 else told, xlabel=across.name, ylabel=up.name)
    sheet.letter()
    sheet.legend(columns=3)
    return sheet


def _map(sheet: Sheet, ax: Axes, panel: str, label: str, matrix: np.ndarray, axes: Sequence[_Axis], name: str) -> None:
    """One heat map; logarithms where the numbers spread."""
    known = matrix[~np.isnan(matrix)]
    log = bool(known.size) and known.min() > 0 and known.max() >= WIDE_RATIO * known.min()
    image = sheet.heat(ax, panel, label, np.log10(matrix) if log else matrix, cmap="viridis", origin="lower")
    bar = sheet.figure.colorbar(image, ax=ax)
    bar.set_label(f"$\\log_{{10}}$ of {name}" if log else name)
    across, up = axes
    ax.set_xticks(*across.ticks())
    ax.set_yticks(*up.ticks())


def _facts(
    metrics: Metrics, first: Experiment, series: dict[str, list[Point]], axes: Sequence[_Axis]
) -> dict[str, Any]:
    """What the caption tells."""
    assert first.objective is not None, "sweeps have one"
    points = [(label, point) for label, mine in series.items() for point in mine]

    def told(label: str, point: Point) -> str:
        values = ", ".join(f"{axis.name} = {_told(value)}" for axis, value in zip(axes, point.values, strict=True))
        return f"{label}, {values}" if len(series) > 1 else values

    sign = -1 if first.goal.below is not None else 1
    sound = [(label, point) for label, point in points if not np.isnan(point.end).any()]
    best = max(sound, key=lambda found: sign * float(np.median(found[1].end)), default=None)
    soon = [(label, point) for label, point in points if not np.isnan(point.steps).any()]
    soonest = min(soon, key=lambda found: float(np.median(found[1].steps)), default=None)
    labels = (first.sweep.points if first.sweep else ()) or first.optimizers
    compared = next(label for label in labels if first.settings.compared(first.optimizers[label]))
    return {
        "of": first.sweep.of if first.sweep else "",
        "axes": [axis.name for axis in axes],
        "count": len(points),
        "seeds": len(points[0][1].end),
        "objective": _objective(first),
        "objective_where": first.objective.where,
        "target": _target(first),
        "target_source": first.target.source if first.target else "",
        "indices": len(metrics.indices(first.name, first.objective.value, compared)),
        "best": None if best is None else (told(*best), float(np.median(best[1].end))),
        "soonest": None if soonest is None else (told(*soonest), float(np.median(soonest[1].steps))),
        "alike": 0 if best is None else sum(_alike(point, best[1]) for _, point in sound) - 1,
        "edge": best is not None and _at_edge(best[1], axes),
        "diverged": [
            f"{told(*found)}: {int(np.isnan(found[1].end).sum())} of {found[1].end.size}"
            for found in points
            if np.isnan(found[1].end).any()
        ],
        "missed": sum(bool(np.isnan(point.steps).all()) for _, point in points),
        "shipped": [
            f"{axis.name} = {_told(axis.shipped)} ({axis.source})" for axis in axes if axis.shipped is not None
        ],
    }


def _alike(point: Point, best: Point) -> bool:
    """Whether the medians at the end are the same to three digits."""
    return bool(np.isclose(np.median(point.end), np.median(best.end), rtol=1e-3, atol=0))


def _at_edge(point: Point, axes: Sequence[_Axis]) -> bool:
    """Whether a point lies at an end of a range of numbers, so that better ones may lie beyond."""
    pairs = [(axis, value) for axis, value in zip(axes, point.values, strict=True) if axis.numeric]
    return any(len(axis.values) > 1 and value in (min(axis.values), max(axis.values)) for axis, value in pairs)
