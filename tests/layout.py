"""What a reader of a printed figure would stumble over, measured on the figure as matplotlib lays it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from workflow.lib.plotting import MEDIUM, NARROW, WIDE

SMALLEST = 7.0  # points, at print size
TALLEST = 1.5  # times the width
THICKNESS = 2.0  # pixels at 100 dpi: what leaves the frame by less does so by its own thickness
NEAR = 12.0  # pixels: a mark that is farther from the end of a curve does not mark it


class _Shown(NamedTuple):
    """A text that is drawn, and the axes that it stands in (None beside them)."""

    text: Text
    within: Axes | None
    box: Bbox

    def __str__(self) -> str:
        return repr(self.text.get_text())


def faults(figure: Figure) -> list[str]:
    """What is wrong with a finished figure: its size, its type, texts cut off or on one another, curves cut off."""
    figure.draw_without_rendering()
    texts = [_Shown(text, within, text.get_window_extent()) for text, within in _texts(figure)]
    return [*_size(figure), *_type(texts), *_cut(figure, texts), *_overlaps(texts), *_crossed(texts), *_left(figure)]


def _size(figure: Figure) -> Iterator[str]:
    width, height = figure.get_size_inches()
    if width not in (NARROW, MEDIUM, WIDE):
        yield f"it is {width:g} in wide, not {NARROW:g}, {MEDIUM:g} or {WIDE:g}"
    if height > TALLEST * width:
        yield f"it is {height:g} in high, more than {TALLEST:g} times its width"


def _type(texts: list[_Shown]) -> Iterator[str]:
    for shown in texts:
        if shown.text.get_fontsize() < SMALLEST:
            yield f"{shown} is set in {shown.text.get_fontsize():g} points"


def _cut(figure: Figure, texts: list[_Shown]) -> Iterator[str]:
    for shown in texts:
        clipped = shown.text.get_clip_on() and shown.text.get_clip_path() is not None
        frame = shown.within.bbox if shown.within is not None and clipped else figure.bbox
        if not _contains(frame, shown.box):
            yield f"{shown} is cut off"


def _overlaps(texts: list[_Shown]) -> Iterator[str]:
    boxes = [_ink(shown.box) for shown in texts]
    low = np.array([box.min for box in boxes]).reshape(-1, 2)
    high = np.array([box.max for box in boxes]).reshape(-1, 2)
    for i, j in np.argwhere(np.triu((low[:, None] <= high).all(-1) & (low <= high[:, None]).all(-1), 1)):
        yield f"{texts[i]} and {texts[j]} lie on one another"


def _crossed(texts: list[_Shown]) -> Iterator[str]:
    """Texts in a panel with a curve through them, unless they have a ground of their own."""
    for shown in texts:
        if shown.within is None or shown.text.get_bbox_patch() is not None:
            continue
        siblings = [ax for ax in shown.within.figure.axes if ax.bbox.bounds == shown.within.bbox.bounds]
        for line in (line for ax in siblings for line in _curves(ax)):
            path = line.get_transform().transform_path(line.get_path())
            if line.get_linestyle() != "None" and _known(path).intersects_bbox(_ink(shown.box), filled=False):
                yield f"a curve runs through {shown}"
                break


def _left(figure: Figure) -> Iterator[str]:
    """Curves and bands that leave their frame with no mark where they do."""
    for ax in figure.axes:
        frame = ax.bbox.padded(THICKNESS)
        name = ax.get_title(loc="left") or ax.get_title() or "a panel"
        marks = _marks(ax)
        for line in _curves(ax):
            if not line.get_clip_on():
                continue
            places = _places(line)
            inside = np.array([frame.contains(*place) for place in places], dtype=bool)
            for last in np.flatnonzero(inside[:-1] & ~inside[1:]):
                near = [mark for mark, color in marks if color == to_hex(line.get_color())
                        and np.hypot(*(mark - places[last])) < NEAR]  # fmt: skip
                if not near:
                    yield f"{name}: a curve leaves the frame unmarked"
                    break
            else:
                if len(places) and not inside[0]:
                    yield f"{name}: a curve begins outside the frame"
        for band in (found for found in ax.collections if isinstance(found, PolyCollection) and found.get_clip_on()):
            outlines = [band.get_transform().transform_path(path) for path in band.get_paths()]
            if any(not _contains(frame, path.get_extents()) for path in outlines if len(path.vertices)):
                yield f"{name}: a band leaves the frame"


def _marks(ax: Axes) -> list[tuple[np.ndarray, str]]:
    """Places of marks without a line, in pixels, with their colours."""
    lone = [
        line for line in _curves(ax) if line.get_linestyle() == "None" and line.get_marker() not in ("None", "", None)
    ]
    return [(place, to_hex(line.get_color())) for line in lone for place in _places(line)]


def _curves(ax: Axes) -> list[Line2D]:
    """Lines whose numbers are the panel's, not shares of the panel as those of levels."""
    return [line for line in ax.lines if line.get_visible() and line.get_transform() == ax.transData]


def _places(line: Line2D) -> np.ndarray:
    """The places of a line's numbers in pixels, shape (numbers, 2); what has no place on a log axis lies far below."""
    places = np.asarray(line.get_transform().transform(np.asarray(line.get_xydata(), dtype=np.float64)))
    numbers = ~np.isnan(np.asarray(line.get_xydata(), dtype=np.float64)).any(axis=1)
    return np.asarray(np.nan_to_num(places, nan=-1e9, neginf=-1e9, posinf=1e9)[numbers])


def _known(path: Path) -> Path:
    return path.cleaned(remove_nans=True)


def _texts(figure: Figure) -> Iterator[tuple[Text, Axes | None]]:
    """Every text that is drawn, with the axes that it stands in."""
    loose: list[tuple[Text, Axes | None]] = [(text, None) for text in figure.texts]
    for legend in figure.legends:
        loose += [(text, None) for text in (*legend.get_texts(), legend.get_title())]
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        loose += [(ax.title, None), *((title, None) for title in (ax._left_title, ax._right_title))]  # type: ignore[attr-defined]
        loose += [(text, ax) for text in ax.texts]
        legend = ax.get_legend()
        if legend is not None:
            framed = legend.get_frame_on()
            inside = ax if not framed and _contains(ax.bbox, legend.get_window_extent()) else None
            loose += [(text, inside) for text in (*legend.get_texts(), legend.get_title())]
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            loose += [(axis.label, None), (axis.get_offset_text(), None)]
            along = 0 if axis is ax.xaxis else 1
            low, high = sorted(ax.bbox.get_points()[:, along])
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                place = ax.transData.transform([tick.get_loc()] * 2)[along]
                if tick.get_visible() and low - 0.5 <= place <= high + 0.5:
                    loose += [(tick.label1, None), (tick.label2, None)]
    yield from ((text, ax) for text, ax in loose if text.get_visible() and text.get_text().strip())


def _contains(frame: Bbox, box: Bbox) -> bool:
    return bool(frame.x0 - 1 <= box.x0 and frame.y0 - 1 <= box.y0 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1)


def _ink(box: Bbox) -> Bbox:
    """About the ink of a text: its box has room for letters that reach higher and lower than its own."""
    return Bbox.from_extents(box.x0 + 0.5, box.y0 + 0.15 * box.height, box.x1 - 0.5, box.y1 - 0.15 * box.height)
