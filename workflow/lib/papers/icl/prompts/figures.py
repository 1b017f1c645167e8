"""Figures of training on sampled prompts: errors, attention scores, and the trap of the features.

Colours are the optimizers'. Solid lines belong to the dominant feature, or to all features where they are equally
likely; dashed ones to the other features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look, looks, ordered
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Prompts]

DASHED, TRAINING, LEFT = (0, (4, 1.6)), (0, (1, 2.5)), (0, (5, 1.5, 1, 1.5))
FEATURES = {"dense": "dense", "basis": "axes"}  # as legends call them; vectors of a user's own are given
THRESHOLD: dict[str, Any] = {"color": "#999999", "linestyle": "-", "linewidth": 0.7, "zorder": 1}


def _main(experiment: Runs) -> str:
    """The optimizer that captions and claims speak of: Adam, or the first one where a user left it out."""
    return "adam" if "adam" in experiment.optimizers else next(iter(experiment.optimizers))


def _groups(settings: Prompts) -> dict[str, tuple[range, Any]]:
    """Features that the data do not tell apart, with their dash."""
    if settings.probabilities == "balanced":
        return {f"v1 to v{settings.feature_count}": (settings.numbers, "-")}
    return {
        "v1": (settings.numbers[:1], "-"),
        f"v2 to v{settings.feature_count}": (settings.numbers[1:], DASHED),
    }


def _together(curves: Sequence[Curve]) -> Curve:
    """Curves as one, its rows being the seeds of all."""
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    rows = np.full((sum(len(curve.seeds) for curve in curves), steps.size), np.nan)
    first = 0
    for curve in curves:  # a feature that no training prompt asks for has no steps but the last
        rows[first : first + len(curve.seeds), np.searchsorted(steps, curve.steps)] = curve.values
        first += len(curve.seeds)
    return Curve(tuple(range(len(rows))), steps, rows)


def _per_group(
    sheet: Sheet,
    ax: Axes,
    where: tuple[str, str],
    curves: Mapping[int, Curve],
    settings: Prompts,
    look: Look,
    log: bool,
) -> None:
    """Mean and range over features and seeds of each group, with a thin line for the mean of every feature in it.

    Args:
        sheet: draws and records.
        ax: the axes.
        where: name of the panel in the table, and the optimizer's label.
        curves: number of the feature -> its curve.
        settings: say which features are alike.
        look: the optimizer's.
        log: whether the axis, and so the mean, is logarithmic.
    """
    panel, label = where
    for name, (numbers, dash) in _groups(settings).items():
        style: dict[str, Any] = {"color": look.color, "name": f"{look.name}, {name}"}
        if len(numbers) > 1:
            for k in numbers:
                values = curves[k].values
                middle = np.exp(np.log(values).mean(axis=0)) if log else values.mean(axis=0)
                thin = {"part": f"v{k}", "linewidth": 0.5, "alpha": 0.6}
                sheet.line(ax, panel, label, curves[k].steps, middle, **style, **thin)
        whole, thick = _together([curves[k] for k in numbers]), {"part": name, "linestyle": dash, "linewidth": 1.4}
        sheet.band(ax, panel, label, whole, middle="geometric mean" if log else "mean", **style, **thick)


def _every(*experiments: Runs, names: Mapping[str, str] | None = None) -> dict[str, Look]:
    """The look of every optimizer of some experiments, the same in all of them, in the order of legends."""
    optimizers = {label: entry for experiment in experiments for label, entry in experiment.optimizers.items()}
    merged = experiments[0].model_copy(update={"optimizers": optimizers})
    found = looks(merged, names)
    return {label: found[label] for label in ordered(optimizers, merged)}


def _mine(experiment: Runs, every: Mapping[str, Look]) -> list[tuple[str, Look]]:
    return [(label, look) for label, look in every.items() if label in experiment.optimizers]


def _title(settings: Prompts) -> str:
    if settings.probabilities == "balanced":
        return f"balanced, $p_k = 1/{settings.feature_count}$"
    return f"imbalanced, $p_1 = {settings.distribution[0]:g}$"


def _kind(settings: Prompts) -> str:
    """Which features the prompts of an experiment ask for, in words."""
    if settings.probabilities == "balanced":
        return "equally likely features"
    return f"a dominant feature v_1, p_1 = {settings.distribution[0]:g}"


def _errors(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, every: Mapping[str, Look], log: bool) -> None:
    """L_k on unseen prompts, and dotted the mean error on the training prompts."""
    settings, panel = experiment.settings, f"{experiment.name}, {'log' if log else 'linear'}"
    for label, look in _mine(experiment, every):
        curves = {k: metrics.curve(experiment.name, "error", label, k) for k in settings.numbers}
        _per_group(sheet, ax, (panel, label), curves, settings, look, log)
        for name, (numbers, _) in _groups(settings).items():
            seen = _known(metrics, experiment, "training_error", label, numbers)
            if seen is not None:
                there = ~np.isnan(seen.values).all(axis=0)  # not where every seed has diverged
                middle = np.nanmean(seen.values[:, there], axis=0)
                style: dict[str, Any] = {"color": "black", "linestyle": TRAINING, "linewidth": 0.9}
                known: dict[str, Any] = {"part": f"{name} on training prompts", "name": "training prompts"}
                sheet.line(ax, panel, label, seen.steps[there], middle, **known, **style)
    sheet.level(ax, panel, "threshold", settings.error_threshold, **THRESHOLD)
    ax.set(xlim=(0, settings.epochs), title=f"{_title(settings)}{', log axis' if log else ''}")
    ax.set(yscale="log") if log else ax.set(ylim=(0, None))


def _known(metrics: Metrics, experiment: Runs, metric: str, label: str, numbers: range) -> Curve | None:
    """A metric of several features as one curve; features that are the query of no training prompt are left out."""
    known = [k for k in numbers if metrics.has(experiment.name, metric, label, k)]
    return _together([metrics.curve(experiment.name, metric, label, k) for k in known]) if known else None


def _attention(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, every: Mapping[str, Look]) -> None:
    """Attn_k given v_k; with a dominant feature also Attn_1 given the other queries."""
    settings, panel = experiment.settings, f"{experiment.name}, attention"
    for label, look in _mine(experiment, every):
        curves = {k: metrics.curve(experiment.name, "attention", label, (k, k)) for k in settings.numbers}
        _per_group(sheet, ax, (panel, label), curves, settings, look, log=False)
        if settings.probabilities != "balanced":
            others = [metrics.curve(experiment.name, "attention", label, (1, k)) for k in settings.numbers[1:]]
            style: dict[str, Any] = {"color": look.color, "linestyle": LEFT, "linewidth": 1.2}
            known: dict[str, Any] = {"part": "v1 given the others", "name": f"{look.name}, v1 given the others"}
            sheet.band(ax, panel, label, _together(others), **known, **style)
    sheet.level(ax, panel, "threshold", settings.attention_threshold, **THRESHOLD)
    ax.set(xlim=(0, settings.epochs), ylim=(0, 1), title=_title(settings))


def _legend(sheet: Sheet, experiments: Sequence[Runs], *, errors: bool, scores: bool) -> None:
    """Above: colours for optimizers, dashes for features."""
    dashes: dict[str, Any] = {
        "all $v_k$, or dominant $v_1$": "-",
        f"$v_2$ to $v_{{{experiments[-1].settings.feature_count}}}$": DASHED,
        **({"Attn$_1$ given others": LEFT} if scores else {}),
        **({"training prompts": TRAINING} if errors else {}),
    }
    lines = [sheet.sample(look.name, color=look.color) for look in _every(*experiments).values()]
    lines += [sheet.sample(name, color="black", linestyle=dash) for name, dash in dashes.items()]
    sheet.legend(5 if len(lines) == 5 and not (errors and scores) else 3, *lines, only=True)


# Other thresholds at which captions tell the stages.
LEVELS = {"error": (0.1, 0.05, 0.02), "attention": (0.8, 0.85, 0.9)}


def _stages(metrics: Metrics, experiment: Runs, metric: str) -> list[str]:
    """The first other feature's over the dominant one's epoch of passing each level, the smallest of all seeds."""
    sign = 1 if metric == "attention" else -1
    told = []
    for level in LEVELS[metric]:
        epochs = []
        for k in experiment.settings.numbers:
            index = (k, k) if metric == "attention" else k
            curve = metrics.curve(experiment.name, metric, _main(experiment), index)
            passed = sign * (curve.values - level) > 0
            epochs.append(np.where(passed.any(axis=1), curve.steps[passed.argmax(axis=1)], np.inf))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = float((np.min(epochs[1:], axis=0) / epochs[0]).min())
        told.append(f"{ratio:.1f} at {level:g}" if np.isfinite(ratio) else f"not reached at {level:g}")
    return told


def _facts(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> dict[str, Any]:
    """Seeds, thresholds, and the range over seeds of each event's epoch, for v_1 and for all other features."""
    prompts = imbalanced.settings.prompts
    facts: dict[str, Any] = {
        "rule": looks(balanced)[_main(balanced)].name,
        "count": " and ".join(dict.fromkeys(str(e.settings.feature_count) for e in (balanced, imbalanced))),
        "kinds": [_kind(experiment.settings) for experiment in (balanced, imbalanced)],
        "beside": _beside(balanced, imbalanced),
        "seeds": len(metrics.curve(balanced.name, "loss", _main(balanced)).seeds),
        "error_threshold": balanced.settings.error_threshold,
        "attention_threshold": balanced.settings.attention_threshold,
        "queries": [prompts, *(round(prompts * e.settings.distribution[-1]) for e in (balanced, imbalanced))],
        "share": _share(metrics, imbalanced),
        "error_stages": _stages(metrics, imbalanced, "error"),
        "attention_stages": _stages(metrics, imbalanced, "attention"),
    }
    for event in ("converged", "training_converged", "concentrated"):
        facts[event] = {
            "balanced": _epochs(metrics, balanced, event),
            "imbalanced": _epochs(metrics, imbalanced, event),
        }
    return facts


