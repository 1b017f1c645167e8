"""The figures of this paper (papers/scb, section 2), and ours beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.experiments import Experiment
from workflow.lib.papers import Draw, Drawing
from workflow.lib.papers.scb.claims import first_found
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plotting import BLUE, CYCLE, GREEN, GREY, ORANGE, PINK, RED, SKY, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import DATA, Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Experiments = Mapping[str, Experiment]

COLOURS = {
    "prox": BLUE, "sgd_large": RED, "sgd_small": ORANGE, "prox_literal": GREEN, "prox_absolute": SKY,
    "no_switch": PINK, "raw_large": GREY, "raw_small": "black", "softmax": "#882255", "linear": BLUE,
}  # fmt: skip
# Dashes for curves that lie on others.
DASHES = {"prox_literal": (0, (4, 3)), "no_switch": (0, (4, 3)), "raw_small": (0, (1, 2))}
DISTANCES = {
    "value_distance": r"distance to $P$: $\|V-P\|_\mu^2$",
    "attention_distance": r"distance to $Q$: $\|A-Q\|_\mu^2$",
}
RELATIVE = {"value_distance": r"$\|V-P\|_\mu^2 / K_P$", "attention_distance": r"$\|A-Q\|_\mu^2 / K_Q$"}


def _settings(experiment: Experiment) -> Bigram:
    assert isinstance(experiment.settings, Bigram)
    return experiment.settings


def _colour(label: str, index: int) -> str:
    return COLOURS.get(label, CYCLE[index % len(CYCLE)])


def _name(experiment: Experiment, label: str) -> str:
    """An optimizer as a legend shows it."""
    optimizer = experiment.optimizers[label]
    options = optimizer.options
    assert isinstance(options, RunOptions)
    size = rf"$\eta_2={optimizer.hyperparameters.get('step_size', float('nan')):g}$"
    penalty = optimizer.hyperparameters.get("penalty", 0)
    if optimizer.rule == "gd":
        return f"raw SGD, {size}"
    if optimizer.rule != "preconditioned_prox":
        return label
    if penalty:
        return rf"prox, {size}, $\lambda={penalty:g}$"
    return f"SGD, {size}" + ("" if options.start == "switched" else ", no switch")


def _right(metrics: Metrics, experiment: str) -> np.ndarray:
    """Which seeds have the right support after the switch, shape (seeds,); all of them where nobody switches."""
    for label in metrics.optimizers(experiment):
        try:
            return metrics.value(experiment, "support_exact", label) == 1
        except NotRecordedError:
            continue
    return np.ones(len(metrics.value(experiment, "k_p")), dtype=bool)


def _part(curve: Curve, chosen: np.ndarray) -> Curve:
    """The curves of some seeds."""
    seeds = tuple(seed for seed, wanted in zip(curve.seeds, chosen, strict=True) if wanted)
    return Curve(seeds, curve.steps, curve.values[chosen])


def _lines(
    sheet: Sheet,
    ax: Axes,
    panel: str,
    metrics: Metrics,
    experiment: Experiment,
    metric: str,
    labels: Sequence[str],
    *,
    log: bool = True,
    relative: bool = False,
) -> None:
    """Mean and range of the seeds with the right support; the others as thin dotted lines.

    `relative` divides each seed's curve by its start.
    """
    right = _right(metrics, experiment.name)
    for index, label in enumerate(labels):
        curve = metrics.curve(experiment.name, metric, label)
        if relative:
            curve = Curve(curve.seeds, curve.steps, curve.values / curve.at(0)[:, None])
        name, colour = _name(experiment, label), _colour(label, index)
        if right.any():
            style: dict[str, Any] = {"color": colour, "label": name, "linestyle": DASHES.get(label, "-")}
            sheet.band(ax, panel, name, _part(curve, right), geometric=log, **style)
        for seed, values in zip(curve.seeds, curve.values, strict=True):
            if not right[curve.seeds.index(seed)]:
                series = f"{name}, seed {seed} (wrong support)"
                style = {"color": colour, "linestyle": ":", "linewidth": 0.9, "label": None if right.any() else name}
                sheet.line(ax, panel, series, curve.steps, values, **style)
    if log:
        ax.set_yscale("log")
    ax.set_xlabel("iteration")


def _mark_switch(ax: Axes, experiment: Experiment) -> None:
    ax.axvline(_settings(experiment).boosting_steps, color=GREY, linestyle="--", linewidth=0.8)


def _legend(sheet: Sheet, ax: Axes, columns: int) -> None:
    """One legend above all panels, with each name once."""
    handles, names = ax.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    names, handles = list(unique.keys())[::-1], list(unique.values())[::-1]  # the method first, though drawn last
    sheet.figure.legend(handles, names, loc="outside upper center", ncols=columns)


def _facts(metrics: Metrics, experiment: Experiment) -> dict[str, Any]:
    """What every caption of a distance figure says."""
    right = _right(metrics, experiment.name)
    labels = metrics.optimizers(experiment.name)
    seeds = metrics.curve(experiment.name, "k_p").seeds
    finals = {
        label: {
            name: metrics.value(experiment.name, metric, label)[right]
            for name, metric in (("d_v", "value_distance"), ("d_a", "attention_distance"))
        }
        for label in labels
    }
    mirrored = [
        seed
        for seed, alignment in zip(seeds, metrics.value(experiment.name, "value_alignment", labels[0]), strict=True)
        if alignment < 0
    ]
    return {
        "seeds": len(seeds),
        "right": int(right.sum()),
        "wrong_seeds": [seed for seed, fine in zip(seeds, right, strict=True) if not fine],
        "mirrored_seeds": mirrored,
        "k_p": metrics.value(experiment.name, "k_p"),
        "switch_step": _settings(experiment).boosting_steps,
        "minimum_correlation": _settings(experiment).minimum_correlation,
        "finals": {
            label: {name: f"{np.median(v):.2g}" if v.size else "none" for name, v in values.items()}
            for label, values in finals.items()
        },
    }


def _distances(metrics: Metrics, experiment: Experiment, labels: Sequence[str]) -> Drawing:
    """A single run on linear axes as in the paper, then all seeds on linear and on logarithmic ones.

    All seeds are drawn relative to their start, because K_P differs from seed to seed.
    """
    sheet = Sheet(3, 2, size=(8.2, 8.2), sharex=True)
    labels = [*labels, *(o for o in metrics.optimizers(experiment.name) if o not in COLOURS)]
    right = _right(metrics, experiment.name)
    single = int(right.argmax())
    for column, (metric, label) in enumerate(DISTANCES.items()):
        one, band, log = sheet.panels[:, column]
        for index, optimizer in enumerate(labels):
            curve = metrics.curve(experiment.name, metric, optimizer)
            name = _name(experiment, optimizer)
            colour = _colour(optimizer, index)
            style = {"color": colour, "label": name, "linestyle": DASHES.get(optimizer, "-")}
            sheet.line(one, f"{metric}, one run", name, curve.steps, curve.values[single], **style)
        one.set_title(f"one run (seed {metrics.curve(experiment.name, 'k_p').seeds[single]})")
        for ax, scale in ((band, "linear"), (log, "log")):
            panel = f"{metric} over its start, all seeds, {scale}"
            _lines(sheet, ax, panel, metrics, experiment, metric, labels, log=scale == "log", relative=True)
        band.set_title(
            f"{right.sum()} of {right.size} seeds: mean and range" + (", others dotted" if not right.all() else "")
        )
        log.set_title("the same, log scale")
        for ax in (one, band):
            ax.set_ylim(0, None)
            ax.set_xlabel("")
        one.set_ylabel(label)
        for ax in (band, log):
            ax.set_ylabel("relative to its start: " + RELATIVE[metric])
        for ax in (one, band, log):
            _mark_switch(ax, experiment)
    sheet.figure.align_ylabels()
    one = sheet.panels[0, 0]
    one.set_xlim(0, _settings(experiment).iterations)
    letter(sheet.panels)
    _legend(sheet, one, 3 if len(labels) == 3 else 2)
    facts = _facts(metrics, experiment)
    return Drawing(sheet.figure, sheet.table, facts | {"single": metrics.curve(experiment.name, "k_p").seeds[single]})


@FIGURES("fig1")
def fig1(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Distances in the paper's setting, with the printed lambda beside ours."""
    return _distances(metrics, experiments["main"], ["sgd_large", "prox_literal", "sgd_small", "prox"])


