"""The figures of this paper (docs/papers/scb.md, section 1), and ours beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.scb.claims import first_found
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import BLUE, CYCLE, GREEN, GREY, ORANGE, PINK, RED, SKY, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import DATA, Curve, Metrics

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Bigram, RunOptions]

COLOURS = {
    "prox": BLUE, "sgd_large": RED, "sgd_small": ORANGE, "prox_literal": GREEN, "prox_absolute": SKY,
    "no_switch": PINK, "raw_large": GREY, "raw_small": "black", "softmax": "#882255", "linear": BLUE,
}  # fmt: skip
# Dashes for curves that lie on others.
DASHES = {"prox_literal": (0, (4, 3)), "no_switch": (0, (4, 3)), "raw_small": (0, (1, 2))}
# Metric -> what it is the distance to, and its symbol.
DISTANCES = {"value_distance": ("P", r"\|V-P\|_\mu^2"), "attention_distance": ("Q", r"\|A-Q\|_\mu^2")}


def _distance(metric: str) -> str:
    target, symbol = DISTANCES[metric]
    return f"distance to ${target}$: ${symbol}$"


def _relative(metric: str) -> str:
    target, symbol = DISTANCES[metric]
    return f"${symbol} / K_{target}$"


def _colour(label: str, index: int) -> str:
    return COLOURS.get(label, CYCLE[index % len(CYCLE)])


def _name(experiment: Runs, label: str) -> str:
    """An optimizer as a legend shows it."""
    optimizer = experiment.optimizer(label)
    size = rf"$\eta_2={optimizer.hyperparameters.get('lr', float('nan')):g}$"
    penalty = optimizer.hyperparameters.get("penalty", 0)
    if optimizer.rule == "gd":
        return f"raw SGD, {size}"
    if optimizer.rule != "preconditioned_prox":
        return label
    if penalty:
        return rf"prox, {size}, $\lambda={penalty:g}$"
    return f"SGD, {size}" + ("" if optimizer.options.switch else ", no switch")


def _drawn(experiment: Runs) -> list[str]:
    """The optimizers whose runs go to the end; the boosting runs are the first part of others."""
    return [label for label, optimizer in experiment.optimizers.items() if not optimizer.options.boosting]


def _right(metrics: Metrics, experiment: Runs) -> np.ndarray:
    """Which seeds have the right support after the switch, shape (seeds,); all of them where nobody switches."""
    for label in experiment.optimizers:
        if metrics.has(experiment.name, "support_exact", label):
            return metrics.value(experiment.name, "support_exact", label) == 1
    return np.ones(len(_seeds(metrics, experiment)), dtype=bool)


def _seeds(metrics: Metrics, experiment: Runs) -> tuple[int, ...]:
    return metrics.curve(experiment.name, "k_p").seeds


def _chosen(seeds: Sequence[int], chosen: np.ndarray) -> list[int]:
    """The seeds that are chosen."""
    return [seed for seed, wanted in zip(seeds, chosen, strict=True) if wanted]


def _part(curve: Curve, chosen: np.ndarray) -> Curve:
    """The curves of some seeds."""
    return Curve(tuple(_chosen(curve.seeds, chosen)), curve.steps, curve.values[chosen])


def _lines(
    sheet: Sheet,
    ax: Axes,
    panel: str,
    metrics: Metrics,
    experiment: Runs,
    metric: str,
    labels: Sequence[str],
    *,
    log: bool = True,
    relative: bool = False,
) -> None:
    """Mean and range of the seeds with the right support; the others as thin dotted lines.

    `relative` divides each seed's curve by its start.
    """
    right = _right(metrics, experiment)
    for index, label in enumerate(labels):
        curve = metrics.curve(experiment.name, metric, label)
        if relative:
            curve = Curve(curve.seeds, curve.steps, curve.values / curve.at(0)[:, None])
        name, colour = _name(experiment, label), _colour(label, index)
        if right.any():
            style: dict[str, Any] = {"color": colour, "label": name, "linestyle": DASHES.get(label, "-")}
            sheet.band(ax, panel, name, _part(curve, right), geometric=log, **style)
        wrong = _part(curve, ~right)
        for seed, values in zip(wrong.seeds, wrong.values, strict=True):
            series = f"{name}, seed {seed} (wrong support)"
            style = {"color": colour, "linestyle": ":", "linewidth": 0.9, "label": None if right.any() else name}
            sheet.line(ax, panel, series, curve.steps, values, **style)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("iteration")


def _mark_switch(ax: Axes, experiment: Runs) -> None:
    ax.axvline(experiment.settings.boosting_steps, color=GREY, linestyle="--", linewidth=0.8)


def _legend(sheet: Sheet, ax: Axes, columns: int) -> None:
    """One legend above all panels, with each name once."""
    handles, names = ax.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    names, handles = list(unique.keys())[::-1], list(unique.values())[::-1]  # the method first, though drawn last
    sheet.figure.legend(handles, names, loc="outside upper center", ncols=columns)


def _facts(metrics: Metrics, experiment: Runs) -> dict[str, Any]:
    """What every caption of a distance figure says."""
    right, seeds = _right(metrics, experiment), _seeds(metrics, experiment)
    finals = {
        label: {
            name: metrics.value(experiment.name, metric, label)[right]
            for name, metric in (("d_v", "value_distance"), ("d_a", "attention_distance"))
        }
        for label in _drawn(experiment)
    }
    alignment = metrics.value(experiment.name, "value_alignment", _drawn(experiment)[0])
    return {
        "seeds": len(seeds),
        "right": int(right.sum()),
        "wrong_seeds": _chosen(seeds, ~right),
        "mirrored_seeds": _chosen(seeds, alignment < 0),
        "switch_step": experiment.settings.boosting_steps,
        "minimum_correlation": experiment.settings.minimum_correlation,
        "finals": {
            label: {name: f"{np.median(v):.2g}" if v.size else "none" for name, v in values.items()}
            for label, values in finals.items()
        },
    }


# ---- distances ----


@FIGURES("fig1")
def fig1(metrics: Metrics, experiment: Runs) -> Drawing:
    """Distances in the paper's setting, with the printed lambda beside ours."""
    return _distances(metrics, experiment, ["sgd_large", "prox_literal", "sgd_small", "prox"])


