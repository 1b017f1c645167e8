"""The figures of this paper (docs/papers/scb.md, section 1), and ours beyond it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look, looks
from workflow.lib.papers.scb.claims import ahead, final, first_found
from workflow.lib.papers.scb.metrics import SWITCHES
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.plotting import GREY, WIDE, Sheet, shades
from workflow.lib.registry import Registry
from workflow.lib.runs import DATA, Curve, Metrics

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Bigram, RunOptions]

TOP = 20  # distances over their start are drawn up to here
WRONG: dict[str, Any] = {"color": "#777777", "linestyle": (0, (1, 1.3)), "linewidth": 0.8}  # seeds with a wrong support
# Metric -> what it is the distance to, and that distance over its start.
DISTANCES = {
    "value_distance": ("P", r"$\|V-P\|_\mu^2\,/\,K_P$"),
    "attention_distance": ("Q", r"$\|A-Q\|_\mu^2\,/\,K_Q$"),
}
ALIGNMENTS = {"value_alignment": r"$\alpha_V$", "attention_alignment": r"$\alpha_A$"}
ALIGNED = {"value_alignment": "V", "attention_alignment": "A"}


OF_MAIN: dict[str, Any] = {"color": "#999999", "linewidth": 2.4, "alpha": 0.6}  # medians of Figure 1
PATH: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9}
PATH_SAID: dict[str, Any] = {"part": "population path", "role": "theory", "name": "population path"}


# ---- names, looks, seeds ----


def _described(optimizers: Sequence[Optimizer[RunOptions]]) -> str:
    """What a legend calls an optimizer of one experiment, or of several that differ in its step."""
    first, options = optimizers[0], optimizers[0].options
    sizes = " / ".join(dict.fromkeys(f"{o.hyperparameters['lr']:g}" for o in optimizers if "lr" in o.hyperparameters))
    if options.attention == "softmax":
        return "softmax model"
    if first.rule == "gd":
        return f"plain SGD, η = {sizes}"
    if first.rule != "preconditioned_prox":
        return first.label
    if options.pretrained:
        return f"θ = {options.pretrained:g}"
    penalty = first.hyperparameters["penalty"]
    kind = f"prox, λ = {penalty:g}" if penalty else "SGD"
    return f"{kind}{'' if options.switch else ', no switch'}, η = {sizes}"


def _looks(*experiments: Runs, without: Sequence[str] = ()) -> dict[str, Look]:
    """One look for each optimizer of some experiments, by label; boosting is the first part of others' curves.

    An optimizer looks the same with and without some others.
    """
    found: dict[str, list[Optimizer[RunOptions]]] = {}
    for experiment in experiments:
        for label, optimizer in experiment.optimizers.items():
            if not optimizer.options.boosting:
                found.setdefault(label, []).append(optimizer)
    names = {label: _described(optimizers) for label, optimizers in found.items()}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    names = {label: f"{name} ({label})" if name in twice else name for label, name in names.items()}
    together = experiments[0].model_copy(update={"optimizers": {label: o[0] for label, o in found.items()}})
    return {label: look for label, look in looks(together, names).items() if label not in without}


def _seeds(metrics: Metrics, experiment: Runs) -> tuple[int, ...]:
    return metrics.curve(experiment.name, "k_p").seeds


def _right(metrics: Metrics, experiment: Runs) -> np.ndarray:
    """Which seeds have the right support after the switch, shape (seeds,); all of them where nobody switches."""
    for label in experiment.optimizers:
        if metrics.has(experiment.name, "support_exact", label):
            return metrics.value(experiment.name, "support_exact", label) == 1
    return np.ones(len(_seeds(metrics, experiment)), dtype=bool)


def _chosen(seeds: Sequence[int], chosen: np.ndarray) -> list[int]:
    """The seeds that are chosen."""
    return [seed for seed, wanted in zip(seeds, chosen, strict=True) if wanted]


def _median(values: np.ndarray) -> np.ndarray:
    """The median over seeds (first dimension), where what diverged counts as infinite; NaN where that is the median."""
    middle = np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.where(np.isinf(middle), np.nan, middle)


def _facts(metrics: Metrics, experiment: Runs, found: Mapping[str, Look]) -> dict[str, Any]:
    """What every caption of a distance figure says: seeds, and medians over all seeds at the end over the start."""
    right, seeds = _right(metrics, experiment), _seeds(metrics, experiment)
    finals: dict[str, list[str]] = {}
    for label, look in found.items():
        middles = []
        for metric in DISTANCES:
            start = metrics.value(experiment.name, metric, label, 0)
            middles.append(float(_median(final(metrics, experiment.name, metric, label) / start)))
        finals[look.name] = ["diverged" if np.isnan(middle) else f"{middle:.2g}" for middle in middles]
    return {
        "seeds": len(seeds),
        "right": int(right.sum()),
        "wrong_seeds": _chosen(seeds, ~right),
        "switch_step": experiment.settings.boosting_steps,
        "minimum_correlation": experiment.settings.minimum_correlation,
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


# ---- distances ----


def _distances(
    sheet: Sheet, ax: Axes, panel: str, metrics: Metrics, experiment: Runs, metric: str, found: Mapping[str, Look],
    wide: str = "",
) -> None:  # fmt: skip
    """A distance over its start: every seed as a thin line, grey and dotted with a wrong support, and their median.

    What diverges or rises above `TOP` ends there with a cross. `wide` is a label whose median lies under others.
    """
    right = _right(metrics, experiment)
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
                last = np.flatnonzero(~gone[index]).max()
                at = curve.steps[last] if gone[index].any() else diverged[index]
                sheet.lost(ax, panel, label, at, values[index, last], part=f"seed {seed}", color=look.color)
        style = {**look.line, "linewidth": 3.6 if label == wide else 1.8}
        sheet.line(ax, panel, label, curve.steps, _median(values), part="median", **style)
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
    found = _looks(printed, tenfold, without=OTHER_READINGS)
    for row, experiment, told in zip(sheet.panels, (printed, tenfold), ("printed steps", "steps × 10"), strict=True):
        right = _right(metrics, experiment)
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
        "left_out": [n for n in OTHER_READINGS if n in printed.optimizers],
    }
    mine = {label: look for label, look in found.items() if label in tenfold.optimizers}
    return sheet.drawing({**facts, "tenfold": _facts(metrics, tenfold, mine)})


@FIGURES("fig3")
@FIGURES("fig4")
@FIGURES("fig5")
@FIGURES("fig6")
def substitute(metrics: Metrics, experiment: Runs, main: Runs) -> Drawing:
    """The same in another setting, in the place of one that is unknown; the medians of Figure 1 in grey."""
    sheet = Sheet(1, 2, size=(WIDE, 2.9))
    found = _looks(experiment)
    right, other = _right(metrics, experiment), _right(metrics, main)
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        for label in found:
            if label in main.optimizers:
                curve = metrics.curve(main.name, metric, label)
                middle = _median(curve.values / curve.at(0)[:, None])
                style: Any = {**OF_MAIN, "part": f"median of {main.name}", "name": "medians of Figure 1"}
                sheet.line(ax, metric, label, curve.steps, middle, **style)
        _distances(sheet, ax, metric, metrics, experiment, metric, found)
        ax.set(xlabel="steps", ylabel=DISTANCES[metric][1])
    differs = _difference(experiment, main)
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


def _difference(experiment: Runs, main: Runs) -> str:
    """What an experiment has in place of the main one's settings, in the paper's letters."""
    letters = {"states": "N", "support": "Q", "positions": "T", "batch_size": "B"}
    pairs = {name: (getattr(experiment.settings, key), getattr(main.settings, key)) for key, name in letters.items()}
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not changed:
        return "another draw of P and Q"
    own, other = (", ".join(f"{name} = {pair[i]}" for name, pair in changed.items()) for i in (0, 1))
    return f"{own} in place of {other}"


@FIGURES("extra_baselines")
def extra_baselines(metrics: Metrics, experiment: Runs) -> Drawing:
    """Three readings of lambda and SGD without the switch."""
    sheet = Sheet(1, 2, size=(WIDE, 3.2))
    left_out = [label for label in ("sgd_small", "raw_large", "raw_small") if label in experiment.optimizers]
    found = _looks(experiment, without=left_out)
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        _distances(sheet, ax, metric, metrics, experiment, metric, found, wide="sgd_large")
        ax.set(xlabel="steps", ylabel=DISTANCES[metric][1], title=f"distance to {DISTANCES[metric][0]}")
    sheet.letter()
    sheet.legend(3, *_seed_lines(sheet))
    facts = _facts(metrics, experiment, found) | {"left_out": left_out}
    return sheet.drawing(facts)


@FIGURES("extra_long")
def extra_long(metrics: Metrics, experiment: Runs) -> Drawing:
    """Distances over many iterations, with the final rounding marked; alignments of every seed without the switch."""
    sheet = Sheet(2, 2, size=(WIDE, 5.2), sharex=True)
    found = _looks(experiment)
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
    facts = {"rounding_step": at, "negative": _chosen(_seeds(metrics, experiment), negative)}
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
    found = _looks(experiment, without=left_out)
    right = _right(metrics, experiment)
    for ax, metric in zip(sheet.panels[0], ALIGNMENTS, strict=True):
        for label, look in found.items():
            curve = metrics.curve(experiment.name, metric, label)
            for seed, values, fine in zip(curve.seeds, curve.values, right, strict=True):
                _thin(sheet, ax, metric, label, seed, curve.steps, values, look.color, wrong=not fine)
            style = {**look.line, "part": "median", "linewidth": 1.8}
            sheet.line(ax, metric, label, curve.steps, _median(curve.values), **style)
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
    return sheet.drawing(_facts(metrics, experiment, found) | {"left_out": left_out})


# ---- softmax and linear attention ----

# Models of Figure 2 -> the titles of their attention and of their value matrix.
MODELS = {
    "softmax": ("softmax model: attention", "value"),
    "linear": ("linear model: attention", "value"),
    DATA: ("truth: $Q$", "$P$"),
}
NAMED = {"softmax": "softmax model", "linear": "linear model"}


@FIGURES("fig2")
def fig2(metrics: Metrics, experiment: Runs) -> Drawing:
    """Attention and value matrices of the softmax and of the linear model beside the truth, and their losses."""
    right, seeds = _right(metrics, experiment), _seeds(metrics, experiment)
    single = int(right.argmax())
    sheet = Sheet(3, 3, size=(WIDE, 5.0), width_ratios=[2.1, 0.95, 1.9])
    found = {label: replace(look, name=NAMED.get(label, look.name)) for label, look in _looks(experiment).items()}
    _matrices(sheet, metrics, experiment, single)
    _losses(sheet, sheet.panels[:, 2], metrics, experiment, single, found)
    sheet.letter()
    floor = metrics.value(experiment.name, "floor")
    finals = {label: metrics.value(experiment.name, "loss", label) for label in found}
    facts = {
        "seeds": len(seeds),
        "wrong_seeds": _chosen(seeds, ~right),
        "single": seeds[single],
        "floor": floor[single],
        "losses": {label: final[single] for label, final in finals.items()},
        "largest_excess": {label: (final - floor).max() for label, final in finals.items()},
        "positions": experiment.settings.positions,
        "record_every": experiment.settings.record_every,
    }
    return sheet.drawing(facts)


def _matrices(sheet: Sheet, metrics: Metrics, experiment: Runs, single: int) -> None:
    """The attention and the value matrix of one seed, a row of panels for each model, on common colour scales."""
    attentions = {model: metrics.array(experiment.name, "attention", model)[single] for model in MODELS}
    values = {model: metrics.array(experiment.name, "value", model)[single].T for model in MODELS}
    largest, top = (max(float(matrix.max()) for matrix in found.values()) for found in (attentions, values))
    for (wide, small), (model, (attention_title, value_title)) in zip(sheet.panels[:, :2], MODELS.items(), strict=True):
        name = "truth" if model == DATA else model
        role = "data" if model == DATA else "run"
        scale: Any = {"cmap": "Blues", "vmin": 0, "vmax": largest}
        image = sheet.heat(wide, f"attention, {name}", name, attentions[model], role=role, **scale)
        states, positions = attentions[model].shape
        places = np.arange(states)
        marks = np.linspace(0, positions, 6).astype(int)[1:] - 1
        wide.set(ylabel="last token", title=attention_title)
        named = [str(place + 1) for place in range(states)]
        wide.set(yticks=places, yticklabels=named, xticks=marks, xticklabels=[str(mark + 1) for mark in marks])
        sheet.heat(small, f"value, {name}", name, values[model], role=role, cmap="Purples", vmin=0, vmax=top)
        for (to, current), value in np.ndenumerate(values[model]):
            colour = "white" if value > 0.6 * top else "black"
            small.text(current, to, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        small.set(ylabel="next", title=value_title, aspect="equal")
        small.set(yticks=places, yticklabels=named, xticks=places, xticklabels=named)
    bar = sheet.figure.colorbar(
        image, ax=list(sheet.panels[:, 0]), orientation="horizontal", aspect=50, pad=0.01, shrink=0.9
    )
    bar.set_label("attention")
    sheet.panels[2, 0].set_xlabel("position")
    sheet.panels[2, 1].set_xlabel("current state")


def _losses(
    sheet: Sheet, panels: np.ndarray, metrics: Metrics, experiment: Runs, single: int, found: Mapping[str, Look]
) -> None:
    """The training loss of one seed; of all seeds, the population loss above the floor and the distance to Q."""
    training, excess, distance = panels
    floor = metrics.value(experiment.name, "floor")
    for label, look in found.items():
        curve = metrics.curve(experiment.name, "training_loss", label)
        style = {**look.line, "linestyle": "-", "linewidth": 0.8}
        one = _seeds(metrics, experiment)[single]
        sheet.line(training, "training loss", label, curve.steps, curve.values[single], part=f"seed {one}", **style)
        curve = metrics.curve(experiment.name, "loss", label)
        above = Curve(curve.seeds, curve.steps, curve.values - floor[:, None])
        geometric: dict[str, Any] = {**look.line, "middle": "geometric mean"}
        sheet.band(excess, "population loss above the floor", label, above, **geometric)
        curve = metrics.curve(experiment.name, "attention_distance", label)
        sheet.band(distance, "distance to Q", label, curve, **geometric)
    steps = metrics.curve(experiment.name, "loss", next(iter(found))).steps
    style = {"color": "black", "linestyle": "--", "linewidth": 1, "label": "floor $L(P,Q)$", "role": "data"}
    sheet.line(training, "training loss", "floor", steps, np.full(steps.size, floor[single]), **style)
    seed = _seeds(metrics, experiment)[single]
    training.set(ylabel="training loss", title=f"training loss, seed {seed}")
    excess.set(ylabel="loss − floor", yscale="log", title=f"population loss, {len(floor)} seeds")
    distance.set(ylabel=r"$\|A-Q\|_\mu^2$", yscale="log", title=f"distance to $Q$, {len(floor)} seeds", xlabel="steps")
    for ax in panels:
        ax.set_xlim(0, experiment.settings.iterations)
    sheet.legend(3)


# ---- beyond the paper ----


@FIGURES("extra_transfer")
def extra_transfer(metrics: Metrics, experiment: Runs) -> Drawing:
    """How much of the support is found after how many steps, by the correlation of the start."""
    sheet = Sheet(1, 2, size=(WIDE, 2.9), width_ratios=[1.5, 1])
    left, right = sheet.panels[0]
    found = _looks(experiment)
    firsts, names = {}, {}
    for place, (label, look) in enumerate(found.items()):
        optimizer = experiment.optimizers[label]
        ours = optimizer.rule == "preconditioned_prox"
        names[label] = f"θ = {optimizer.options.pretrained:g}" if ours else look.name
        curve = metrics.curve(experiment.name, "support_found", label).window(1, np.inf)
        panel = "support found, mean over seeds"
        style = {**look.line, "label": names[label], "part": "mean"}
        sheet.line(left, panel, label, curve.steps, curve.values.mean(axis=0), **style)
        firsts[label] = first_found(metrics, experiment.name, label)
        _first_of_each_seed(sheet, right, label, firsts[label], place, look, experiment.settings.iterations)
    left.set(xlabel="steps", ylabel="share of the support found", xscale="log", ylim=(-0.03, 1.05))
    left.set_title("mean of the seeds")
    right.set(yscale="log", ylabel="steps to the whole support", xlabel="start", title="each seed, and median")
    right.set_xticks(range(len(names)), [name.removeprefix("θ = ") for name in names.values()])
    right.set_xlabel("θ, correlation of the start")
    right.set_xlim(-0.5, len(names) - 0.2)
    sheet.letter()
    sheet.legend(4)
    medians = {names[label]: float(np.median(steps)) for label, steps in firsts.items()}
    return sheet.drawing({"medians": medians, "seeds": len(_seeds(metrics, experiment))})


def _first_of_each_seed(
    sheet: Sheet, ax: Axes, label: str, found: np.ndarray, place: int, look: Look, end: int
) -> None:
    """The seeds' first steps with the whole support in one column, and their median; how many never got there."""
    panel = "steps to the whole support"
    places, shown = np.full(found.size, place), np.where(np.isfinite(found), found, np.nan)
    style = {**look.points, "label": None, "markersize": 4, "alpha": 0.7}
    sheet.points(ax, panel, label, places, shown, part="every seed", **style)
    middle = float(np.median(found))
    if np.isfinite(middle):
        ends, style = [place - 0.25, place + 0.25], {"part": "median", "color": "black", "linewidth": 1.2}
        sheet.line(ax, panel, label, ends, [middle, middle], **style)
    never = int((~np.isfinite(found)).sum())
    if never:
        note = f"{never} of {found.size}\nnot in {end}"
        ax.annotate(note, (place, end), xytext=(5, 0), textcoords="offset points", fontsize=7, va="center")


