"""The look of all figures at print size, and the sheet that records every number it draws.

A sheet knows what is on it: `table` holds the numbers (the CSV), `description` how they are drawn (the JSON), so that
the page can draw them again. Importing this module changes nothing of the user's matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cycler import cycler
from matplotlib import colormaps, colors, rc_context
from matplotlib import style as styles
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogFormatter, LogLocator, NullLocator

from workflow.lib.contract import Drawing
from workflow.lib.drawn import Role, Table
from workflow.lib.look import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, YELLOW, Dash
from workflow.lib.runs import Curve

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PINK", "RED", "SKY", "YELLOW"]  # and what is defined here
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)

# Widths in inches: a column of two, the text of a page with one column, both columns.
NARROW, MEDIUM, WIDE = 3.25, 5.5, 6.75

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.formatter.use_mathtext": True,
    "axes.grid": True,
    "axes.labelpad": 2.5,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.labelsize": 8,
    "figure.titlesize": 8.5,
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.borderaxespad": 0.3,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
}

Kind = Literal["line", "band", "points", "bars", "level", "moment", "heat", "note"]
Middle = Literal["mean", "geometric mean", "median"]


_LOOKING = ContextVar("looking", default=False)


@contextmanager
def look() -> Iterator[None]:
    """The look, whatever the user's matplotlibrc says; for `with`, around drawing and saving."""
    if _LOOKING.get():  # setting hundreds of parameters anew for every line is a tenth of a drawing's time
        yield
        return
    before = _LOOKING.set(True)
    try:
        with styles.context(["default", STYLE]):
            yield
    finally:
        _LOOKING.reset(before)


def shades(count: int) -> list[str]:
    """Colours of what has an order and is no optimizer, such as seeds or sizes, from dark to light."""
    return [colors.to_hex(shade) for shade in colormaps["viridis"](np.linspace(0.0, 0.85, count))]


@dataclass(frozen=True)
class _Entry:
    """One series as it was drawn; `ax` is None where only its numbers were recorded."""

    panel: str
    series: str
    part: str
    role: Role
    kind: Kind
    ax: Axes | None
    label: str = ""
    color: Any = None
    dash: Dash = "-"
    width: float = 0.0
    opacity: float = 1.0
    marker: str = ""
    rows: int = 0
    image: AxesImage | None = None  # of a heat map

    @property
    def strokes(self) -> list[float]:
        """Lengths of dashes and gaps in units of the line's width; empty for a solid line."""
        named = {"--": [3.7, 1.6], "dashed": [3.7, 1.6], ":": [1, 1.65], "dotted": [1, 1.65], "-.": [6.4, 1.6, 1, 1.6]}
        return named.get(self.dash, []) if isinstance(self.dash, str) else [float(stroke) for stroke in self.dash[1]]


class DrawnFigure(Figure):
    """A figure that knows the sheet it was drawn through, and looks like one of ours wherever it is drawn."""

    sheet: Sheet

    def draw(self, renderer: RendererBase) -> None:
        """Draw it, in our look: matplotlib asks its settings for ticks and texts that come up late."""
        with look():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=150)
        return file.getvalue()


