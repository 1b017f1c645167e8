"""From a figure's CSV and its description to what the page's script draws.

The script draws with plotly.js, taken from the plotly package and put into the page. Compared on figure 2 of ntp (six
panels, 5,500 rows, headless Chromium):

                      in the page   read by the browser   six panels drawn   installed
    plotly.js 3         4.8 MB            1.6 s                0.3 s            64 MB
    Vega 6 (Altair)     0.9 MB            0.2 s                1.0 s            94 MB

Panels are drawn when they come into view, so what counts is the time of one; axes and series of plotly switch without
drawing anew. The package carries only the whole of plotly.js, no smaller build; 4.8 MB leave room enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from workflow.lib.look import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from workflow.lib.page import texts
from workflow.lib.page.results import Figure

# A longer series is thinned to about as many points.
MOST = 400
_CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)

Chart = dict[str, Any]


def chart(figure: Figure) -> Chart:
    """What is drawn of a figure: names for the legend, and panels with their axes, series and notes.

    A figure without panels to draw, such as a schematic, has none; `elsewhere` says that the picture shows more.
    """
    rows = figure.rows()
    description = figure.description if "panels" in figure.description else _guessed(rows)
    panels = [
        {
            "title": texts.formulas(panel["title"]),
            "x": _axis(panel["x"]),
            "y": _axis(panel["y"]),
            "series": [],
            "notes": [],
            "schematic": panel["schematic"],
        }
        for panel in description["panels"]
    ]
    names: list[str] = []
    elsewhere = any(panel["schematic"] for panel in panels)
    several = _several(description["series"])
    for series, mine in zip(description["series"], _cut(rows, description["series"]), strict=True):
        if series["at"] is None:
            elsewhere = True
            continue
        panel = panels[series["at"]]
        panel["title"] = panel["title"] or texts.formulas(series["panel"])  # panels move apart on a narrow screen
        numbers = np.array([[float(cell or "nan") for cell in row[3:]] for row in mine]).reshape(-1, 4)
        if not len(numbers):
            continue
        if series["kind"] == "note" or (series["kind"] not in ("level", "moment") and np.isnan(numbers[:, 0]).all()):
            told = ", ".join(texts.number(float(y), 3) for y in numbers[:, 1])
            panel["notes"].append([texts.formulas(series["series"]), told])
            continue
        if series["name"] not in names:
            names.append(series["name"])
        told = texts.formulas(_told(series, series["at"] in several))
        panel["series"].append({**_series(series, numbers, panel), "of": names.index(series["name"]), "told": told})
    drawn = [panel for panel in panels if panel["series"] and not panel["schematic"]]
    legend = [_legend(name, index, drawn) for index, name in enumerate(names)]
    return {
        "columns": min(description["columns"], 3),
        "names": legend,
        "panels": drawn,
        "elsewhere": elsewhere,
        "bands": any(series["kind"] == "band" for panel in drawn for series in panel["series"]),
    }


def _told(series: Mapping[str, Any], of_panel: bool) -> str:
    """What is said of a series where the mouse is: its name, and which part of it this is."""
    words = [series["name"]] if series.get("part", "") in ("", series["name"]) else [series["name"], series["part"]]
    return f"{series['panel']}: {', '.join(words)}" if of_panel else ", ".join(words)


def laid_over(ours: Chart, theirs: Chart, names: tuple[str, str]) -> Chart:
    """Two charts of the same figure on the same axes: the first as it is, the second dashed; what is equal, once."""
    panels = [{**panel, "series": [], "notes": []} for panel in ours["panels"]]
    kept: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for which, (chart, name) in enumerate(((ours, names[0]), (theirs, names[1]))):
        for panel, mine, a, b in zip(panels, chart["panels"], ours["panels"], theirs["panels"], strict=False):
            equal = _drawn(a) & _drawn(b)
            panel["notes"] += [[_of(told, name), number] for told, number in mine["notes"]]
            for series in mine["series"]:
                alike = _key(series) in equal
                if alike and which:
                    continue
                dash = [2, 1.5] if which and series["kind"] in ("line", "band", "level", "moment") else series["dash"]
                told = series["told"] if alike else _of(series["told"], name)
                laid = {**series, "dash": dash, "told": told}
                panel["series"].append(laid)
                kept.setdefault((0 if alike else which + 1, series["of"]), []).append(laid)
    legend: list[dict[str, Any]] = []
    for (which, of), found in sorted(kept.items(), key=lambda entry: (entry[0][1], entry[0][0])):
        entry = (theirs if which == 2 else ours)["names"][of]
        for series in found:
            series["of"] = len(legend)
        text = _of(entry["text"], names[which - 1]) if which else entry["text"]
        legend.append({**entry, "dash": found[0]["dash"], "text": text})
    for panel, mine in zip(panels, theirs["panels"], strict=False):
        for axis in "xy":
            panel[axis] = _wide_enough(panel[axis], mine[axis])
    return {**ours, "names": legend, "panels": panels}


def _key(series: Mapping[str, Any]) -> str:
    return repr([series["told"], *(series.get(part) for part in ("x", "y", "low", "high", "z"))])


def _drawn(panel: Mapping[str, Any]) -> set[str]:
    """What is drawn in a panel."""
    return {_key(series) for series in panel["series"]}


def _of(text: Any, name: str) -> Markup:
    return Markup("{} · {}").format(text, name)


def _wide_enough(axis: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """An axis that shows what two show; one with a scale of its own stays as it is."""
    if axis["scale"] != other["scale"] or "table" in axis or not (axis["limits"] and other["limits"]):
        return axis
    (low, high), ends = axis["limits"], [*axis["limits"], *other["limits"]]
    return {**axis, "limits": [min(ends), max(ends)] if low < high else [max(ends), min(ends)]}


def _axis(axis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "label": texts.formulas(axis["label"]),
        "scale": axis["scale"],
        "limits": axis["limits"],
        "ticks": axis["ticks"] and [[place, texts.formulas(label)] for place, label in axis["ticks"]],
        **({"table": [_rounded(column) for column in axis["table"]]} if "table" in axis else {}),
    }


def _series(series: Mapping[str, Any], numbers: np.ndarray, panel: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: series[key] for key in ("kind", "color", "dash", "width", "marker")}
    if series.get("opacity", 1) < 1:
        found["opacity"] = series["opacity"]
    if series["kind"] == "heat":
        heat = series["heat"]
        bar = {"bar": _axis(heat["bar"])} if "bar" in heat else {}
        return {**found, "heat": {**heat, **bar}, "z": _matrix(numbers)}
    shown = numbers if series["kind"] == "bars" else thinned(numbers, panel["x"]["scale"] == "log")
    x, y, low, high = (_rounded(column) for column in shown.T)
    ends = {"low": low, "high": high} if any(end is not None for end in low) else {}
    return {**found, "x": x, "y": y, **ends, "rows": len(numbers), "shown": len(shown)}


def thinned(numbers: np.ndarray, log_x: bool = False) -> np.ndarray:
    """At most about `MOST` rows of a long series: of each stretch of the axis the first, last, least and largest.

    Args:
        numbers: shape (rows, columns), x in the first column and y in the second.
        log_x: stretches of equal length on a log axis.
    """
    if len(numbers) <= MOST:
        return numbers
    x = numbers[:, 0]
    if log_x and (x > 0).all():
        x = np.log(x)
    if not (np.diff(x) >= 0).all():
        return numbers[:: math.ceil(len(numbers) / MOST)]
    stretch = np.floor((x - x[0]) / max(x[-1] - x[0], 1e-300) * (MOST // 4)).astype(int)
    chosen: set[int] = set()
    for _, group in groupby(range(len(x)), key=lambda row: stretch[row]):
        rows = list(group)
        y = np.nan_to_num(numbers[rows, 1])
        chosen |= {rows[0], rows[-1], rows[int(y.argmin())], rows[int(y.argmax())]}
    return numbers[sorted(chosen)]


def _rounded(column: Any) -> list[float | int | None]:
    """Numbers with six digits, which no screen can tell from all of them; what is not finite is left out."""
    found: list[float | int | None] = []
    for entry in np.asarray(column, dtype=np.float64).tolist():
        if not math.isfinite(entry):
            found.append(None)
        else:
            short = float(f"{entry:.6g}")
            found.append(int(short) if short.is_integer() and abs(short) < 1e9 else short)
    return found


def _matrix(numbers: np.ndarray) -> list[list[float | int | None]]:
    columns, rows = (int(numbers[:, at].max()) + 1 for at in (0, 1))
    matrix = np.full((rows, columns), np.nan)
    matrix[numbers[:, 1].astype(int), numbers[:, 0].astype(int)] = numbers[:, 2]
    return [_rounded(row) for row in matrix]


def _legend(name: str, index: int, panels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A name in the legend with the look of the widest line of that name, one with a colour where there is any."""
    own = [series for panel in panels for series in panel["series"] if series["of"] == index]
    like: Mapping[str, Any] = max(own, key=lambda series: (bool(series["color"]), series["width"]), default={})
    look = {key: like.get(key) for key in ("kind", "color", "dash", "marker")}
    return {"text": texts.formulas(name), **look}


