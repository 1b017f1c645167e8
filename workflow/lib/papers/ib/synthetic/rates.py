"""Rates: slopes of straight-line fits over fixed windows, because a slope depends on its window."""

from __future__ import annotations

import numpy as np

from workflow.lib.runs import Curve

Window = tuple[float, float]

# First and last step of the fits, by optimizer.
NORM: dict[str, Window] = {"gd": (1000, 4000), "ngd": (50, 1000), "polyak": (50, 560)}
ATTENTION: dict[str, Window] = {"gd": (1000, 4000), "ngd": (100, 1000), "polyak": (100, 560)}
LAW: dict[str, Window] = {"gd": (1000, np.inf), "ngd": (100, np.inf), "polyak": (100, np.inf)}
ALIGNMENT: dict[str, Window] = NORM
JOINT: Window = (300, np.inf)


def power(curve: Curve, window: Window) -> np.ndarray:
    """The power of t with which a metric grows: the slope in log-log axes, shape (seeds,)."""
    return curve.slope(*window, log_steps=True, log_values=True)


def exponential(curve: Curve, window: Window) -> np.ndarray:
    """The rate c of exp(c t): the slope of the logarithm on t, shape (seeds,)."""
    return curve.slope(*window, log_values=True)


def straightness(curve: Curve, window: Window) -> np.ndarray:
    """R^2 of the fit of `exponential`, shape (seeds,)."""
    part = curve.window(*window)
    steps, logs = part.steps - part.steps.mean(), np.log(part.values)
    logs = logs - logs.mean(axis=1, keepdims=True)
    return np.asarray((logs @ steps) ** 2 / (steps @ steps) / (logs**2).sum(axis=1))