class Sheet:
    """A figure with its table: what is drawn through the sheet is recorded, so that the CSV is the picture.

    The methods that draw take the axes, the names of the panel and of the series
    in the table, numbers, and as keywords

    * `part`: which part of the series this is, such as a seed or a feature; empty for the whole;
    * `role`: what the numbers are, `run` unless said otherwise: then the series is an optimizer's label;
    * `name`: what the page calls the series, by default its `label`, or that of its like;
    * whatever else matplotlib takes for the line, its `label` in the legend among them.
    """

    def __init__(self, rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> None:
        """Make a grid of panels; `size` in inches as printed, `options` go to `Figure.subplots`."""
        with look():
            self.figure = DrawnFigure(figsize=size)
            FigureCanvasAgg(self.figure)
            self.panels: np.ndarray = self.figure.subplots(rows, columns, squeeze=False, **options)
        self.figure.sheet = self
        self.table = Table()
        self._entries: list[_Entry] = []

    def record(
        self,
        panel: str,
        series: str,
        x: object,
        y: object,
        low: object = None,
        high: object = None,
        *,
        ax: Axes | None = None,
        kind: Kind = "points",
        part: str = "",
        role: Role = "run",
        name: str = "",
        **style: Any,
    ) -> None:
        """Put numbers into the table, for marks that have no method of their own here.

        Args:
            panel: name of the panel in the table.
            series: name of the series in the table.
            x: places; NaN for a note.
            y: values.
            low: lower ends of bands or bars.
            high: upper ends.
            ax: where they were drawn; by default where other series of the panel were.
            kind: how.
            part: of the series.
            role: of the numbers.
            name: of the series on the page.
            style: `color`, `linestyle`, `linewidth`, `marker` and `label`, as matplotlib names them.
        """
        rows = self.table.add(panel, series, x, y, low, high, part=part, role=role)
        label = name or str(style.get("label") or "")
        self._entries.append(
            _Entry(
                panel,
                series,
                part,
                role,
                kind,
                ax,
                label="" if label.startswith("_") else label,
                color=style.get("color"),
                dash=style.get("linestyle") or "-",
                width=style.get("linewidth") or STYLE["lines.linewidth"],
                opacity=style.get("alpha") or 1.0,
                marker=str(style.get("marker") or ""),
                rows=rows,
                image=style.get("image"),
            )
        )

    def line(self, ax: Axes, panel: str, series: str, x: object, y: object, **style: Any) -> None:
        """Draw and record a line."""
        known, style = _apart(style)
        with look():
            (drawn,) = ax.plot(np.asarray(x), np.asarray(y), **style)
        self.record(panel, series, x, y, ax=ax, kind="line", **known, **{**style, "color": drawn.get_color()})

    def points(
        self, ax: Axes, panel: str, series: str, x: object, y: object, low: object = None, high: object = None,
        **style: Any,
    ) -> None:  # fmt: skip
        """Draw and record points, with bars from low to high where these are given."""
        known, style = _apart({"marker": "o", "linestyle": "none", **style})
        middle = np.asarray(y, dtype=np.float64)
        with look():
            (drawn,) = ax.plot(np.asarray(x), middle, **style)
            if low is not None and high is not None:
                spread = [middle - np.asarray(low), np.asarray(high) - middle]
                ax.errorbar(np.asarray(x), middle, spread, fmt="none", ecolor=drawn.get_color(), elinewidth=0.8)
        self.record(panel, series, x, y, low, high, ax=ax, **known, **{**style, "color": drawn.get_color()})

    def bars(
        self, ax: Axes, panel: str, series: str, x: object, y: object, low: object = None, high: object = None,
        **style: Any,
    ) -> None:  # fmt: skip
        """Draw and record bars of height y, with whiskers from low to high where these are given."""
        known, style = _apart(style)
        middle = np.asarray(y, dtype=np.float64)
        with look():
            if low is not None and high is not None:
                style = {"yerr": [middle - np.asarray(low), np.asarray(high) - middle], "capsize": 2, **style}
            drawn = ax.bar(np.asarray(x), middle, **style)
        color = drawn.patches[0].get_facecolor() if drawn.patches else None
        known |= {key: style.get(key) for key in ("label", "alpha")} | {"color": color}
        self.record(panel, series, x, y, low, high, ax=ax, kind="bars", **known)

    def level(self, ax: Axes, panel: str, series: str, y: float, **style: Any) -> None:
        """Draw and record a horizontal line across the panel, such as a threshold."""
        known, style = _apart({"role": "mark", "color": GREY, "linestyle": ":", "linewidth": 1, **style})
        with look():
            ax.axhline(y, **style)
        self.record(panel, series, [np.nan], [y], ax=ax, kind="level", **known, **style)

    def moment(self, ax: Axes, panel: str, series: str, x: float, **style: Any) -> None:
        """Draw and record a vertical line through the panel, such as the step at which something is changed."""
        known, style = _apart({"role": "mark", "color": GREY, "linestyle": "--", "linewidth": 0.7, **style})
        with look():
            ax.axvline(x, **style)
        self.record(panel, series, [x], [np.nan], ax=ax, kind="moment", **known, **style)

    def lost(self, ax: Axes, panel: str, series: str, x: float, y: float, *, part: str = "", color: Any) -> None:
        """Mark with a cross where a run diverges or leaves the frame."""
        style: dict[str, Any] = {"marker": "x", "markersize": 5, "clip_on": False, "zorder": 5, "color": color}
        self.points(ax, panel, series, [x], [y], part=f"{part}, lost" if part else "lost", role="mark", **style)

    def note(self, ax: Axes, panel: str, name: str, value: float) -> None:
        """Record a number about a panel that is told, not drawn."""
        self.record(panel, name, [np.nan], [value], ax=ax, kind="note", role="note")

    def band(self, ax: Axes, panel: str, series: str, curve: Curve, *, middle: Middle = "mean", **style: Any) -> None:
        """Draw and record the middle of the seeds as a line and their spread as a band.

        Args:
            ax: the axes.
            panel: name of the panel in the table.
            series: name of the series in the table.
            curve: values of shape (seeds, steps); seeds that recorded nothing at a step are left out there.
            middle: the mean, the geometric mean (for log axes), both with the range of all seeds, or the median with
                the central 95 % of the seeds.
            style: of the line; the band takes its colour.
        """
        known, style = _apart({"part": middle, **style})
        recorded = ~np.isnan(curve.values).all(axis=0)
        values, steps = curve.values[:, recorded], curve.steps[recorded]
        found, low, high = _spread(values, middle)
        with look():
            (drawn,) = ax.plot(steps, found, **style)
            if len(curve.seeds) > 1:
                ax.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
        kind: Kind = "band" if len(curve.seeds) > 1 else "line"
        style["color"] = drawn.get_color()
        self.record(panel, series, steps, found, low, high, ax=ax, kind=kind, **known, **style)

    def heat(self, ax: Axes, panel: str, series: str, matrix: np.ndarray, **style: Any) -> Any:
        """Draw and record a matrix as a heat map: x is the column, y the row, low and high the value."""
        known, style = _apart(style)
        with look():
            image = ax.imshow(matrix, **{"aspect": "auto", "interpolation": "nearest", **style})
        ax.grid(False)
        rows, columns = np.indices(matrix.shape)
        flat = matrix.ravel()
        self.record(panel, series, columns.ravel(), rows.ravel(), flat, flat, ax=ax, kind="heat", image=image, **known)
        return image

    def legend(
        self, columns: int | None = None, *samples: Artist, title: str | None = None, only: bool = False
    ) -> Legend | None:
        """One legend above all panels; None where nothing has a name.

        Args:
            columns: at most, by default four; fewer where long names would not fit.
            samples: entries after those of the panels (`sample`).
            title: a line above it.
            only: whether the samples are all there is.
        """
        found: dict[str, Any] = {}
        for ax in () if only else self.figure.axes:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                found.setdefault(label, handle)
        found |= {str(sample.get_label()): sample for sample in samples}
        if not found:
            return None
        for count in range(min(columns or 4, len(found)), 0, -1):
            place: Any = {"loc": "outside upper center", "ncols": count, "title": title}
            with look():
                legend = self.figure.legend(list(found.values()), list(found), **place)
            legend.get_title().set(multialignment="center", color="#444444", fontsize=STYLE["legend.fontsize"])
            if count == 1 or legend.get_window_extent().width <= self.figure.bbox.width:
                break
            legend.remove()
        return legend

    @staticmethod
    def sample(label: str, **style: Any) -> Line2D:
        """A line for legends alone."""
        return Line2D([], [], **{"color": GREY, **style}, label=label)

    def letter(self, axes: Iterable[Axes] | None = None) -> None:
        """Letter panels (a), (b), ... in front of their titles: all of them, unless some are named."""
        shown = [ax for ax in self.panels.ravel() if ax.figure is not None]
        for index, ax in enumerate(shown if axes is None else axes):
            title = ax.get_title() or ax.get_title(loc="left")
            ax.set_title("")
            ax.set_title(f"({chr(97 + index)}) {title}".strip(), loc="left", fontsize=STYLE["axes.titlesize"])

    def drawing(self, facts: Mapping[str, Any] | None = None) -> Drawing:
        """What a room hands back: the figure, its table, and facts for the caption."""
        return Drawing(self.figure, self.table, facts or {})

    def finish(self) -> None:
        """What is the same in every figure: few ticks on log axes."""
        for ax in self.figure.axes:
            for axis in (ax.xaxis, ax.yaxis):
                _sparse(axis)

    def description(self) -> dict[str, Any]:
        """How the numbers of the table are drawn, for JSON: the panels in reading order, and their series.

        A series names its panel and itself as the table does, in whose order they are, and the number of its rows; `at`
        is its place among the panels, None where only its numbers were recorded. Series that share a `name` belong
        together in a legend.
        """
        home = {entry.panel: entry.ax for entry in reversed(self._entries) if entry.ax is not None}
        placed = [(entry, entry.ax if entry.ax is not None else home.get(entry.panel)) for entry in self._entries]
        axes = sorted({ax for _, ax in placed if ax is not None}, key=_place)
        names = _names(self._entries)
        return {
            "size": [float(side) for side in self.figure.get_size_inches()],
            "columns": max((int(p[1]) + 1 for p in map(_place, axes)), default=1),
            "panels": [_panel(ax) for ax in axes],
            "series": [
                {
                    "panel": entry.panel,
                    "series": entry.series,
                    "part": entry.part,
                    "role": entry.role,
                    "rows": entry.rows,
                    "at": None if ax is None else axes.index(ax),
                    "kind": entry.kind,
                    "name": name,
                    "color": None if entry.color is None else colors.to_hex(entry.color),
                    "dash": entry.strokes,
                    "width": float(entry.width),
                    "opacity": float(entry.opacity),
                    "marker": entry.marker,
                    **({} if entry.image is None else {"heat": _heat_colours(entry.image)}),
                }
                for (entry, ax), name in zip(placed, names, strict=True)
            ],
        }


def finished(figure: Figure) -> dict[str, Any]:
    """Finish a figure that a room has drawn, and describe it; nothing to say of one that no sheet knows."""
    if not isinstance(figure, DrawnFigure):
        return {}
    figure.sheet.finish()
    return figure.sheet.description()


@contextmanager
def laid_out(figure: Figure) -> Iterator[None]:
    """Lay a figure out once, by the sizes of texts in a PDF, and keep it so for all files saved within; in `look()`.

    Saving alone lays out for each file, and each time draws all of it once more to throw the drawing away.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        canvas, dpi = figure.canvas, figure.dpi
        FigureCanvasPdf(figure)  # takes the canvas's place
        figure.dpi = 72  # points, the unit of a PDF
        engine.execute(figure)
        figure.dpi = dpi
        figure.set_canvas(canvas)
    with rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
        yield


def _apart(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords that say what is drawn, and those that say how it looks."""
    said = {key: value for key, value in keywords.items() if key in ("part", "role", "name")}
    return said, {key: value for key, value in keywords.items() if key not in said}


def _spread(values: np.ndarray, middle: Middle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The middle of the seeds (first dimension), and the ends of their spread."""
    if not values.size:  # no seed recorded anything: all diverged at the start
        return values[0], values[0], values[0]
    if middle == "median":
        low, found, high = np.nanquantile(values, (0.025, 0.5, 0.975), axis=0)
        return found, low, high
    if middle == "geometric mean":
        with np.errstate(divide="ignore"):
            found = np.exp(np.nanmean(np.log(values), axis=0))
    else:
        found = np.nanmean(values, axis=0)
    return found, np.nanmin(values, axis=0), np.nanmax(values, axis=0)


def _sparse(axis: Axis) -> None:
    """At most five labelled powers on a log axis that spans several, and no ticks between them; within one, numbers."""
    locator = axis.get_major_locator()
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or type(locator) is not LogLocator or low <= 0:
        return
    if high / low > 1e3:
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_minor_locator(NullLocator())
    elif high / low < 10 and low > 1e-3 and high < 1e4:
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter())


def _place(ax: Axes) -> tuple[float, ...]:
    """Row, column and, for axes upon axes, order."""
    spec = ax.get_subplotspec()
    order = ax.figure.axes.index(ax) if ax.figure is not None else 0
    return (spec.rowspan.start, spec.colspan.start, order) if spec is not None else (999, 0, order)


def _panel(ax: Axes) -> dict[str, Any]:
    return {
        "title": ax.get_title() or ax.get_title(loc="left"),
        "x": _axis(ax.xaxis, ax.get_xlim()),
        "y": _axis(ax.yaxis, ax.get_ylim()),
        "schematic": not ax.axison,  # without axes there is nothing to read off
    }


def _axis(axis: Axis, limits: tuple[float, float]) -> dict[str, Any]:
    ticks = None
    if isinstance(axis.get_major_locator(), FixedLocator):
        marks = [float(place) for place in axis.get_majorticklocs()]
        labels = axis.get_major_formatter().format_ticks(marks)
        ticks = [[mark, str(label)] for mark, label in zip(marks, labels, strict=True)]
    scale = axis.get_scale()
    found = {"label": axis.get_label_text(), "scale": scale, "limits": [float(end) for end in limits], "ticks": ticks}
    if scale in ("linear", "log"):
        return found
    # Any other scale as a table of places along the axis, which the page reads between.
    transform = axis.get_transform()
    start, end = (float(place) for place in transform.transform(np.array(limits, dtype=np.float64)))
    places = np.linspace(start, end, 201)
    values = transform.inverted().transform(places)
    known = np.isfinite(values)
    return {**found, "table": [values[known].tolist(), places[known].tolist()]}


def _names(entries: Sequence[_Entry]) -> Iterator[str]:
    """The page's name of every series: its own, else that of its like, in this panel or, by its name, in another."""
    same = {entry.series: entry.label for entry in reversed(entries) if entry.label}
    own = {(entry.series, entry.part): entry.label for entry in reversed(entries) if entry.label}
    like = {(entry.panel, str(entry.color), *dash): entry.label for entry in entries if entry.label
            for dash in ((), (str(entry.dash),))}  # fmt: skip
    for entry in entries:
        found = entry.label or own.get((entry.series, entry.part), "") or same.get(entry.series, "")
        if not found and entry.kind in ("line", "band"):
            key = (entry.panel, str(entry.color))
            found = like.get((*key, str(entry.dash)), like.get(key, ""))
        yield found or entry.series


def _heat_colours(image: AxesImage) -> Mapping[str, Any]:
    """The ends of the scale, nine of its colours, and what is written on the colour bar where there is one."""
    limits = image.get_clim()
    shades = image.get_cmap()(np.linspace(0, 1, 9))
    found = {"low": float(limits[0]), "high": float(limits[1]), "colors": [colors.to_hex(shade) for shade in shades]}
    if image.colorbar is None:
        return found
    bar = image.colorbar.ax
    return {**found, "bar": _axis(bar.yaxis if image.colorbar.orientation == "vertical" else bar.xaxis, limits)}