# Rules of the switch -> their names in legends, and their marks.
SWITCH_NAMES = {
    "robust_deviations_4.5": ("above 4.5 robust s.d.", "v"),
    "robust_deviations_6": ("above 6 robust s.d.", "^"),
    "share_of_largest_0.5": ("above half the largest", "s"),
    "largest": ("Q largest", "D"),
    "largest_deviations": ("Q farthest from 1/T", "o"),
}


@FIGURES("extra_switch")
def extra_switch(metrics: Metrics, main: Runs, *others: Runs) -> Drawing:
    """How often each rule of the switch keeps exactly the true positions; and where the main one fails."""
    sheet = Sheet(1, 2, size=(WIDE, 3.1), width_ratios=[1.5, 1])
    left, right = sheet.panels[0]
    experiments = (main, *others)
    rates, label = {e.name: _rates(metrics, e) for e in experiments}, _boosting(main)
    for index, rule in enumerate(SWITCHES):
        name, marker = SWITCH_NAMES[rule]
        places = np.arange(len(experiments)) + 0.13 * (index - (len(SWITCHES) - 1) / 2)
        middle, low, high = np.array([rates[e.name][rule] for e in experiments]).T
        colour = "#332288" if rule == main.settings.switch_rule else GREY
        style = {"marker": marker, "color": colour, "markersize": 4, "label": name, "part": rule}
        sheet.points(left, "share of seeds with the right support", label, places, middle, low, high, **style)
    told = ["Figure 1" if e is main else _difference(e, main).partition(" in place")[0] for e in experiments]
    sizes = [len(_seeds(metrics, e)) for e in experiments]
    left.set_xticks(range(len(told)), [f"{name}\n{size} seeds" for name, size in zip(told, sizes, strict=True)])
    left.set(ylabel="share of seeds, 95 % interval", ylim=(-0.03, 1.05), title="support exactly right")
    _signs(sheet, right, metrics, main)
    sheet.letter()
    for ax, side, columns in ((left, "left", 2), (right, "right", 1)):
        place: Any = {"loc": f"outside upper {side}", "ncols": columns, "fontsize": 7.5}
        sheet.figure.legend(*ax.get_legend_handles_labels(), **place)
    facts = {
        "rates": rates,
        "settings": dict(zip(rates, told, strict=True)),
        "names": {r: n for r, (n, _) in SWITCH_NAMES.items()},
    }
    sequences = {e.name: e.settings.boosting_steps * e.settings.batch_size for e in experiments}
    tokens = {e.name: f"{sequences[e.name] * e.settings.positions:.2g}" for e in experiments}
    mirrored = {
        e.name: int((metrics.value(e.name, "attention_alignment", _boosting(e)) < 0).sum()) for e in experiments
    }
    facts |= {
        "sequences": sequences,
        "tokens": tokens,
        "mirrored": mirrored,
        "seeds": dict(zip(rates, sizes, strict=True)),
    }
    return sheet.drawing(facts)


