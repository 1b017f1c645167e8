"""The figure of a sweep, of whatever paper: what the runs reach and how soon, against the swept values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look, looks
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import GREY, RED, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

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
    shown = looks(first, {label: label for label in first.optimizers})  # a rule's name may stand for several entries
    drawn = {label: shown[label] for label in first.optimizers if label in series}
    if first.sweep.entry is not None:
        drawn = {first.sweep.entry: replace(shown[first.sweep.points[0]], name=first.sweep.entry)}
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
    found = worst(metrics, experiment, label)
    if not found.steps.size:
        nothing = np.full(len(found.seeds), np.nan)
        return nothing, nothing
    there = experiment.goal.met(found.values)
    end = found.final().copy()
    for index in metrics.indices(experiment.name, "diverged_at", label):
        end[~np.isnan(metrics.value(experiment.name, "diverged_at", label, index=index))] = np.nan
    return end, np.where(there.any(axis=1), found.steps[there.argmax(axis=1)], np.nan)


def worst(metrics: Metrics, experiment: Experiment, label: str) -> Curve:
    """The objective along each seed's run, of several indices the worst; without steps where all diverged at once.

    Raises:
        NotRecordedError: it was not recorded, or not at the same steps for all indices.
    """
    assert experiment.objective is not None, "sweeps have one"
    metric = experiment.objective.value
    curves = [
        metrics.curve(experiment.name, metric, label, index)
        for index in metrics.indices(experiment.name, metric, label)
    ]
    if not curves:
        lost = [
            metrics.curve(experiment.name, "diverged_at", label, index)
            for index in metrics.indices(experiment.name, "diverged_at", label)
        ]
        if not lost or not np.logical_or.reduce([~np.isnan(curve.final()) for curve in lost]).all():
            raise NotRecordedError(f"{metric} was not recorded for {label} in {experiment.name}")
        return Curve(lost[0].seeds, np.empty(0, np.int64), np.empty((len(lost[0].seeds), 0)))
    if any(not np.array_equal(curve.steps, curves[0].steps) for curve in curves):
        raise NotRecordedError(
            f"{metric} of {label} in {experiment.name} was not recorded at the same steps throughout"
        )
    stack = np.stack([curve.values for curve in curves])
    values = stack.max(axis=0) if experiment.goal.low else stack.min(axis=0)
    return Curve(curves[0].seeds, curves[0].steps, values)


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

    @property
    def marked(self) -> float | None:
        """Where a curve's axis marks the value without the sweep: as far as the points reach."""
        place = self.place(self.shipped)
        if np.isnan(place):
            return None
        return float(self.shipped) if self.numeric else place

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
    """Both panels against one value: median and range of the seeds, and marks where seeds fell short."""
    sheet = Sheet(1, 2, size=(WIDE, 2.7))
    left, right = sheet.panels[0]
    at = {label: _order(points, axis) for label, points in series.items()}
    for ax, panel in zip((left, right), PANELS, strict=True):
        for label, look in drawn.items():
            places, points = at[label]
            low, middle, high = _spread([getattr(point, _FIELDS[panel]) for point in points])
            style = {**look.points, "linestyle": look.dash}
            sheet.points(ax, panel, label, places, middle, low, high, part="median", **style)
        _scales(ax, axis, [getattr(point, _FIELDS[panel]) for points in series.values() for point in points])
        ax.set_xlabel(axis.name)
    sheet.level(left, "objective", "target", first.goal.number, label="target")
    for ax, panel in zip((left, right), PANELS, strict=True):
        ends = ax.get_ylim()
        if axis.marked is not None:
            sheet.moment(ax, panel, axis.mark, axis.marked, color="black", linewidth=1, label=axis.mark)
        for row, (label, look) in enumerate(drawn.items()):
            places, points = at[label]
            short = places[[bool(np.isnan(getattr(point, _FIELDS[panel])).any()) for point in points]]
            if short.size:
                # Along the upper edge, a row for each optimizer, in its colour where there are several.
                height = ax.transData.inverted().transform(ax.transAxes.transform((0, 0.96 - 0.06 * row)))[1]
                style = {**_SHORT[panel], **({"color": look.color} if len(drawn) > 1 else {})}
                y = np.full(short.shape, height)
                sheet.points(ax, panel, label, short, y, part=style["label"], role="mark", clip_on=False, **style)
        ax.set_ylim(ends)
    left.set(title=f"{_objective(first)} at the end", ylabel=_objective(first))
    right.set(title=f"steps until {_objective(first)} is {_target(first)}", ylabel="steps")
    sheet.letter()
    sheet.legend()
    return sheet


