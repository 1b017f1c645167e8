"""Rates: slopes of straight-line fits over fixed windows, because a slope depends on its window.

Growth is judged on successive windows: over one window a logarithm and a small power of t fit equally well; from one
window to the next the growth per fold of t, d||W|| / d ln t, stays for a logarithm and rises like t^a for a power t^a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Curve, Metrics, NotRecordedError

Window = tuple[float, float]

# First and last step of the fits, by optimizer.
NORM: dict[str, Window] = {"gd": (1000, 4000), "ngd": (50, 1000), "polyak": (50, 560)}
ATTENTION: dict[str, Window] = {"gd": (1000, 4000), "ngd": (100, 1000), "polyak": (100, 560)}
LAW: dict[str, Window] = {"gd": (1000, np.inf), "ngd": (100, np.inf), "polyak": (100, np.inf)}
ALIGNMENT: dict[str, Window] = NORM
# Successive windows, each of the same ratio of steps.
GROWTH: dict[str, tuple[Window, Window]] = {
    "gd": ((1000, 2000), (2000, 4000)),
    "ngd": ((50, 224), (224, 1000)),
    "polyak": ((50, 167), (167, 560)),
}
JOINT: tuple[Window, Window] = ((1250, 5000), (5000, 20000))
JOINT_SHORT: tuple[Window, Window] = ((312, 1250), (1250, 5000))


def power(curve: Curve, window: Window) -> np.ndarray:
    """The power of t with which a metric grows: the slope in log-log axes, shape (seeds,)."""
    return curve.slope(*window, log_steps=True, log_values=True)


def exponential(curve: Curve, window: Window) -> np.ndarray:
    """The rate c of exp(c t): the slope of the logarithm on t, shape (seeds,)."""
    return curve.slope(*window, log_values=True)


def per_fold(curve: Curve, window: Window) -> np.ndarray:
    """The growth per e-fold of t: the slope on ln t, shape (seeds,)."""
    return curve.slope(*window, log_steps=True)


def growth_power(curve: Curve, windows: tuple[Window, Window]) -> np.ndarray:
    """The power of t with which the growth per fold itself grows: 0 for a logarithm, a for t^a; shape (seeds,)."""
    early, late = (per_fold(curve, window) for window in windows)
    (a, b), (c, d) = windows
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(late / early) / (np.log(c * d / (a * b)) / 2))


def farthest(values: list[np.ndarray], expected: float) -> np.ndarray:
    """Of several windows' values (seeds,) each, for each seed the one farthest from what is expected."""
    stacked = np.stack(values)
    return np.asarray(stacked[np.abs(stacked - expected).argmax(axis=0), np.arange(stacked.shape[1])])


def straightness(curve: Curve, window: Window) -> np.ndarray:
    """R^2 of the fit of `exponential`, shape (seeds,)."""
    part = curve.window(*window)
    steps, logs = part.steps - part.steps.mean(), np.log(part.values)
    logs = logs - logs.mean(axis=1, keepdims=True)
    return np.asarray((logs @ steps) ** 2 / (steps @ steps) / (logs**2).sum(axis=1))


@dataclass(frozen=True)
class Law:
    """The late law of a rule with the decoder fixed (docs/papers/ib.md, section 7.2), with kappa = ||W_mm||.

    Attributes:
        folds: whether attention elsewhere and the norm change per fold of t (GD) or per step.
        attention: -d ln(1 - p_opt), times kappa^`attention_kappa`.
        norm: d||W||, times kappa^`norm_kappa`.
    """

    folds: bool
    attention: float
    attention_kappa: int
    norm: float
    norm_kappa: int


def law_of(optimizer: Optimizer[Any]) -> Law | None:
    """The law of GD, of NGD with a constant step and of the Polyak step; None for any other rule."""
    values = optimizer.hyperparameters
    if optimizer.rule == "gd":
        return Law(True, 1.0, 0, 1.0, 1)
    if optimizer.rule == "ngd" and not values["decay"]:
        return Law(False, values["lr"], -1, values["lr"], 0)
    if optimizer.rule == "polyak":
        return Law(False, values["lr"] / values["factor"], 0, values["lr"] / values["factor"], 1)
    return None


def relative(metrics: Metrics, experiment: str, optimizer: str, law: Law) -> dict[str, Curve]:
    """Measured over predicted local rates of `attention` and `norm`, from step 10 on."""
    kappa = metrics.value(experiment, "margin_norm")[:, None]
    distraction = metrics.curve(experiment, "distraction", optimizer)
    norm = metrics.curve(experiment, "norm_w", optimizer)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = Curve(distraction.seeds, distraction.steps, -np.log(distraction.values))
    return {
        "attention": _local(logs, law.folds, law.attention * kappa**law.attention_kappa),
        "norm": _local(norm, law.folds, law.norm * kappa**law.norm_kappa),
    }


def _local(curve: Curve, folds: bool, unit: np.ndarray) -> Curve:
    """Difference quotients over a twelfth of a decade, in units of (seeds, 1), at the later step."""
    part = curve.window(min(10, curve.steps[-1] / 2), np.inf)
    if part.steps.size < 2:
        raise NotRecordedError(f"a rate needs two steps; one was recorded from step {part.steps[0]} on")
    apart = min(4, part.steps.size - 1)
    x = np.log(part.steps) if folds else part.steps.astype(float)
    slopes = (part.values[:, apart:] - part.values[:, :-apart]) / (x[apart:] - x[:-apart])
    return Curve(part.seeds, part.steps[apart:], slopes / unit)