@FIGURES("fig3")
@FIGURES("fig4")
@FIGURES("fig5")
@FIGURES("fig6")
def substitute(metrics: Metrics, experiment: Runs) -> Drawing:
    """The same in another setting, in the place of one that is unknown."""
    drawing = _distances(metrics, experiment, ["sgd_large", "sgd_small", "prox"])
    settings = experiment.settings
    title = (
        f"substitute: the paper's setting is unknown; here N = {settings.states}, Q = {settings.support}, "
        f"T = {settings.positions}, B = {settings.batch_size}"
    )
    drawing.figure.text(0.995, 0.003, title, ha="right", va="bottom", fontsize=7, color=GREY)
    drawing.figure.get_layout_engine().set(rect=(0, 0.02, 1, 0.98))  # type: ignore[union-attr, call-arg]
    return drawing


def _distances(metrics: Metrics, experiment: Runs, labels: Sequence[str]) -> Drawing:
    """A single run on linear axes as in the paper, then all seeds on linear and on logarithmic ones.

    All seeds are drawn relative to their start, because K_P differs from seed to seed.
    """
    sheet = Sheet(3, 2, size=(8.2, 8.2), sharex=True)
    labels = [*labels, *(label for label in _drawn(experiment) if label not in COLOURS)]
    right = _right(metrics, experiment)
    single = int(right.argmax())
    for column, metric in enumerate(DISTANCES):
        one, band, log = sheet.panels[:, column]
        _one_run(sheet, one, metrics, experiment, metric, labels, single)
        for ax, scale in ((band, "linear"), (log, "log")):
            panel = f"{metric} over its start, all seeds, {scale}"
            _lines(sheet, ax, panel, metrics, experiment, metric, labels, log=scale == "log", relative=True)
            ax.set_ylabel("relative to its start: " + _relative(metric))
        band.set_title(
            f"{right.sum()} of {right.size} seeds: mean and range" + (", others dotted" if not right.all() else "")
        )
        band.set_ylim(0, None)
        band.set_xlabel("")
        log.set_title("the same, log scale")
        for ax in (one, band, log):
            _mark_switch(ax, experiment)
    sheet.figure.align_ylabels()
    sheet.panels[0, 0].set_xlim(0, experiment.settings.iterations)
    letter(sheet.panels)
    _legend(sheet, sheet.panels[0, 0], 3 if len(labels) == 3 else 2)
    facts = _facts(metrics, experiment) | {"single": _seeds(metrics, experiment)[single]}
    return Drawing(sheet.figure, sheet.table, facts)