def _boosting(experiment: Runs) -> str:
    """The label of the experiment's boosting runs."""
    return next(label for label, optimizer in experiment.optimizers.items() if optimizer.options.boosting)


def _rates(metrics: Metrics, experiment: Runs) -> dict[str, tuple[float, float, float]]:
    """The share of seeds that each rule of the switch gets right, with the ends of Wilson's 95 % interval."""
    label = _boosting(experiment)
    found = {}
    for rule in SWITCHES:
        exact = metrics.value(experiment.name, "switch_exact", label, index=rule)
        n, share, z = exact.size, float(exact.mean()), 1.96
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
        found[rule] = share, min(middle - half, share), max(middle + half, share)
    return found


def _signs(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> None:
    """Every seed's alpha_A at the switch against its alpha_V, by which rules keep the true positions."""
    label = _boosting(experiment)
    x, y = (1e3 * metrics.value(experiment.name, metric, label) for metric in ALIGNMENTS)
    two, one = (
        metrics.value(experiment.name, "switch_exact", label, index=rule) == 1
        for rule in ("largest_deviations", "largest")
    )
    kinds = {
        "right by both Q rules": (two & one, "#332288", "o"),
        "only as farthest from 1/T": (two & ~one, "#D55E00", "*"),
        "only as largest": (~two & one, "#009E73", "D"),
        "wrong by both": (~two & ~one, "black", "x"),
    }
    for name, (chosen, colour, marker) in kinds.items():
        if chosen.any():
            style: Any = {"color": colour, "linestyle": "none", "markersize": 7 if marker == "*" else 3.5}
            style |= {"marker": marker, "label": name, "part": name}
            sheet.points(ax, "alignments at the switch, times 1000", label, x[chosen], y[chosen], **style)
    for line in (ax.axhline, ax.axvline):
        line(0, color="#444444", linewidth=0.6)
    ax.set(xlabel=r"$10^3\,\alpha_V$", ylabel=r"$10^3\,\alpha_A$", title="each seed of Figure 1's setting")
