"""The look of all figures, and the sheet that records every number it draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workflow.lib.runs import Curve

# Okabe and Ito's palette: told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777",
)  # fmt: skip
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
matplotlib.use("agg")
plt.rcParams.update(STYLE)


class Sheet:
    """A figure with its table: what is drawn through the sheet is recorded, so that the CSV is the picture.

    The table has the columns panel, series, x, y, low, high (low and high are the ends of a band).
    """

    def __init__(self, rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any) -> None:
        """Make a grid of panels; `size` in inches, `options` go to `Figure.subplots`."""
        self.figure: Figure = plt.figure(figsize=size)
        self.panels: np.ndarray = self.figure.subplots(rows, columns, squeeze=False, **options)
        self._rows: list[pd.DataFrame] = []

    @property
    def table(self) -> pd.DataFrame:
        """Everything drawn so far."""
        columns = ["panel", "series", "x", "y", "low", "high"]
        return pd.concat(self._rows, ignore_index=True)[columns] if self._rows else pd.DataFrame(columns=columns)

    def record(self, panel: str, series: str, x: object, y: object, low: object = None, high: object = None) -> None:
        """Put numbers into the table; for marks that have no method of their own here."""
        ends = {"low": np.nan if low is None else low, "high": np.nan if high is None else high}
        self._rows.append(pd.DataFrame({"panel": panel, "series": series, "x": x, "y": y, **ends}))

    def line(self, ax: Axes, panel: str, series: str, x: object, y: object, **style: Any) -> None:
        """Draw and record a line."""
        ax.plot(np.asarray(x), np.asarray(y), **style)
        self.record(panel, series, x, y)

    def band(self, ax: Axes, panel: str, series: str, curve: Curve, *, geometric: bool = False, **style: Any) -> None:
        """Draw and record the mean over seeds as a line and the range of all seeds as a band.

        Args:
            ax: the axes.
            panel: name of the panel in the table.
            series: name of the series in the table.
            curve: values of shape (seeds, steps); seeds that recorded nothing at a step are left out there.
            geometric: take the mean of the logarithms, for log axes.
            style: of the line; the band takes its colour.
        """
        values = curve.values[:, ~np.isnan(curve.values).all(axis=0)]
        steps = curve.steps[~np.isnan(curve.values).all(axis=0)]
        if geometric:
            with np.errstate(divide="ignore"):
                middle = np.exp(np.nanmean(np.log(values), axis=0))
        else:
            middle = np.nanmean(values, axis=0)
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        (drawn,) = ax.plot(steps, middle, **style)
        if len(curve.seeds) > 1:
            ax.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
        self.record(panel, series, steps, middle, low, high)

    def heat(self, ax: Axes, panel: str, series: str, matrix: np.ndarray, **style: Any) -> Any:
        """Draw and record a matrix as a heat map: x is the column, y the row, low and high the value."""
        image = ax.imshow(matrix, **{"aspect": "auto", "interpolation": "nearest", **style})
        ax.grid(False)
        rows, columns = np.indices(matrix.shape)
        self.record(panel, series, columns.ravel(), rows.ravel(), matrix.ravel(), matrix.ravel())
        return image


def letter(axes: Sequence[Axes] | np.ndarray) -> None:
    """Letter panels (a), (b), ... in front of their titles."""
    for index, ax in enumerate(np.ravel(np.asarray(axes, dtype=object))):
        title = ax.get_title()
        ax.set_title(f"({chr(97 + index)}) {title}".strip(), loc="left", fontsize=STYLE["axes.titlesize"])
        if title:
            ax.set_title("")
