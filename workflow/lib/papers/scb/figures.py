"""The figures of this paper (docs/papers/scb.md, section 1), and ours beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look
from workflow.lib.papers.scb import matrices, support
from workflow.lib.papers.scb.claims import ahead, final
from workflow.lib.papers.scb.naming import (
    ALIGNMENTS,
    Runs,
    chosen,
    difference,
    looks_of,
    median,
    right_support,
    seeds_of,
    steps_told,
)
from workflow.lib.papers.scb.settings import Bigram
from workflow.lib.plotting import WIDE, Sheet, shades
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

FIGURES: Registry[Draw] = Registry({**matrices.FIGURES, **support.FIGURES})

TOP = 20  # distances over their start are drawn up to here
WRONG: dict[str, Any] = {"color": "#777777", "linestyle": (0, (1, 1.3)), "linewidth": 0.8}  # seeds with a wrong support
# Metric -> what it is the distance to, and that distance over its start.
DISTANCES = {
    "value_distance": ("P", r"$\|V-P\|_\mu^2\,/\,K_P$"),
    "attention_distance": ("Q", r"$\|A-Q\|_\mu^2\,/\,K_Q$"),
}
ALIGNED = {"value_alignment": "V", "attention_alignment": "A"}
OF_MAIN: dict[str, Any] = {"color": "#999999", "linewidth": 2.4, "alpha": 0.6}  # medians of Figure 1
PATH: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9}
PATH_SAID: dict[str, Any] = {"part": "population path", "role": "theory", "name": "population path"}


def _facts(metrics: Metrics, experiment: Runs, found: Mapping[str, Look]) -> dict[str, Any]:
    """What every caption of a distance figure says: seeds, and medians over all seeds at the end over the start."""
    right, seeds = right_support(metrics, experiment), seeds_of(metrics, experiment)
    finals: dict[str, list[str]] = {}
    for label, look in found.items():
        middles = []
        for metric in DISTANCES:
            start = metrics.value(experiment.name, metric, label, 0)
            middles.append(float(median(final(metrics, experiment.name, metric, label) / start)))
        finals[look.name] = ["diverged" if np.isnan(middle) else f"{middle:.2g}" for middle in middles]
    return {
        "seeds": len(seeds),
        "right": int(right.sum()),
        "wrong_seeds": chosen(seeds, ~right),
        "switch_step": experiment.settings.boosting_steps,
        "finals": finals,
        "diverged": _diverged(metrics, experiment, found),
    }


def _diverged(metrics: Metrics, experiment: Runs, found: Mapping[str, Look]) -> dict[str, tuple[int, int, int]]:
    """How many seeds of an optimizer diverge, and the first and last step at which one does."""
    steps = {
        look.name: metrics.value(experiment.name, "diverged_at", label)
        for label, look in found.items()
        if metrics.has(experiment.name, "diverged_at", label)
    }
    return {name: (int((~np.isnan(at)).sum()), int(np.nanmin(at)), int(np.nanmax(at))) for name, at in steps.items()}


def _distances(
    sheet: Sheet, ax: Axes, panel: str, metrics: Metrics, experiment: Runs, metric: str, found: Mapping[str, Look],
    wide: str = "",
) -> None:  # fmt: skip
    """A distance over its start: every seed as a thin line, grey and dotted with a wrong support, and their median.

    What diverges or rises above `TOP` ends there with a cross. `wide` is a label whose median lies under others.
    """
    right = right_support(metrics, experiment)
    for label, look in found.items():
        if label not in experiment.optimizers:
            continue
        curve = metrics.curve(experiment.name, metric, label)
        values = curve.values / curve.at(0)[:, None]
        gone = np.logical_or.accumulate(~(values <= TOP), axis=1)
        values = np.where(gone, np.nan, values)
        diverged = np.full(len(curve.seeds), np.nan)
        if metrics.has(experiment.name, "diverged_at", label):
            diverged = metrics.value(experiment.name, "diverged_at", label)
        for index, seed in enumerate(curve.seeds):
            wrong = experiment.optimizers[label].options.switch and not right[index]
            _thin(sheet, ax, panel, label, seed, curve.steps, values[index], look.color, wrong=wrong)
            if gone[index].any() or not np.isnan(diverged[index]):
                last = np.flatnonzero(~gone[index]).max(initial=0)
                at = curve.steps[last] if gone[index].any() else diverged[index]
                end = 1.0 if gone[index].all() else values[index, last]  # lost at the start, over which distances are
                sheet.lost(ax, panel, label, at, end, part=f"seed {seed}", color=look.color)
        style = {**look.line, "linewidth": 3.6 if label == wide else 1.8}
        sheet.line(ax, panel, label, curve.steps, median(values), part="median", **style)
    ax.set(yscale="log", xlim=(0, experiment.settings.iterations))
    sheet.moment(ax, panel, "switch", experiment.settings.boosting_steps)


def _thin(
    sheet: Sheet, ax: Axes, panel: str, label: str, seed: int, steps: np.ndarray, values: np.ndarray, color: str,
    *, wrong: bool,
) -> None:  # fmt: skip
    """One seed as a thin line."""
    style = {"alpha": 0.6, **(WRONG if wrong else {"color": color, "linewidth": 0.5})}
    part = f"seed {seed}" + (" (wrong support)" if wrong else "")
    sheet.line(ax, panel, label, steps, values, part=part, **style)


def _seed_lines(sheet: Sheet) -> list[Line2D]:
    """What thin lines mean, for legends."""
    return [sheet.sample("one seed", linewidth=0.6), sheet.sample("one seed, wrong support", **WRONG)]


# Drawn in extra_baselines.
OTHER_READINGS = ("prox_literal", "prox_absolute", "no_switch")


@FIGURES("fig1")
def fig1(metrics: Metrics, printed: Runs, tenfold: Runs) -> Drawing:
    """Distances with the printed steps, and with steps ten times as large; every seed."""
    sheet = Sheet(2, 2, size=(WIDE, 5.7), sharex=True)
    found = looks_of(printed, tenfold, without=OTHER_READINGS)
    steps = steps_told(printed, tenfold)
    for row, experiment, told in zip(sheet.panels, (printed, tenfold), steps, strict=True):
        right = right_support(metrics, experiment)
        for ax, metric in zip(row, DISTANCES, strict=True):
            _distances(sheet, ax, f"{metric}, {told}", metrics, experiment, metric, found)
            ax.set(ylabel=DISTANCES[metric][1], title=f"{told}: distance to {DISTANCES[metric][0]}")
        note = f"support right in\n{right.sum()} of {right.size} seeds"
        row[1].text(0.04, 0.06, note, transform=row[1].transAxes, fontsize=7.5)
    for ax in sheet.panels[1]:
        ax.set_xlabel("steps")
    for column in sheet.panels.T:
        low = min(ax.get_ylim()[0] for ax in column)
        for ax in column:
            ax.set_ylim(low, 1.5 * TOP)
    sheet.figure.align_ylabels()
    sheet.letter()
    cross = sheet.sample("diverges or leaves the frame", marker="x", linestyle="none", markersize=5)
    sheet.legend(3, *_seed_lines(sheet), cross)
    facts = {
        "printed": _facts(metrics, printed, {k: v for k, v in found.items() if k in printed.optimizers}),
        "left_out": _called(printed, OTHER_READINGS),
        "steps": steps,
    }
    mine = {label: look for label, look in found.items() if label in tenfold.optimizers}
    facts |= {"drawn": _drawn(printed.settings), "tenfold": _facts(metrics, tenfold, mine)}
    return sheet.drawing(facts)


def _called(experiment: Runs, labels: Sequence[str]) -> list[str]:
    """What legends call some optimizers, those of them that are there."""
    found = looks_of(experiment)
    return [found[label].name for label in labels if label in found]


def _drawn(settings: Bigram) -> dict[str, str]:
    """How P and Q are drawn, in words."""
    weights, shape = settings.weight_concentration, f"Dirichlet({settings.transition_concentration:g})"
    return {
        "transition": f"columns drawn from {shape} until K_P is at least {settings.minimum_correlation:g}"
        if settings.transition is None
        else "given",
        "weights": "positions drawn without replacement, "
        + ("equal weights" if weights is None else f"weights from Dirichlet({weights:g})"),
    }


@FIGURES("fig3")
@FIGURES("fig4")
@FIGURES("fig5")
@FIGURES("fig6")
def substitute(metrics: Metrics, experiment: Runs, main: Runs) -> Drawing:
    """The same in another setting, in the place of one that is unknown; the medians of Figure 1 in grey."""
    sheet = Sheet(1, 2, size=(WIDE, 2.9))
    found = looks_of(experiment)
    right, other = right_support(metrics, experiment), right_support(metrics, main)
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        for label in found:
            if label in main.optimizers:
                curve = metrics.curve(main.name, metric, label)
                middle = median(curve.values / curve.at(0)[:, None])
                style: Any = {**OF_MAIN, "part": f"median of {main.name}", "name": "medians of Figure 1"}
                sheet.line(ax, metric, label, curve.steps, middle, **style)
        _distances(sheet, ax, metric, metrics, experiment, metric, found)
        ax.set(xlabel="steps", ylabel=DISTANCES[metric][1])
    differs = difference(experiment, main)
    for ax, (target, _) in zip(sheet.panels[0], DISTANCES.values(), strict=True):
        ax.set_title(f"distance to {target}")
    sheet.letter()
    grey = sheet.sample("medians of Figure 1", **OF_MAIN)
    told = f"{differs}; support right in {right.sum()} of {right.size} seeds (Figure 1: {other.sum()} of {other.size})"
    sheet.legend(3, *_seed_lines(sheet), grey, title=told)
    held, won = ahead(metrics, experiment.name)
    facts = {
        "differs": differs,
        "ahead": int(won[held].sum()),
        "of": int(held.sum()),
        "main_right": int(other.sum()),
        "main_seeds": other.size,
    }
    return sheet.drawing(_facts(metrics, experiment, found) | facts)


@FIGURES("extra_baselines")
def extra_baselines(metrics: Metrics, experiment: Runs) -> Drawing:
    """Three readings of lambda and SGD without the switch."""
    sheet = Sheet(1, 2, size=(WIDE, 3.2))
    left_out = [label for label in ("sgd_small", "raw_large", "raw_small") if label in experiment.optimizers]
    found = looks_of(experiment, without=left_out)
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        _distances(sheet, ax, metric, metrics, experiment, metric, found, wide="sgd_large")
        ax.set(xlabel="steps", ylabel=DISTANCES[metric][1], title=f"distance to {DISTANCES[metric][0]}")
    sheet.letter()
    sheet.legend(3, *_seed_lines(sheet))
    facts = _facts(metrics, experiment, found) | {"left_out": _called(experiment, left_out)}
    return sheet.drawing(facts)


@FIGURES("extra_long")
def extra_long(metrics: Metrics, experiment: Runs) -> Drawing:
    """Distances over many iterations, with the final rounding marked; alignments of every seed without the switch."""
    sheet = Sheet(2, 2, size=(WIDE, 5.2), sharex=True)
    found = looks_of(experiment)
    at = experiment.settings.iterations - experiment.settings.rounding_steps
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        _distances(sheet, ax, metric, metrics, experiment, metric, found)
        sheet.moment(ax, metric, "rounding", at, linestyle="-.")
        ax.set(ylabel=DISTANCES[metric][1], title=f"distance to {DISTANCES[metric][0]}")
    for ax, metric in zip(sheet.panels[1], ALIGNMENTS, strict=True):
        _every_alignment(sheet, ax, metrics, experiment, metric)
    sheet.letter()
    sheet.legend(3, *_seed_lines(sheet), sheet.sample("population path", **PATH))
    negative = metrics.value(experiment.name, "value_alignment", "no_switch") < 0
    facts = {
        "steps": f"{experiment.settings.iterations:,}",
        "rounding_step": at,
        "negative": chosen(seeds_of(metrics, experiment), negative),
    }
    return sheet.drawing(_facts(metrics, experiment, found) | facts)


def _every_alignment(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, metric: str) -> None:
    """The alignment of every seed without the switch beside its population path."""
    curve = metrics.curve(experiment.name, metric, "no_switch")
    path = metrics.curve(experiment.name, f"{metric}_population", "no_switch")
    rows = zip(curve.seeds, curve.values, path.values, shades(len(curve.seeds)), strict=True)
    for seed, values, population, color in rows:
        part = f"seed {seed}"
        sheet.line(ax, metric, "no_switch", curve.steps, values, part=part, label=f"(c), (d): {part}", color=color)
        style = {**PATH, **PATH_SAID, "part": f"{part}, population path", "color": color}
        sheet.line(ax, metric, "no_switch", path.steps, population, **style)
    ax.axhline(0, color="#444444", linewidth=0.6)
    ax.set(xlabel="steps", ylabel=ALIGNMENTS[metric], title=f"no switch: alignment of {ALIGNED[metric]}")


@FIGURES("extra_alignment")
def extra_alignment(metrics: Metrics, experiment: Runs) -> Drawing:
    """alpha_V and alpha_A with the switch, against gradient descent on the population loss."""
    sheet = Sheet(1, 2, size=(WIDE, 3.1))
    left_out = [label for label in (*OTHER_READINGS, "raw_large", "raw_small") if label in experiment.optimizers]
    found = looks_of(experiment, without=left_out)
    right = right_support(metrics, experiment)
    for ax, metric in zip(sheet.panels[0], ALIGNMENTS, strict=True):
        for label, look in found.items():
            curve = metrics.curve(experiment.name, metric, label)
            for seed, values, fine in zip(curve.seeds, curve.values, right, strict=True):
                _thin(sheet, ax, metric, label, seed, curve.steps, values, look.color, wrong=not fine)
            style = {**look.line, "part": "median", "linewidth": 1.8}
            sheet.line(ax, metric, label, curve.steps, median(curve.values), **style)
            if metrics.has(experiment.name, f"{metric}_population", label):
                path = metrics.curve(experiment.name, f"{metric}_population", label)
                style = {**PATH, **PATH_SAID}
                sheet.line(ax, metric, label, path.steps, np.median(path.values, axis=0), **style)
        ax.set(
            xlabel="steps",
            ylabel=ALIGNMENTS[metric],
            title=f"alignment of {ALIGNED[metric]} with the truth",
            xlim=(0, experiment.settings.iterations),
        )
        sheet.moment(ax, metric, "switch", experiment.settings.boosting_steps)
    sheet.letter()
    sheet.legend(3, *_seed_lines(sheet), sheet.sample("population path, median", **PATH))
    return sheet.drawing(_facts(metrics, experiment, found) | {"left_out": _called(experiment, left_out)})
