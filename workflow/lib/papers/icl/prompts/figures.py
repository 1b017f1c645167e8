"""Figures of training on sampled prompts: errors, attention scores, and the trap of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Index, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Prompts]

OTHERS = (RED, GREEN, ORANGE, PINK)  # v_2 to v_5; v_1 is blue
THRESHOLD: dict[str, Any] = {"color": "#444444", "linewidth": 0.8, "linestyle": ":"}


def _curve(metrics: Metrics, experiment: Runs, metric: str, index: Index = "") -> Curve:
    """A metric of the experiment's first optimizer, the one that the figure is about."""
    return metrics.curve(experiment.name, metric, next(iter(experiment.optimizers)), index)


def _per_feature(
    sheet: Sheet, ax: Axes, panel: str, curves: Mapping[int, Curve], first: str, log: bool = False
) -> None:
    """A line and band per feature; v_2 to v_K share a band where they are many.

    Args:
        sheet: draws and records.
        ax: the axes.
        panel: name of the panel in the table.
        curves: number of the feature -> its curve.
        first: label of v_1.
        log: whether the axis, and so the mean, is logarithmic.
    """
    count = len(curves)
    sheet.band(ax, panel, "v1", curves[1], geometric=log, color=BLUE, label=first, zorder=3)
    if count <= 1 + len(OTHERS):
        for k, color in zip(range(2, count + 1), OTHERS, strict=False):
            sheet.band(ax, panel, f"v{k}", curves[k], geometric=log, color=color, label=f"$v_{k}$")
        return
    others = [curves[k] for k in range(2, count + 1)]
    for k, curve in enumerate(others, start=2):
        middle = np.exp(np.log(curve.values).mean(axis=0)) if log else curve.values.mean(axis=0)
        sheet.line(ax, panel, f"v{k}", curve.steps, middle, color=RED, linewidth=0.7, alpha=0.5)
    label = f"$v_2$ to $v_{{{count}}}$ together"
    sheet.band(ax, panel, f"v2 to v{count}", _together(others), geometric=log, color=RED, label=label)


def _together(curves: Sequence[Curve]) -> Curve:
    """Curves over the same steps as one, its rows being the seeds of all."""
    rows = np.concatenate([curve.values for curve in curves])
    return Curve(tuple(range(len(rows))), curves[0].steps, rows)


def _title(settings: Prompts) -> str:
    if settings.probabilities == "balanced":
        return f"balanced, $p_k = 1/{settings.feature_count}$"
    return f"imbalanced, $p_1 = {settings.distribution[0]:g}$"


def _first(settings: Prompts) -> str:
    return "$v_1$" if settings.probabilities == "balanced" else "$v_1$, dominant"


def _errors(sheet: Sheet, linear: Axes, log: Axes, metrics: Metrics, experiment: Runs) -> None:
    """L_k of every feature on a linear axis, as in the paper, and on a logarithmic one."""
    settings = experiment.settings
    curves = {k: _curve(metrics, experiment, "error", k) for k in settings.numbers}
    _per_feature(sheet, linear, f"{experiment.name}, linear", curves, _first(settings))
    _per_feature(sheet, log, f"{experiment.name}, log", curves, _first(settings), log=True)
    for ax in (linear, log):
        ax.axhline(settings.error_threshold, **THRESHOLD)
        ax.set(xlabel="epoch", xlim=(0, settings.epochs), ylabel="prediction error $L_k$")
    linear.set(ylim=(0, None), title=_title(settings))
    log.set(yscale="log", title=f"{_title(settings)}: log axis (ours)")
    linear.legend(loc="upper right")


def _attention(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> None:
    """Attn_k given v_k; with a dominant feature, dashed, Attn_1 given the other queries."""
    settings, panel = experiment.settings, f"{experiment.name}, attention"
    curves = {k: _curve(metrics, experiment, "attention", (k, k)) for k in settings.numbers}
    _per_feature(sheet, ax, panel, curves, _first(settings))
    if settings.probabilities != "balanced":
        released = _together([_curve(metrics, experiment, "attention", (1, k)) for k in settings.numbers[1:]])
        label = "Attn$_1$ given others (ours)"
        style = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "label": label}
        sheet.band(ax, panel, "v1 given the others", released, geometric=False, **style)
    ax.axhline(settings.attention_threshold, **THRESHOLD)
    ax.set(xlabel="epoch", ylabel="attention score Attn$_k$ given $v_k$", title=_title(settings))
    ax.set(xlim=(0, settings.epochs), ylim=(0, 1))
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.43))