def _several(series: Sequence[Mapping[str, Any]]) -> set[int]:
    """Panels in which one name stands for series of several panels of the table."""
    homes: dict[tuple[int, str], set[str]] = {}
    for entry in series:
        homes.setdefault((entry["at"], entry["name"]), set()).add(entry["panel"])
    return {at for (at, _), found in homes.items() if len(found) > 1}


def _cut(rows: list[list[str]], series: Sequence[Mapping[str, Any]]) -> list[list[list[str]]]:
    """The rows of each series: in the table's order, or by name where somebody changed the table."""
    if sum(entry["rows"] for entry in series) == len(rows):
        ends = np.cumsum([0, *(entry["rows"] for entry in series)])
        cut = [rows[first:last] for first, last in pairwise(ends)]
        if all(row[:3] == _row(entry) for entry, mine in zip(series, cut, strict=True) for row in mine[:1]):
            return cut
    return [[row for row in rows if row[:3] == _row(entry)] for entry in series]


def _row(series: Mapping[str, Any]) -> list[str]:
    """How the rows of a series begin."""
    return [series["panel"], series["series"], series.get("part", "")]


def _guessed(rows: list[list[str]]) -> dict[str, Any]:
    """A description of a table that came without one: a panel for each name, lines in the order of the colours."""
    keys = list(dict.fromkeys((row[0], row[1], row[2]) for row in rows))
    panels = list(dict.fromkeys(panel for panel, *_ in keys))
    names = list(dict.fromkeys(series for _, series, _ in keys))
    axis = {"label": "", "scale": "linear", "limits": None, "ticks": None}
    return {
        "columns": 3,
        "panels": [{"title": panel, "x": axis, "y": axis, "schematic": False} for panel in panels],
        "series": [
            {"panel": panel, "series": name, "part": part, "rows": -1, "at": panels.index(panel), "kind": "line",
             "name": name, "color": _CYCLE[names.index(name) % len(_CYCLE)], "dash": [], "width": 1.2, "marker": ""}
            for panel, name, part in keys
        ],
    }  # fmt: skip