def _one_run(
    sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, metric: str, labels: Sequence[str], single: int
) -> None:
    """A distance of one seed, by optimizer."""
    for index, label in enumerate(labels):
        curve, name = metrics.curve(experiment.name, metric, label), _name(experiment, label)
        style = {"color": _colour(label, index), "label": name, "linestyle": DASHES.get(label, "-")}
        sheet.line(ax, f"{metric}, one run", name, curve.steps, curve.values[single], **style)
    ax.set(ylabel=_distance(metric), ylim=(0, None), title=f"one run (seed {_seeds(metrics, experiment)[single]})")


@FIGURES("extra_scaled")
def extra_scaled(metrics: Metrics, experiment: Runs) -> Drawing:
    """Distances with tenfold steps."""
    return _two_distances(metrics, experiment)


@FIGURES("extra_long")
def extra_long(metrics: Metrics, experiment: Runs) -> Drawing:
    """Distances over many iterations, with the final rounding marked."""
    drawing = _two_distances(metrics, experiment)
    at = experiment.settings.iterations - experiment.settings.rounding_steps
    for ax in drawing.figure.axes:
        ax.axvline(at, color=GREY, linestyle="-.", linewidth=0.8)
    return Drawing(drawing.figure, drawing.table, {**drawing.facts, "rounding_step": at})


def _two_distances(metrics: Metrics, experiment: Runs) -> Drawing:
    sheet = Sheet(1, 2, size=(9, 3.4))
    labels = sorted(_drawn(experiment), key=lambda label: label == "prox")
    for ax, metric in zip(sheet.panels[0], DISTANCES, strict=True):
        _lines(sheet, ax, metric, metrics, experiment, metric, labels)
        ax.set(ylabel=_distance(metric), xlim=(0, experiment.settings.iterations))
        _mark_switch(ax, experiment)
    letter(sheet.panels)
    _legend(sheet, sheet.panels[0, 0], 3)
    return Drawing(sheet.figure, sheet.table, _facts(metrics, experiment))


# ---- softmax and linear attention ----

# Models of Figure 2 -> the names of the model, of its attention and of its value matrix.
MODELS = {
    "softmax": ("softmax", "softmax model: softmax($W$)", "$V$, softmax"),
    "linear": ("linear", "linear model: $A$", "$V$, linear"),
    DATA: ("truth", "$Q$", "$P$"),
}