def _substitute(name: str) -> Draw:
    def draw(metrics: Metrics, experiments: Experiments) -> Drawing:
        drawing = _distances(metrics, experiments[name], ["sgd_large", "sgd_small", "prox"])
        settings = _settings(experiments[name])
        title = (
            f"substitute: the paper's setting is unknown; here N = {settings.states}, Q = {settings.support}, "
            f"T = {settings.positions}, B = {settings.batch_size}"
        )
        drawing.figure.text(0.995, 0.003, title, ha="right", va="bottom", fontsize=7, color=GREY)
        drawing.figure.get_layout_engine().set(rect=(0, 0.02, 1, 0.98))  # type: ignore[union-attr, call-arg]
        return drawing

    return draw


for _figure, _experiment in {3: "another_problem", 4: "more_states", 5: "shorter", 6: "larger_batch"}.items():
    FIGURES(f"fig{_figure}")(_substitute(_experiment))


@FIGURES("fig2")
def fig2(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Attention and value matrices of the softmax and of the linear model beside the truth, and their losses."""
    settings = _settings(experiments["softmax"])
    single = int(_right(metrics, "softmax").argmax())
    sheet = Sheet(3, 3, size=(11, 5.6), width_ratios=[2.2, 0.9, 1.9])
    states = range(settings.states)
    models = {"softmax": "softmax", "linear": "linear", DATA: "truth"}
    values = {o: np.array([metrics.curve("softmax", f"value_{m}", o).values[single] for m in states]).T for o in models}
    attentions = {
        o: np.array([metrics.curve("softmax", f"attention_{k}", o).values[single] for k in states]) for o in models
    }
    top, largest = (max(float(v.max()) for v in matrices.values()) for matrices in (values, attentions))
    for row, (optimizer, name) in enumerate(models.items()):
        wide, small = sheet.panels[row, :2]
        image = sheet.heat(wide, f"attention, {name}", name, attentions[optimizer], cmap="Blues", vmin=0, vmax=largest)
        sheet.figure.colorbar(image, ax=wide, pad=0.01)
        wide.set_title({"softmax": "softmax model: softmax($W$)", "linear": "linear model: $A$"}.get(optimizer, "$Q$"))
        small.set_title({DATA: "$P$"}.get(optimizer, f"$V$, {name}"))
        sheet.heat(small, f"value, {name}", name, values[optimizer], cmap="Purples", vmin=0, vmax=top)
        for (to, current), value in np.ndenumerate(values[optimizer]):
            colour = "white" if value > 0.6 * top else "black"
            small.text(current, to, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        wide.set(ylabel="last token", yticks=list(states), yticklabels=[str(k + 1) for k in states])
        marks = np.linspace(0, settings.positions, 6).astype(int)[1:] - 1
        wide.set(xticks=marks, xticklabels=[str(t + 1) for t in marks])
        small.set(ylabel="next", xticks=list(states), yticks=list(states))
        small.set(xticklabels=[str(k + 1) for k in states], yticklabels=[str(k + 1) for k in states])
        small.set_aspect("equal")
    sheet.panels[2, 0].set_xlabel("position")
    sheet.panels[2, 1].set_xlabel("current state")

    training, excess, distance = sheet.panels[:, 2]
    floor = metrics.value("softmax", "floor")
    for optimizer in models:
        if optimizer == DATA:
            continue
        style = {"color": COLOURS[optimizer], "label": optimizer}
        curve = metrics.curve("softmax", "training_loss", optimizer)
        sheet.line(
            training, "training loss, one run", optimizer, curve.steps, curve.values[single], **style, linewidth=0.8
        )
        curve = metrics.curve("softmax", "loss", optimizer)
        above = Curve(curve.seeds, curve.steps, curve.values - floor[:, None])
        sheet.band(excess, "population loss above the floor", optimizer, above, geometric=True, **style)
        curve = metrics.curve("softmax", "attention_distance", optimizer)
        sheet.band(distance, "distance to Q", optimizer, curve, geometric=True, **style)
    steps = metrics.curve("softmax", "loss", "softmax").steps
    flat = np.full(steps.size, floor[single])
    sheet.line(
        training,
        "training loss, one run",
        "floor",
        steps,
        flat,
        color="black",
        linestyle="--",
        linewidth=1,
        label="floor $L(P,Q)$",
    )
    training.set(ylabel="training loss", title=f"one run (seed {metrics.curve('softmax', 'floor').seeds[single]})")
    bottom, upper = training.get_ylim()
    training.set_ylim(bottom, upper + 0.3 * (upper - bottom))
    training.legend(loc="upper right", ncols=3)
    excess.set(ylabel="loss − floor", yscale="log", title=f"population loss, {len(floor)} seeds")
    distance.set(
        ylabel=DISTANCES["attention_distance"].split(": ")[1], yscale="log", title="distance to $Q$", xlabel="iteration"
    )
    for ax in (training, excess, distance):
        ax.set_xlim(0, settings.iterations)
    finals = {o: metrics.value("softmax", "loss", o) for o in ("softmax", "linear")}
    facts = {
        "seeds": len(floor),
        "wrong_seeds": [
            s
            for s, fine in zip(metrics.curve("softmax", "floor").seeds, _right(metrics, "softmax"), strict=True)
            if not fine
        ],
        "single": metrics.curve("softmax", "floor").seeds[single],
        "floor": floor[single],
        "losses": {o: v[single] for o, v in finals.items()},
        "largest_excess": {o: (v - floor).max() for o, v in finals.items()},
        "positions": settings.positions,
    }
    return Drawing(sheet.figure, sheet.table, facts)


@FIGURES("extra_baselines")
def extra_baselines(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Three readings of lambda, no switch, and raw SGD with the steps at which it diverges."""
    experiment = experiments["main"]
    sheet = Sheet(2, 2, size=(9, 6.4), sharex=True)
    readings = ["sgd_large", "prox_literal", "prox_absolute", "prox"]
    variants = ["sgd_large", "no_switch", "raw_large", "raw_small"]
    diverged: dict[str, list[int]] = {}
    right = _right(metrics, "main")
    for column, metric in enumerate(DISTANCES):
        top, bottom = sheet.panels[:, column]
        _lines(sheet, top, f"{metric}, lambda", metrics, experiment, metric, readings, relative=True)
        for name in variants:
            curve = metrics.curve("main", metric, name)
            legend = _name(experiment, name)
            for index, (seed, values) in enumerate(zip(curve.seeds, curve.values, strict=True)):
                values = values / values[0]
                style = {"color": COLOURS[name], "linewidth": 1.2, "linestyle": DASHES.get(name, "-")}
                style["label"] = legend if not index else None
                sheet.line(bottom, f"{metric}, SGD", f"{legend}, seed {seed}", curve.steps, values, **style)
            try:
                at = metrics.value("main", "diverged_at", name)
            except NotRecordedError:
                continue
            diverged[name] = [int(step) for step in at[~np.isnan(at)]]
            for step, values in zip(at, curve.values, strict=True):
                if not np.isnan(step):
                    last = np.nanargmax(np.where(np.isnan(values), -1, curve.steps))
                    height = min(values[last] / values[0], 8.0)
                    bottom.plot(step, height, marker="x", color=COLOURS[name], markersize=7, clip_on=False, zorder=5)
                    sheet.record(f"{metric}, SGD", f"{name} diverged", [step], [height])
        top.set(
            ylabel=RELATIVE[metric],
            title=r"readings of $\lambda$: mean and range" + (" (wrong support dotted)" if not right.all() else ""),
        )
        bottom.set(
            ylabel=RELATIVE[metric], yscale="log", title="readings of SGD: every seed (× diverged)", ylim=(2e-3, 20)
        )
        for ax in (top, bottom):
            _mark_switch(ax, experiment)
        top.set_xlabel("")
        bottom.set_xlabel("iteration")
    for ax in sheet.panels[:, 0]:
        ax.legend(loc="lower left", frameon=True, facecolor="white", edgecolor="none", framealpha=1)
    sheet.panels[0, 0].set_xlim(0, _settings(experiment).iterations)
    letter(sheet.panels)
    return Drawing(sheet.figure, sheet.table, _facts(metrics, experiment) | {"diverged": diverged})


@FIGURES("extra_transfer")
def extra_transfer(metrics: Metrics, experiments: Experiments) -> Drawing:
    """How much of the support is found after how many iterations, by the correlation of the start."""
    experiment = experiments["transfer"]
    sheet = Sheet(1, 2, size=(9, 3.2), width_ratios=[1.5, 1])
    left, right = sheet.panels[0]
    labels = metrics.optimizers("transfer")
    firsts = {}
    for index, label in enumerate(labels):
        options = experiment.optimizers[label].options
        assert isinstance(options, RunOptions)
        name = rf"$\theta={options.pretrained:g}$"
        colour = CYCLE[index % len(CYCLE)]
        curve = metrics.curve("transfer", "support_found", label).window(1, np.inf)
        style = {"color": colour, "label": name, "linestyle": ["-", "-", (0, (5, 2)), (0, (1, 1))][index % 4]}
        sheet.line(left, "support found, mean over seeds", name, curve.steps, curve.values.mean(axis=0), **style)
        firsts[f"{options.pretrained:g}"] = found = first_found(metrics, label)
        shown = np.where(np.isfinite(found), found, np.nan)
        right.plot(np.full(found.size, index), shown, "o", color=colour, markersize=5, alpha=0.8)
        sheet.record("iterations to the whole support", name, np.full(found.size, index), shown)
        never = int((~np.isfinite(found)).sum())
        if never:
            end = _settings(experiment).iterations
            right.annotate(
                f"{never} of {found.size} not\nwithin {end}", (index, end), xytext=(8, -2),
                textcoords="offset points", fontsize=7, va="center",
            )  # fmt: skip
    left.set(xlabel="iteration", ylabel="share of the support found", xscale="log", ylim=(-0.03, 1.05))
    left.set_title("mean of the seeds")
    left.legend(loc="upper left")
    right.set(
        yscale="log", ylabel="iterations to the whole support", xlabel=r"$\theta$, start correlation", title="each seed"
    )
    right.set_xticks(range(len(labels)), list(firsts))
    right.set_xlim(-0.5, len(labels) - 0.2)
    letter(sheet.panels)
    medians = {theta: float(np.median(found)) for theta, found in firsts.items()}
    return Drawing(sheet.figure, sheet.table, {"medians": medians, "seeds": len(metrics.value("transfer", "k_p"))})


@FIGURES("extra_scaled")
def extra_scaled(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Distances with tenfold steps."""
    return _two_distances(metrics, experiments["scaled_steps"])


@FIGURES("extra_long")
def extra_long(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Distances over many iterations, with the final rounding marked."""
    experiment = experiments["long_run"]
    drawing = _two_distances(metrics, experiment)
    settings = _settings(experiment)
    at = settings.iterations - settings.rounding_steps
    for ax in drawing.figure.axes:
        ax.axvline(at, color=GREY, linestyle="-.", linewidth=0.8)
    return Drawing(drawing.figure, drawing.table, {**drawing.facts, "rounding_step": at})


def _two_distances(metrics: Metrics, experiment: Experiment) -> Drawing:
    sheet = Sheet(1, 2, size=(9, 3.4))
    labels = sorted(metrics.optimizers(experiment.name), key=lambda label: label == "prox")
    for ax, (metric, label) in zip(sheet.panels[0], DISTANCES.items(), strict=True):
        _lines(sheet, ax, metric, metrics, experiment, metric, labels)
        ax.set(ylabel=label, xlim=(0, _settings(experiment).iterations))
        _mark_switch(ax, experiment)
    letter(sheet.panels)
    _legend(sheet, sheet.panels[0, 0], 3)
    return Drawing(sheet.figure, sheet.table, _facts(metrics, experiment))


@FIGURES("extra_alignment")
def extra_alignment(metrics: Metrics, experiments: Experiments) -> Drawing:
    """alpha_V and alpha_A of the runs against gradient descent on the population loss."""
    sheet = Sheet(2, 2, size=(9, 6))
    names = {"value_alignment": r"$\alpha_V$", "attention_alignment": r"$\alpha_A$"}
    for row, (experiment, labels) in enumerate(
        {"main": ["prox", "sgd_large", "sgd_small"], "long_run": ["no_switch"]}.items()
    ):
        right = _right(metrics, experiment)
        shown = right if right.any() else ~right
        for ax, (metric, symbol) in zip(sheet.panels[row], names.items(), strict=True):
            for index, label in enumerate(labels):
                curve, colour = metrics.curve(experiment, metric, label), _colour(label, index)
                name = _name(experiments[experiment], label)
                if experiment == "main":
                    sheet.band(ax, f"{experiment}, {metric}", name, _part(curve, shown), color=colour, label=name)
                    path = _part(metrics.curve(experiment, f"{metric}_population", label), shown)
                    sheet.line(
                        ax, f"{experiment}, {metric}", f"{name}, population", path.steps, path.values.mean(axis=0),
                        color="black", linestyle="--", linewidth=1, label="population" if not index else None,
                    )  # fmt: skip
                    continue
                path = metrics.curve(experiment, f"{metric}_population", label)
                for i, seed in enumerate(curve.seeds):
                    shade = CYCLE[i % len(CYCLE)]
                    sheet.line(
                        ax,
                        f"{experiment}, {metric}",
                        f"seed {seed}",
                        curve.steps,
                        curve.values[i],
                        color=shade,
                        label=f"seed {seed}",
                    )
                    sheet.line(
                        ax, f"{experiment}, {metric}", f"seed {seed}, population", path.steps, path.values[i],
                        color=shade, linestyle="--", linewidth=1, label="population" if not i else None,
                    )  # fmt: skip
            ax.set(xlabel="iteration", ylabel=symbol, xlim=(0, curve.steps[-1]))
            ax.set_title(
                f"with the switch at {_settings(experiments[experiment]).boosting_steps}"
                if experiment == "main"
                else f"{name}: every seed"
            )
            ax.axhline(0, color="#444444", linewidth=0.6)
        sheet.panels[row, 0].legend(loc="upper left")
    letter(sheet.panels)
    facts = _facts(metrics, experiments["long_run"])
    negative = metrics.value("long_run", "value_alignment", "no_switch") < 0
    seeds = metrics.curve("long_run", "k_p").seeds
    return Drawing(
        sheet.figure,
        sheet.table,
        facts | {"negative": [seed for seed, below in zip(seeds, negative, strict=True) if below]},
    )