def _beside(*experiments: Runs) -> list[str]:
    """The other optimizers that are drawn, with the features that they run on where these are not all."""
    told = []
    for label, look in _every(*experiments).items():
        kinds = [_kind(experiment.settings) for experiment in experiments if label in experiment.optimizers]
        if label not in map(_main, experiments):
            told.append(look.name if len(kinds) == len(experiments) else f"{look.name} ({'; '.join(kinds)})")
    return told


def _epochs(metrics: Metrics, experiment: Runs, event: str) -> tuple[str, str]:
    def span(features: range) -> str:
        found = []
        for k in features:
            try:
                found.append(metrics.value(experiment.name, event, _main(experiment), index=k))
            except NotRecordedError:  # no seed got there
                found.append(np.array([np.nan]))
        epochs = np.concatenate(found)
        if np.isnan(epochs).all():
            return "never"
        late = " or later" if np.isnan(epochs).any() else ""
        return f"{np.nanmin(epochs):.0f} to {np.nanmax(epochs):.0f}{late}"

    numbers = experiment.settings.numbers
    return span(numbers[:1]), span(numbers[1:])


def _share(metrics: Metrics, experiment: Runs) -> list[str]:
    """How queries other than v_1 share their attention between v_1 and their own feature, at the start and later on."""
    settings, told = experiment.settings, []
    for step in [e for e in (0, 10, 40) if e in settings.recorded]:
        left = np.mean([_score(metrics, experiment, 1, k, step) for k in settings.numbers[1:]])
        own = np.mean([_score(metrics, experiment, k, k, step) for k in settings.numbers[1:]])
        told.append(f"{left:.2f} and {own:.2f} at epoch {step}")
    return told


