"""Figure 2: the attention and the value matrix that the softmax and the linear model end with, and their losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look
from workflow.lib.papers.scb.naming import (
    Runs,
    chosen,
    looks_of,
    right_support,
    seeds_of,
)
from workflow.lib.plotting import WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import DATA, Curve, Metrics

FIGURES: Registry[Draw] = Registry()

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
    right, seeds = right_support(metrics, experiment), seeds_of(metrics, experiment)
    single = int(right.argmax())
    sheet = Sheet(3, 3, size=(WIDE, 5.0), width_ratios=[2.1, 0.95, 1.9])
    found = {
        label: replace(look, name=NAMED.get(label, look.name), dash="-") for label, look in looks_of(experiment).items()
    }
    _matrices(sheet, metrics, experiment, single)
    _losses(sheet, sheet.panels[:, 2], metrics, experiment, single, found)
    sheet.letter()
    floor = metrics.value(experiment.name, "floor")
    finals = {label: metrics.value(experiment.name, "loss", label) for label in found}
    facts = {
        "seeds": len(seeds),
        "wrong_seeds": chosen(seeds, ~right),
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
        style = {**look.line, "linewidth": 0.8}
        one = seeds_of(metrics, experiment)[single]
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
    seed = seeds_of(metrics, experiment)[single]
    training.set(ylabel="training loss", title=f"training loss, seed {seed}")
    excess.set(ylabel="loss − floor", yscale="log", title=f"population loss, {len(floor)} seeds")
    distance.set(ylabel=r"$\|A-Q\|_\mu^2$", yscale="log", title=f"distance to $Q$, {len(floor)} seeds", xlabel="steps")
    for ax in panels:
        ax.set_xlim(0, experiment.settings.iterations)
    sheet.legend(3)