_FIELDS = {"objective": "end", "steps": "steps"}
_SHORT: dict[str, dict[str, Any]] = {
    "objective": {"marker": "x", "color": RED, "label": "a seed diverged"},
    "steps": {"marker": "v", "color": GREY, "markerfacecolor": "none", "label": "not reached by every seed"},
}


def _order(points: Sequence[Point], axis: _Axis) -> tuple[np.ndarray, list[Point]]:
    """Where points lie along the axis, and the points in this order."""
    if not axis.numeric:
        return np.array([axis.values.index(point.values[0]) for point in points], dtype=float), list(points)
    ordered = sorted(points, key=lambda point: float(point.values[0]))
    return np.array([point.values[0] for point in ordered], dtype=float), ordered


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
    elif len(axis.values) > 1:
        ends = np.array([min(axis.values), max(axis.values)], dtype=float)
        ratio, width = ends[1] / ends[0] if axis.log else 1, ends[1] - ends[0]
        pad = ends * ratio ** np.array([-0.05, 0.05]) if axis.log else ends + width * np.array([-0.05, 0.05])
        ax.set_xlim(*pad)
    known = np.concatenate(rows)
    known = known[~np.isnan(known)]
    if not known.size:
        ax.set(yticks=[], ylim=(0, 1))
    elif known.min() > 0 and known.max() >= WIDE_RATIO * known.min():
        ax.set_yscale("log")


def _objective(experiment: Experiment) -> str:
    assert experiment.objective is not None, "sweeps have one"
    return str(experiment.objective.value).replace("_", " ")


def _target(experiment: Experiment) -> str:
    return f"{'below' if experiment.goal.low else 'above'} {experiment.goal.number:g}"


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
            name = "steps" if panel == "steps" else _objective(first)
            called = _map(sheet, ax, panel, label, matrix, axes, name)
            if flawed:
                style = {**_SHORT[panel], "markerfacecolor": GREY}
                sheet.points(
                    ax,
                    f"{label}, {panel}",
                    label,
                    *np.array(flawed, dtype=float).T,
                    part=style["label"],
                    role="mark",
                    **style,
                )
            at = [axis.place(axis.shipped) for axis in axes]
            if not np.isnan(at).any():
                ring = {
                    "color": "black",
                    "markerfacecolor": "none",
                    "markersize": 8,
                    "label": "values without the sweep",
                }
                sheet.points(ax, called, "values without the sweep", [at[0]], [at[1]], role="mark", **ring)
            told = f"{_objective(first)} at the end" if panel == "objective" else f"steps until {_target(first)}"
            told += " (log10)" if "log10" in called else ""
            ax.set(title=f"{label}: {told}" if len(series) > 1 else told, xlabel=across.name, ylabel=up.name)
    sheet.letter()
    sheet.legend(columns=3)
    return sheet


def _map(sheet: Sheet, ax: Axes, panel: str, label: str, matrix: np.ndarray, axes: Sequence[_Axis], name: str) -> str:
    """One heat map; logarithms where the numbers spread. Returns what its panel is called in the table."""
    known = matrix[~np.isnan(matrix)]
    log = bool(known.size) and known.min() > 0 and known.max() >= WIDE_RATIO * known.min()
    shown = np.log10(matrix) if log else matrix
    called = f"{label}, log10 of {panel}" if log else f"{label}, {panel}"
    # Where nothing or one number is there, a scale has no ends of its own.
    low, high = (np.nanmin(shown), np.nanmax(shown)) if known.size else (0.0, 1.0)
    low, high = (low, high) if low < high else (low - 0.5, low + 0.5)
    image = sheet.heat(ax, called, label, shown, cmap="viridis", origin="lower", vmin=low, vmax=high)
    bar = sheet.figure.colorbar(image, ax=ax)
    bar.set_label(f"$\\log_{{10}}$ of {name}" if log else name)
    across, up = axes
    ax.set_xticks(*across.ticks())
    ax.set_yticks(*up.ticks())
    return called


def _facts(
    metrics: Metrics, first: Experiment, series: dict[str, list[Point]], axes: Sequence[_Axis]
) -> dict[str, Any]:
    """What the caption tells."""
    assert first.objective is not None, "sweeps have one"
    points = [(label, point) for label, mine in series.items() for point in mine]

    def told(label: str, point: Point) -> str:
        values = ", ".join(f"{axis.name} = {_told(value)}" for axis, value in zip(axes, point.values, strict=True))
        return f"{label}, {values}" if len(series) > 1 else values

    sign = -1 if first.goal.low else 1
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
        "unswept": [
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