def _facts(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> dict[str, Any]:
    """Seeds, thresholds, and the range over seeds of each event's epoch, for v_1 and for all other features."""
    facts: dict[str, Any] = {
        "seeds": len(_curve(metrics, balanced, "loss").seeds),
        "error_threshold": balanced.settings.error_threshold,
        "attention_threshold": balanced.settings.attention_threshold,
    }
    for event in ("converged", "concentrated"):
        facts[event] = {
            "balanced": _epochs(metrics, balanced, event),
            "imbalanced": _epochs(metrics, imbalanced, event),
        }
    return facts


def _epochs(metrics: Metrics, experiment: Runs, event: str) -> tuple[str, str]:
    def span(features: range) -> str:
        found = []
        for k in features:
            try:
                found.append(_curve(metrics, experiment, event, k).final())
            except NotRecordedError:  # no seed got there
                found.append(np.array([np.nan]))
        epochs = np.concatenate(found)
        if np.isnan(epochs).all():
            return "never"
        late = " or later" if np.isnan(epochs).any() else ""
        return f"{np.nanmin(epochs):.0f} to {np.nanmax(epochs):.0f}{late}"

    numbers = experiment.settings.numbers
    return span(numbers[:1]), span(numbers[1:])


@FIGURES("fig2")
def fig2(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Prediction error per feature: linear as in the paper, and beside it on a log axis, as ours."""
    sheet = Sheet(2, 2, size=(8.6, 5.4), sharex=True)
    for (linear, log), experiment in zip(sheet.panels, (balanced, imbalanced), strict=True):
        _errors(sheet, linear, log, metrics, experiment)
    for ax in sheet.panels[0]:
        ax.set_xlabel("")
    letter([sheet.panels[0, 0], sheet.panels[1, 0]])
    return Drawing(sheet.figure, sheet.table, _facts(metrics, balanced, imbalanced))


@FIGURES("fig3")
def fig3(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Attention scores per feature."""
    sheet = Sheet(1, 2, size=(8.6, 3.3))
    for ax, experiment in zip(sheet.panels[0], (balanced, imbalanced), strict=True):
        _attention(sheet, ax, metrics, experiment)
    letter(sheet.panels)
    return Drawing(sheet.figure, sheet.table, _facts(metrics, balanced, imbalanced))


@FIGURES("extra_ten_features")
def extra_ten_features(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Figures 2 and 3 for the second setting."""
    sheet = Sheet(2, 3, size=(11, 5.4), sharex=True)
    for (linear, log, scores), experiment in zip(sheet.panels, (balanced, imbalanced), strict=True):
        _errors(sheet, linear, log, metrics, experiment)
        _attention(sheet, scores, metrics, experiment)
    for ax in sheet.panels[0]:
        ax.set_xlabel("")
    return Drawing(sheet.figure, sheet.table, _facts(metrics, balanced, imbalanced))


@FIGURES("extra_trap")
def extra_trap(metrics: Metrics, dense: Runs, axes: Runs) -> Drawing:
    """Why features along the axes stall under Adam: each entry gains a step size, but a dense A_k sums many entries."""
    runs = (
        (dense, "adam", BLUE, f"Adam, dense features, $d = {dense.settings.dimension}$"),
        (axes, "adam", RED, f"Adam, features along the axes, $d = {axes.settings.dimension}$"),
        (axes, "adam_large", ORANGE, "the same with a larger step size"),
        (dense, "gd", GREY, "plain GD, dense features"),
    )
    sheet = Sheet(1, 3, size=(10.5, 3.7))
    entries, logits, scores = sheet.panels[0]
    for experiment, optimizer, color, label in runs:
        name, series = experiment.name, f"{experiment.name}, {optimizer}"
        largest = metrics.curve(name, "largest_entry", optimizer)
        relative = Curve(largest.seeds, largest.steps, largest.values / _step_size(experiment, optimizer))
        sheet.band(entries, "entries", series, relative, color=color, label=label)
        sheet.band(logits, "logit", series, metrics.curve(name, "target_logit", optimizer, 1), color=color)
        sheet.band(scores, "attention", series, metrics.curve(name, "attention", optimizer, (1, 1)), color=color)
    epochs = axes.settings.epochs
    pace = {"color": "black", "linestyle": ":", "linewidth": 1, "label": "one step size an epoch"}
    sheet.line(entries, "entries", "one step size an epoch", [0, epochs], [0, epochs], **pace)
    entries.set(ylabel=r"largest $|Q_{ij}|$ in step sizes", title="an entry gains about a step size an epoch")
    logits.set(ylabel=r"$A_1 = v_1^\top Q\, v_1$", title="dense features add up many entries")
    scores.set(ylabel="Attn$_1$ given $v_1$", title="so that they converge in time")
    for ax in sheet.panels[0]:
        ax.set(xlabel="epoch", xlim=(0, epochs), ylim=(0, None))
    scores.set_ylim(0, 1)
    sheet.figure.legend(loc="outside lower center", ncols=3)
    letter(sheet.panels)
    return Drawing(sheet.figure, sheet.table, _trap_facts(metrics, dense, axes))


def _trap_facts(metrics: Metrics, dense: Runs, axes: Runs) -> dict[str, Any]:
    """How far Adam gets along the axes, and how many step sizes an epoch a dense A_k gains at first."""
    scores = metrics.value(axes.name, "attention", "adam", index=(1, 1))
    step_size = _step_size(axes, "adam")
    return {
        "gain": metrics.value(dense.name, "projector_sum").mean() / dense.settings.feature_count,
        "epochs": axes.settings.epochs,
        "step_size": step_size,
        "times_larger": _step_size(axes, "adam_large") / step_size,
        "logit_on_axes": metrics.value(axes.name, "target_logit", "adam", index=1).mean(),
        "score_on_axes": (scores.min(), scores.max()),
    }


def _step_size(experiment: Runs, optimizer: str) -> float:
    return float(experiment.optimizer(optimizer).hyperparameters["lr"])
