"""The figures of the deep experiments: train loss, test accuracy, attention sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.ib.deep.claims import COMPARED, diverged_at
from workflow.lib.papers.ib.deep.settings import ENCODERS, Language, Scratch, Vision
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import BLUE, CYCLE, GREEN, GREY, ORANGE, PINK, RED, SKY, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Vision] | Experiment[Language]

VARIANTS = ("sngd", "sngd_momentum", "sps", "sps_cap")
NAMES = {
    "sgd": "SGD",
    "sngd": "SNGD",
    "sps": "SPS",
    "adam": "Adam",
    "sngd_momentum": "SNGD, momentum 0.9",
    "sps_cap": "SPS, cap 1",
}
COLOURS = {"sgd": BLUE, "sngd": RED, "sps": GREEN, "adam": ORANGE, "sngd_momentum": PINK, "sps_cap": SKY}


def language(metrics: Metrics, experiment: Experiment[Language]) -> Drawing:
    """A BERT: train loss, test accuracy and attention."""
    return _compared(metrics, experiment, attention=True)


def vision(metrics: Metrics, experiment: Experiment[Vision]) -> Drawing:
    """A ViT: train loss and test accuracy."""
    return _compared(metrics, experiment)


FIGURES("fig1")(language)
FIGURES("fig4")(language)
FIGURES("fig6")(vision)
FIGURES("fig7")(vision)


@FIGURES("extra_vision_sensitivity")
def extra_vision_sensitivity(metrics: Metrics, experiment: Experiment[Vision]) -> Drawing:
    """A ViT with SNGD with momentum and SPS with a cap of 1, beside the paper's values."""
    labels = [label for label in VARIANTS if label in experiment.optimizers]
    sheet = Sheet(1, 3, size=(9.6, 3.1))
    loss, accuracy, step_size = sheet.panels[0]
    _train_loss(sheet, loss, metrics, experiment, labels)
    _test_accuracy(sheet, accuracy, metrics, experiment, labels)
    _bands(sheet, step_size, "step size", metrics, experiment, "step_size", labels)
    step_size.set(yscale="log", xlabel="iteration", ylabel=r"step size $\eta_t$", title="step size")
    return _finished(sheet, metrics, experiment, labels, extra=True)


def _compared(metrics: Metrics, experiment: Runs, attention: bool = False) -> Drawing:
    others = [label for label in experiment.optimizers if label not in NAMES]  # a user's own
    labels = [label for label in (*COMPARED, *others) if label in experiment.optimizers]
    sheet = Sheet(1, 3 if attention else 2, size=(9.6, 3.1) if attention else (7.2, 3.1))
    _train_loss(sheet, sheet.panels[0, 0], metrics, experiment, labels)
    _test_accuracy(sheet, sheet.panels[0, 1], metrics, experiment, labels)
    if attention:
        ax = sheet.panels[0, 2]
        _bands(sheet, ax, "attention", metrics, experiment, "attention", labels)
        _epochs(ax)
        ax.set(ylabel="largest [CLS] weight", ylim=(0, 1), title="attention sparsity")
    return _finished(sheet, metrics, experiment, labels)


def _train_loss(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, labels: Sequence[str]) -> None:
    _bands(sheet, ax, "train loss", metrics, experiment, "train_loss", labels)
    for label in labels:
        curve = metrics.curve(experiment.name, "train_loss", label)
        for row, at in zip(curve.values, diverged_at(metrics, experiment.name, label), strict=True):
            finite = row[np.isfinite(row)]
            if np.isfinite(at):
                height = finite[-1] if finite.size else ax.get_ylim()[1]  # at the top if it diverged at once
                ax.plot([at], [height], marker="x", markersize=8, color=_colour(label))
                sheet.record("train loss", f"{label} diverged", [at], [height])
    ax.set(
        yscale="log",
        xlabel="iteration",
        ylabel=f"mean of {experiment.settings.smoothing} iterations",
        title="train loss",
    )
    low, high = ax.get_ylim()
    if high < 2 * low:
        ax.set_yscale("linear")
        return
    # Few powers of ten lie in the range, so say plain numbers.
    ticks = [t for t in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 20) if low <= t <= high]
    if len(ticks) > 1:
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_yticks([], minor=True)


def _test_accuracy(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, labels: Sequence[str]) -> None:
    _bands(sheet, ax, "test accuracy", metrics, experiment, "test_accuracy", labels)
    share = float(metrics.value(experiment.name, "largest_class").mean())
    ax.axhline(share, color=GREY, linestyle=":", linewidth=1)
    sheet.record("test accuracy", "share of the largest class", [np.nan], [share])
    _epochs(ax)
    ax.set(ylabel="test accuracy", title="test accuracy", ylim=(0, 1))


def _epochs(ax: Axes) -> None:
    ax.set(xlabel="epoch", xlim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bands(
    sheet: Sheet, ax: Axes, panel: str, metrics: Metrics, experiment: Runs, metric: str, labels: Sequence[str]
) -> None:
    for label in labels:
        curve = metrics.curve(experiment.name, metric, label)
        if np.isfinite(curve.values).any():
            # Dashed on top, because SGD and SPS may lie on one another.
            look: dict[str, Any] = {"linestyle": (0, (4, 2)), "zorder": 3} if label == "sgd" else {}
            sheet.band(ax, panel, label, curve, color=_colour(label), label=NAMES.get(label, label), **look)


def _colour(label: str) -> str:
    return COLOURS.get(label, CYCLE[-1])


def _finished(sheet: Sheet, metrics: Metrics, experiment: Runs, labels: Sequence[str], extra: bool = False) -> Drawing:
    facts = _facts(metrics, experiment, labels)
    handles, names = sheet.panels[0, 0].get_legend_handles_labels()
    handles = [*handles, sheet.panels[0, 1].get_lines()[-1]]
    sheet.figure.legend(handles, [*names, "always the largest class"], loc="outside lower center", ncols=len(handles))
    line = f"{facts['data']}; {facts['model']}; {facts['examples']}; {facts['length']}; seeds: {facts['seeds']}"
    sheet.figure.suptitle(f"extra: {line}" if extra else line, fontsize=8.5, color="#444444")
    letter(sheet.panels)
    sheet.figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]
    return Drawing(sheet.figure, sheet.table, facts)


def _facts(metrics: Metrics, experiment: Runs, labels: Sequence[str]) -> dict[str, object]:
    settings = experiment.settings
    examples = int(metrics.value(experiment.name, "train_examples")[0])
    final = {
        NAMES.get(label, label): {
            metric: float(metrics.value(experiment.name, metric, label).mean())
            for metric in ("train_loss", "test_accuracy", "attention")
        }
        for label in labels
    }
    return {
        "data": settings.facts.title,
        "standin": settings.standin,
        "dataset": settings.dataset,
        "model": _model(settings),
        "examples": f"{examples:,} training examples",
        "length": f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}",
        "seeds": len(metrics.curve(experiment.name, "train_loss", labels[0]).seeds),
        "smoothing": settings.smoothing,
        "batch_size": settings.batch_size,
        "final": final,
    }


def _model(settings: Vision | Language) -> str:
    if isinstance(settings, Vision):
        return "ViT"
    if isinstance(settings.encoder, Scratch):
        return "tiny BERT from scratch"
    return settings.encoder if settings.encoder in ENCODERS else Path(settings.encoder).name