def _score(metrics: Metrics, experiment: Runs, m: int, k: int, step: int) -> np.ndarray:
    return metrics.value(experiment.name, "attention", _main(experiment), step, (m, k))


@FIGURES("fig2")
def fig2(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Prediction error per feature: on a linear axis, and beneath it on a log axis, as ours."""
    sheet = Sheet(2, 2, size=(WIDE, 4.7), sharex=True)
    every = _every(balanced, imbalanced)
    for column, experiment in enumerate((balanced, imbalanced)):
        for row, log in enumerate((False, True)):
            _errors(sheet, sheet.panels[row, column], metrics, experiment, every, log)
    for ax in sheet.panels[:, 0]:
        ax.set_ylabel("prediction error $L_k$")
    for ax in sheet.panels[1]:
        ax.set_xlabel("epoch (steps)")
    sheet.letter()
    _legend(sheet, (balanced, imbalanced), errors=True, scores=False)
    return sheet.drawing(_facts(metrics, balanced, imbalanced))


@FIGURES("fig3")
def fig3(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Attention scores per feature."""
    sheet = Sheet(1, 2, size=(WIDE, 2.9), sharey=True)
    for ax, experiment in zip(sheet.panels[0], (balanced, imbalanced), strict=True):
        _attention(sheet, ax, metrics, experiment, _every(balanced, imbalanced))
        ax.set_xlabel("epoch (steps)")
    sheet.panels[0, 0].set_ylabel("attention score Attn$_k$ given $v_k$")
    sheet.letter()
    _legend(sheet, (balanced, imbalanced), errors=False, scores=True)
    return sheet.drawing(_facts(metrics, balanced, imbalanced))


@FIGURES("extra_ten_features")
def extra_ten_features(metrics: Metrics, balanced: Runs, imbalanced: Runs) -> Drawing:
    """Figures 2 (log axis) and 3 for the second setting."""
    sheet = Sheet(2, 2, size=(WIDE, 4.7), sharex=True)
    for column, experiment in enumerate((balanced, imbalanced)):
        every = _every(balanced, imbalanced)
        _errors(sheet, sheet.panels[0, column], metrics, experiment, every, log=True)
        _attention(sheet, sheet.panels[1, column], metrics, experiment, every)
        sheet.panels[1, column].set_xlabel("epoch (steps)")
    sheet.panels[0, 0].set_ylabel("prediction error $L_k$")
    sheet.panels[1, 0].set_ylabel("Attn$_k$ given $v_k$")
    sheet.letter()
    _legend(sheet, (balanced, imbalanced), errors=True, scores=True)
    return sheet.drawing(_facts(metrics, balanced, imbalanced))


@FIGURES("extra_trap")
def extra_trap(metrics: Metrics, dense: Runs, axes: Runs) -> Drawing:
    """Why features along the axes stall under Adam: each entry gains a step size, but a dense A_k sums many entries."""
    sheet = Sheet(1, 3, size=(WIDE, 3.0))
    entries, logits, scores = sheet.panels[0]
    names = {"adam_large": f"Adam at {_step_size(axes, 'adam_large'):g}"} if "adam_large" in axes.optimizers else {}
    every = _every(dense, axes, names=names)
    kinds = [FEATURES.get(str(e.settings.features), "given") for e in (dense, axes)]
    if kinds[0] == kinds[1]:
        kinds = [f"{kind}, {e.name}" for kind, e in zip(kinds, (dense, axes), strict=True)]
    for experiment, dash, kind in zip((dense, axes), ("-", DASHED), kinds, strict=True):
        for label, look in _mine(experiment, every):
            name, told = experiment.name, f"{look.name}, {kind}"
            style: dict[str, Any] = {"color": look.color, "linestyle": dash, "part": f"{kind} features", "name": told}
            largest = metrics.curve(name, "largest_entry", label)
            relative = Curve(largest.seeds, largest.steps, largest.values / _step_size(experiment, label))
            sheet.band(entries, "entries", label, relative, label=told, **style)
            sheet.band(logits, "logit", label, metrics.curve(name, "target_logit", label, 1), **style)
            sheet.band(scores, "attention", label, metrics.curve(name, "attention", label, (1, 1)), **style)
    epochs = axes.settings.epochs
    pace = {"color": "black", "linestyle": ":", "linewidth": 1, "label": "one step size an epoch"}
    sheet.line(entries, "entries", "one step size an epoch", [0, epochs], [0, epochs], role="theory", **pace)
    entries.set(ylabel=r"largest $|Q_{ij}|$ / step size", title="largest entry")
    logits.set(ylabel=r"$A_1 = v_1^\top Q\, v_1$", title="logit of $v_1$")
    scores.set(ylabel="Attn$_1$ given $v_1$", title="attention")
    for ax in sheet.panels[0]:
        ax.set(xlabel="epoch (steps)", xlim=(0, epochs), ylim=(0, None))
    scores.set_ylim(0, 1)
    sheet.legend(3)
    sheet.letter()
    return sheet.drawing(_trap_facts(metrics, dense, axes))


def _trap_facts(metrics: Metrics, dense: Runs, axes: Runs) -> dict[str, Any]:
    """How far Adam gets along the axes, and how many step sizes an epoch a dense A_k gains at first."""
    label = _main(axes)
    scores = metrics.value(axes.name, "attention", label, index=(1, 1))
    return {
        "gain": metrics.value(dense.name, "projector_sum").mean() / dense.settings.feature_count,
        "epochs": axes.settings.epochs,
        "dimensions": (dense.settings.dimension, axes.settings.dimension),
        "step_size": _step_size(axes, label),
        "logit_on_axes": metrics.value(axes.name, "target_logit", label, index=1).mean(),
        "score_on_axes": (scores.min(), scores.max()),
    }


def _step_size(experiment: Runs, optimizer: str) -> float:
    return float(experiment.optimizer(optimizer).hyperparameters.get("lr", 1.0))
