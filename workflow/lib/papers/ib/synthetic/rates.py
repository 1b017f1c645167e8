"""Rates: slopes of straight-line fits over fixed windows, because a slope depends on its window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workflow.lib.runs import Curve

Window = tuple[float, float]

# First and last step of the fits, by optimizer.
NORM: dict[str, Window] = {"gd": (1000, 4000), "ngd": (50, 1000), "polyak": (50, 560)}
ATTENTION: dict[str, Window] = {"gd": (1000, 4000), "ngd": (100, 1000), "polyak": (100, 560)}
LAW: dict[str, Window] = {"gd": (1000, np.inf), "ngd": (100, np.inf), "polyak": (100, np.inf)}
ALIGNMENT: dict[str, Window] = {"gd": (1000, 4000), "ngd": (50, 1000), "polyak": (50, 560)}
JOINT: Window = (300, np.inf)


def _same(values: np.ndarray) -> np.ndarray:
    return values


def line(
    curve: Curve,
    window: Window,
    x: Callable[[np.ndarray], np.ndarray] = np.log,
    y: Callable[[np.ndarray], np.ndarray] = np.log,
) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares lines y(values) = slope x(steps) + c inside a window.

    Returns:
        Slopes and coefficients of determination R^2, both of shape (seeds,); NaN for a run that ended before or
        was not finite.
    """
    part = curve.window(*window)
    if part.steps.size < 3:
        nothing = np.full(len(curve.seeds), np.nan)
        return nothing, nothing
    with np.errstate(invalid="ignore", divide="ignore"):
        across, up = x(part.steps.astype(float)), y(part.values)
    across, up = across - across.mean(), up - up.mean(axis=1, keepdims=True)
    slopes = up @ across / (across @ across)
    rest = up - slopes[:, None] * across
    return slopes, 1 - (rest**2).sum(axis=1) / (up**2).sum(axis=1)


def slope_on_steps(curve: Curve, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of log(values) on the steps themselves, and R^2: exponential rates."""
    return line(curve, window, x=_same)


def slope_per_fold(curve: Curve, window: Window) -> np.ndarray:
    """Slopes of the values on log(steps): logarithmic growth."""
    return line(curve, window, y=_same)[0]
