"""Figures beyond the paper on when, and how often, the true positions are found."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look
from workflow.lib.papers.scb.claims import first_found
from workflow.lib.papers.scb.metrics import SWITCHES
from workflow.lib.papers.scb.naming import (
    ALIGNMENTS,
    Runs,
    difference,
    looks_of,
    seeds_of,
)
from workflow.lib.plotting import GREY, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()


@FIGURES("extra_transfer")
def extra_transfer(metrics: Metrics, experiment: Runs) -> Drawing:
    """How much of the support is found after how many steps, by the correlation of the start."""
    sheet = Sheet(1, 2, size=(WIDE, 2.9), width_ratios=[1.5, 1])
    left, right = sheet.panels[0]
    found = looks_of(experiment)
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
    told = [name.removeprefix("θ = ").replace("_", "\n") for name in names.values()]  # labels of a user's own are long
    right.set_xticks(range(len(told)), told)
    right.set_xlabel("θ, correlation of the start")
    right.set_xlim(-0.5, len(names) - 0.2)
    sheet.letter()
    sheet.legend(4)
    medians = {names[label]: float(np.median(steps)) for label, steps in firsts.items()}
    return sheet.drawing({"medians": medians, "seeds": len(seeds_of(metrics, experiment))})


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
    told = ["Figure 1" if e is main else difference(e, main).partition(" in place")[0] for e in experiments]
    sizes = [len(seeds_of(metrics, e)) for e in experiments]
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
    tokens = {e.name: f"{sequences[e.name] * e.settings.positions / 1e6:.3g}" for e in experiments}
    mirrored = {
        e.name: int((metrics.value(e.name, "attention_alignment", _boosting(e)) < 0).sum()) for e in experiments
    }
    facts |= {
        "sequences": {name: f"{count:,}" for name, count in sequences.items()},
        "tokens": tokens,
        "mirrored": mirrored,
        "seeds": dict(zip(rates, sizes, strict=True)),
    }
    return sheet.drawing(facts)


def _boosting(experiment: Runs) -> str:
    """The label of the experiment's boosting runs.

    Raises:
        NotRecordedError: it has none.
    """
    for label, optimizer in experiment.optimizers.items():
        if optimizer.options.boosting:
            return label
    raise NotRecordedError(f"no entry of {experiment.name} has runs that end at the switch (boosting)")


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