@FIGURES("fig2")
def fig2(metrics: Metrics, experiment: Runs) -> Drawing:
    """Attention and value matrices of the softmax and of the linear model beside the truth, and their losses."""
    right, seeds = _right(metrics, experiment), _seeds(metrics, experiment)
    single = int(right.argmax())
    sheet = Sheet(3, 3, size=(11, 5.6), width_ratios=[2.2, 0.9, 1.9])
    _matrices(sheet, metrics, experiment, single)
    _losses(sheet, sheet.panels[:, 2], metrics, experiment, single)
    floor = metrics.value(experiment.name, "floor")
    finals = {model: metrics.value(experiment.name, "loss", model) for model in MODELS if model != DATA}
    facts = {
        "seeds": len(seeds),
        "wrong_seeds": _chosen(seeds, ~right),
        "single": seeds[single],
        "floor": floor[single],
        "losses": {model: final[single] for model, final in finals.items()},
        "largest_excess": {model: (final - floor).max() for model, final in finals.items()},
        "positions": experiment.settings.positions,
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _matrices(sheet: Sheet, metrics: Metrics, experiment: Runs, single: int) -> None:
    """The attention and the value matrix of one seed, a row of panels for each model, on common colour scales."""
    attentions = {model: metrics.array(experiment.name, "attention", model)[single] for model in MODELS}
    values = {model: metrics.array(experiment.name, "value", model)[single].T for model in MODELS}
    largest, top = (max(float(matrix.max()) for matrix in found.values()) for found in (attentions, values))
    for (wide, small), (model, (name, attention_title, value_title)) in zip(
        sheet.panels[:, :2], MODELS.items(), strict=True
    ):
        image = sheet.heat(wide, f"attention, {name}", name, attentions[model], cmap="Blues", vmin=0, vmax=largest)
        sheet.figure.colorbar(image, ax=wide, pad=0.01)
        states, positions = attentions[model].shape
        places = np.arange(states)
        marks = np.linspace(0, positions, 6).astype(int)[1:] - 1
        wide.set(ylabel="last token", title=attention_title)
        wide.set(yticks=places, yticklabels=places + 1, xticks=marks, xticklabels=marks + 1)
        sheet.heat(small, f"value, {name}", name, values[model], cmap="Purples", vmin=0, vmax=top)
        for (to, current), value in np.ndenumerate(values[model]):
            colour = "white" if value > 0.6 * top else "black"
            small.text(current, to, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        small.set(ylabel="next", title=value_title, aspect="equal")
        small.set(yticks=places, yticklabels=places + 1, xticks=places, xticklabels=places + 1)
    sheet.panels[2, 0].set_xlabel("position")
    sheet.panels[2, 1].set_xlabel("current state")


def _losses(sheet: Sheet, panels: Sequence[Axes] | np.ndarray, metrics: Metrics, experiment: Runs, single: int) -> None:
    """The training loss of one seed; of all seeds, the population loss above the floor and the distance to Q."""
    training, excess, distance = panels
    one_run = "training loss, one run"
    floor = metrics.value(experiment.name, "floor")
    for model in MODELS:
        if model == DATA:
            continue
        style = {"color": COLOURS[model], "label": model}
        curve = metrics.curve(experiment.name, "training_loss", model)
        sheet.line(training, one_run, model, curve.steps, curve.values[single], **style, linewidth=0.8)
        curve = metrics.curve(experiment.name, "loss", model)
        above = Curve(curve.seeds, curve.steps, curve.values - floor[:, None])
        sheet.band(excess, "population loss above the floor", model, above, geometric=True, **style)
        curve = metrics.curve(experiment.name, "attention_distance", model)
        sheet.band(distance, "distance to Q", model, curve, geometric=True, **style)
    steps = metrics.curve(experiment.name, "loss", "softmax").steps
    sheet.line(
        training, one_run, "floor", steps, np.full(steps.size, floor[single]),
        color="black", linestyle="--", linewidth=1, label="floor $L(P,Q)$",
    )  # fmt: skip
    training.set(ylabel="training loss", title=f"one run (seed {_seeds(metrics, experiment)[single]})")
    bottom, upper = training.get_ylim()
    training.set_ylim(bottom, upper + 0.3 * (upper - bottom))
    training.legend(loc="upper right", ncols=3)
    excess.set(ylabel="loss − floor", yscale="log", title=f"population loss, {len(floor)} seeds")
    target, symbol = DISTANCES["attention_distance"]
    distance.set(ylabel=f"${symbol}$", yscale="log", title=f"distance to ${target}$", xlabel="iteration")
    for ax in panels:
        ax.set_xlim(0, experiment.settings.iterations)


# ---- beyond the paper ----


@FIGURES("extra_baselines")
def extra_baselines(metrics: Metrics, experiment: Runs) -> Drawing:
    """Three readings of lambda, no switch, and raw SGD with the steps at which it diverges."""
    sheet = Sheet(2, 2, size=(9, 6.4), sharex=True)
    readings = ["sgd_large", "prox_literal", "prox_absolute", "prox"]
    variants = ["sgd_large", "no_switch", "raw_large", "raw_small"]
    dotted = "" if _right(metrics, experiment).all() else " (wrong support dotted)"
    for (top, bottom), metric in zip(sheet.panels.T, DISTANCES, strict=True):
        _lines(sheet, top, f"{metric}, lambda", metrics, experiment, metric, readings, relative=True)
        top.set(xlabel="", ylabel=_relative(metric), title=r"readings of $\lambda$: mean and range" + dotted)
        for label in variants:
            _every_seed(sheet, bottom, f"{metric}, SGD", metrics, experiment, metric, label)
        bottom.set(xlabel="iteration", ylabel=_relative(metric), yscale="log", ylim=(2e-3, 20))
        bottom.set_title("readings of SGD: every seed (× diverged)")
        for ax in (top, bottom):
            _mark_switch(ax, experiment)
    for ax in sheet.panels[:, 0]:
        ax.legend(loc="lower left", frameon=True, facecolor="white", edgecolor="none", framealpha=1)
    sheet.panels[0, 0].set_xlim(0, experiment.settings.iterations)
    letter(sheet.panels)
    diverged = {}
    for label in variants:
        if metrics.has(experiment.name, "diverged_at", label):
            at = metrics.value(experiment.name, "diverged_at", label)
            diverged[label] = [int(step) for step in at[~np.isnan(at)]]
    return Drawing(sheet.figure, sheet.table, _facts(metrics, experiment) | {"diverged": diverged})


def _every_seed(
    sheet: Sheet, ax: Axes, panel: str, metrics: Metrics, experiment: Runs, metric: str, label: str
) -> None:
    """An optimizer's curves over their starts, with a cross where one diverged."""
    curve, name = metrics.curve(experiment.name, metric, label), _name(experiment, label)
    style = {"color": COLOURS[label], "linewidth": 1.2, "linestyle": DASHES.get(label, "-")}
    relative = curve.values / curve.values[:, :1]
    for index, (seed, values) in enumerate(zip(curve.seeds, relative, strict=True)):
        sheet.line(ax, panel, f"{name}, seed {seed}", curve.steps, values, **style, label=None if index else name)
    if not metrics.has(experiment.name, "diverged_at", label):
        return
    for step, values in zip(metrics.value(experiment.name, "diverged_at", label), relative, strict=True):
        if not np.isnan(step):
            last = np.where(np.isnan(values), -1, curve.steps).argmax()
            height = min(values[last], 8.0)
            ax.plot(step, height, marker="x", color=COLOURS[label], markersize=7, clip_on=False, zorder=5)
            sheet.record(panel, f"{label} diverged", [step], [height])


@FIGURES("extra_transfer")
def extra_transfer(metrics: Metrics, experiment: Runs) -> Drawing:
    """How much of the support is found after how many iterations, by the correlation of the start."""
    sheet = Sheet(1, 2, size=(9, 3.2), width_ratios=[1.5, 1])
    left, right = sheet.panels[0]
    thetas = [f"{optimizer.options.pretrained:g}" for optimizer in experiment.optimizers.values()]
    firsts = {}
    for index, (label, theta) in enumerate(zip(experiment.optimizers, thetas, strict=True)):
        name, colour = rf"$\theta={theta}$", CYCLE[index % len(CYCLE)]
        curve = metrics.curve(experiment.name, "support_found", label).window(1, np.inf)
        style = {"color": colour, "label": name, "linestyle": ["-", "-", (0, (5, 2)), (0, (1, 1))][index % 4]}
        sheet.line(left, "support found, mean over seeds", name, curve.steps, curve.values.mean(axis=0), **style)
        firsts[theta] = first_found(metrics, experiment.name, label)
        _first_of_each_seed(sheet, right, name, firsts[theta], index, colour, experiment.settings.iterations)
    left.set(xlabel="iteration", ylabel="share of the support found", xscale="log", ylim=(-0.03, 1.05))
    left.set_title("mean of the seeds")
    left.legend(loc="upper left")
    right.set(
        yscale="log", ylabel="iterations to the whole support", xlabel=r"$\theta$, start correlation", title="each seed"
    )
    right.set_xticks(range(len(thetas)), thetas)
    right.set_xlim(-0.5, len(thetas) - 0.2)
    letter(sheet.panels)
    medians = {theta: float(np.median(found)) for theta, found in firsts.items()}
    return Drawing(sheet.figure, sheet.table, {"medians": medians, "seeds": len(_seeds(metrics, experiment))})


def _first_of_each_seed(
    sheet: Sheet, ax: Axes, name: str, found: np.ndarray, place: int, colour: str, end: int
) -> None:
    """The seeds' first iterations with the whole support as dots in one column; how many never got there."""
    places, shown = np.full(found.size, place), np.where(np.isfinite(found), found, np.nan)
    ax.plot(places, shown, "o", color=colour, markersize=5, alpha=0.8)
    sheet.record("iterations to the whole support", name, places, shown)
    never = int((~np.isfinite(found)).sum())
    if never:
        ax.annotate(
            f"{never} of {found.size} not\nwithin {end}", (place, end), xytext=(8, -2),
            textcoords="offset points", fontsize=7, va="center",
        )  # fmt: skip


ALIGNMENTS = {"value_alignment": r"$\alpha_V$", "attention_alignment": r"$\alpha_A$"}
POPULATION: dict[str, Any] = {"linestyle": "--", "linewidth": 1}


@FIGURES("extra_alignment")
def extra_alignment(metrics: Metrics, switched: Runs, unswitched: Runs) -> Drawing:
    """alpha_V and alpha_A of the runs against gradient descent on the population loss."""
    sheet = Sheet(2, 2, size=(9, 6))
    for ax, metric in zip(sheet.panels[0], ALIGNMENTS, strict=True):
        _with_the_switch(sheet, ax, metrics, switched, metric)
    for ax, metric in zip(sheet.panels[1], ALIGNMENTS, strict=True):
        _without_the_switch(sheet, ax, metrics, unswitched, metric)
    for row in sheet.panels:
        for ax, symbol in zip(row, ALIGNMENTS.values(), strict=True):
            ax.set(xlabel="iteration", ylabel=symbol)
            ax.axhline(0, color="#444444", linewidth=0.6)
        row[0].legend(loc="upper left")
    letter(sheet.panels)
    negative = metrics.value(unswitched.name, "value_alignment", "no_switch") < 0
    facts = _facts(metrics, unswitched) | {"negative": _chosen(_seeds(metrics, unswitched), negative)}
    return Drawing(sheet.figure, sheet.table, facts)


def _with_the_switch(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, metric: str) -> None:
    """Mean and range of the seeds with the right support, and the mean population path."""
    panel = f"{experiment.name}, {metric}"
    right = _right(metrics, experiment)
    shown = right if right.any() else ~right
    for index, label in enumerate(["prox", "sgd_large", "sgd_small"]):
        curve, name = metrics.curve(experiment.name, metric, label), _name(experiment, label)
        sheet.band(ax, panel, name, _part(curve, shown), color=_colour(label, index), label=name)
        path = _part(metrics.curve(experiment.name, f"{metric}_population", label), shown)
        style = {**POPULATION, "color": "black", "label": None if index else "population"}
        sheet.line(ax, panel, f"{name}, population", path.steps, path.values.mean(axis=0), **style)
    ax.set(title=f"with the switch at {experiment.settings.boosting_steps}", xlim=(0, curve.steps[-1]))


def _without_the_switch(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs, metric: str) -> None:
    """Every seed and its population path."""
    panel, label = f"{experiment.name}, {metric}", "no_switch"
    curve = metrics.curve(experiment.name, metric, label)
    path = metrics.curve(experiment.name, f"{metric}_population", label)
    for index, seed in enumerate(curve.seeds):
        name, colour = f"seed {seed}", CYCLE[index % len(CYCLE)]
        sheet.line(ax, panel, name, curve.steps, curve.values[index], color=colour, label=name)
        style = {**POPULATION, "color": colour, "label": None if index else "population"}
        sheet.line(ax, panel, f"{name}, population", path.steps, path.values[index], **style)
    ax.set(title=f"{_name(experiment, label)}: every seed", xlim=(0, curve.steps[-1]))
