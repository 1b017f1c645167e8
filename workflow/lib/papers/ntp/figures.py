"""The figures of this paper (specification, section 2), and ours beyond it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.ticker import MaxNLocator

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.settings import Strings, TwoStage, TwoStageOptions, learning_rates
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, RED, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[TwoStage, TwoStageOptions]

# Names of the published panels -> our metric, its axis label, and the ticks of the published axis.
PANELS = {
    "L0": ("loss_ov", r"$L_0(W_{ov}^{(t)})$, mean", (0, 1, 2, 3)),
    "cos_ov": ("cos_ov", r"$\langle \bar{W}_{ov}^{(t)}, \bar{W}_{ov}^{*} \rangle$", (0, 0.5, 1)),
    "norm_ov": ("norm_ov", r"$\|W_{ov}^{(t)}\|$", (0, 20, 40)),
    "L": ("loss", r"$L(\theta^{(t)})$, sum", (0, 10, 20, 30)),
    "cos_kq": ("cos_kq", r"$\langle \bar{W}_{kq}^{(t)}, \bar{W}_{kq}^{*} \rangle$", (0, 0.5, 1)),
    "norm_kq": ("norm_kq", r"$\|W_{kq}^{(t)}\|$", (0, 5, 10)),
}


def published() -> pd.DataFrame:
    """The published curves of Figure 2 as digitised: columns panel, t, value, pixel_error."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


@FIGURES("fig2")
def fig2(metrics: Metrics, experiment: Runs) -> Drawing:
    """Six panels in one row: ours with the band of all seeds, the published curve dashed."""
    sheet, facts = _six_panels(metrics, experiment)
    curves = published()
    worst = {}
    for ax, (panel, (metric, _, _)) in zip(sheet.panels[0], PANELS.items(), strict=True):
        ours = _main(metrics, experiment, metric)
        theirs = curves[(curves["panel"] == panel) & (curves["t"] <= ours.steps[-1])]
        dashed = {"color": "black", "linestyle": "--", "linewidth": 1, "label": "published (digitised)"}
        sheet.line(ax, panel, "published", theirs["t"], theirs["value"], **dashed)
        deviation = np.interp(theirs["t"], ours.steps, ours.values.mean(axis=0)) - theirs["value"].to_numpy()
        worst[panel] = np.abs(deviation[theirs["t"] > 0]).max()
        ax.set_title(f"deviation ≤ {worst[panel]:.2g}", fontsize=8, color=GREY)
        sheet.record(panel, "largest deviation from published, t > 0", [np.nan], [worst[panel]])
    _legend(sheet)
    return Drawing(sheet.figure, sheet.table, {**facts, "deviation": worst})


@FIGURES("extra_zero_init")
def extra_zero_init(metrics: Metrics, experiment: Runs) -> Drawing:
    """Figure 2 from the printed zero start."""
    sheet, facts = _six_panels(metrics, experiment)
    _legend(sheet)
    return Drawing(sheet.figure, sheet.table, facts)


def _main(metrics: Metrics, experiment: Runs, metric: str) -> Curve:
    """A metric of the experiment's first optimizer, the one that the figure is about."""
    return metrics.curve(experiment.name, metric, next(iter(experiment.optimizers)))


def _six_panels(metrics: Metrics, experiment: Runs) -> tuple[Sheet, dict[str, object]]:
    sheet = Sheet(1, 6, size=(12.5, 2.5))
    optimizers = list(experiment.optimizers)
    for ax, (panel, (metric, label, ticks)) in zip(sheet.panels[0], PANELS.items(), strict=True):
        for optimizer in optimizers:
            curve = metrics.curve(experiment.name, metric, optimizer)
            name = "this workflow" if len(optimizers) == 1 else optimizer
            sheet.band(ax, panel, name, curve, label=f"{name}: mean and range of seeds")
        ax.set(xlabel="$t$", ylabel=label, xlim=(0, None))
        if metric.startswith("cos"):
            ax.set_ylim(-0.06, 1.08)
        if _main(metrics, experiment, metric).steps[-1] == 900:
            ax.set_xticks([0, 300, 600, 900])
            ax.set_yticks(ticks)
    seeds = _main(metrics, experiment, "loss").seeds
    return sheet, {"seeds": len(seeds), "optimizers": ", ".join(optimizers)}


def _legend(sheet: Sheet) -> None:
    handles, labels = sheet.panels[0, 0].get_legend_handles_labels()
    sheet.figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


@FIGURES("extra_rates")
def extra_rates(metrics: Metrics, two_stage: Runs, long_run: Runs) -> Drawing:
    """Losses over their floors and distances from the targets, on log axes, with the laws beside them."""
    sheet = Sheet(1, 4, size=(12.5, 2.9))
    loss_ov, loss, cos_ov, cos_kq = sheet.panels[0]
    facts = _loss_of_stage_1(sheet, loss_ov, metrics, two_stage)
    _gap_of_stage_2(sheet, loss, metrics, long_run)
    facts["slope_ov"] = _turning(sheet, cos_ov, "cos_ov", metrics, two_stage, 1 / 2, 1)
    facts["slope_kq"] = _turning(sheet, cos_kq, "cos_kq", metrics, long_run, 1 / 4, 2)
    return Drawing(sheet.figure, sheet.table, facts)


def _loss_of_stage_1(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> dict[str, float]:
    """L0 on a log axis beside the slope of its limit."""
    curve = _main(metrics, experiment, "loss_ov")
    last = int(curve.steps[-1])
    slope = curve.slope(last / 2, last, log_values=True)
    sheet.band(ax, "loss_ov", "ours", curve, geometric=True)
    law = -_step_size(experiment) / metrics.value(experiment.name, "norm_value_target").mean()
    late = curve.window(last / 2, last)
    start = np.exp(np.log(late.values).mean(axis=0)[0])
    sheet.line(
        ax, "loss_ov", "law", late.steps, 1.5 * start * np.exp(law * (late.steps - late.steps[0])),
        color="black", linestyle="--", linewidth=1, label=r"slope $-\eta_0/\|W_{ov}^*\|$ = " + f"{law:.5f}",
    )  # fmt: skip
    ax.set(yscale="log", xlabel="$t$", ylabel="$L_0$, mean", title=f"stage 1: late slope {slope.mean():.5f}")
    ax.legend(loc="lower left")
    return {"slope_loss_ov": slope.mean(), "law_loss_ov": law}


def _gap_of_stage_2(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> None:
    """L over its floor, while it is above rounding."""
    curve = _main(metrics, experiment, "loss")
    gap = curve.values - _main(metrics, experiment, "loss_floor").final()[:, None]
    # Once a seed's gap is within rounding of the floor, it is no number worth drawing.
    sound = np.logical_and.accumulate((gap > 1e-15).all(axis=0))
    sheet.band(ax, "loss", "ours", Curve(curve.seeds, curve.steps[sound], gap[:, sound]), geometric=True)
    ax.set(yscale="log", xlabel="$t$", ylabel="$L - $ floor", title="stage 2, long run from zero")
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _turning(sheet: Sheet, ax: Axes, metric: str, metrics: Metrics, experiment: Runs, late: float, power: int) -> float:
    """1 - cos on log axes beside the bound's shape log^power t / t; the slope after the share `late` of the run."""
    whole = _main(metrics, experiment, metric)
    curve = Curve(whole.seeds, whole.steps, 1 - whole.values)
    last = int(curve.steps[-1])
    slope = float(curve.slope(late * last, last, log_steps=True, log_values=True).mean())
    sheet.band(ax, metric, "ours", curve.window(1, np.inf), geometric=True)
    ax.set(xscale="log", yscale="log", xlabel="$t$", ylabel=rf"$1-\cos$ of $W_{{{metric[-2:]}}}$")
    ax.set_title(f"stage {power}: late slope {slope:.2f}")
    label = r"$\log t / t$" if power == 1 else r"$\log^2 t / t$"
    _reference(sheet, ax, metric, curve.window(10, np.inf), lambda t: np.log(t) ** power / t, label)
    return slope


def _step_size(experiment: Runs) -> float:
    return learning_rates(next(iter(experiment.optimizers.values())))[0]


def _reference(
    sheet: Sheet, ax: Axes, panel: str, curve: Curve, shape: Callable[[np.ndarray], np.ndarray], label: str
) -> None:
    """Draw a bound's shape, scaled to touch the curve's first point from above."""
    values = shape(curve.steps.astype(np.float64))
    scale = 3 * np.nanmax(curve.values[:, 0]) / values[0]
    sheet.line(ax, panel, label, curve.steps, scale * values, color="black", linestyle="--", linewidth=1, label=label)
    ax.legend(loc="lower left")


UNSEEN = {"new_token": "one non-comparable\namong non-optimal", "optimal_token": "one optimal among\nnon-comparable"}


@FIGURES("extra_dataset_shift")
def extra_dataset_shift(metrics: Metrics, experiment: Runs) -> Drawing:
    """Theorem 3: the two least logit gaps against t, and the accuracy on unseen sentences by kind."""
    sheet = Sheet(1, 2, size=(7.5, 2.9), width_ratios=[1.6, 1])
    left, right = sheet.panels[0]
    for metric, label, colour in (
        ("optimal_gap", "optimal − non-comparable", BLUE),
        ("non_comparable_gap", "non-comparable − non-optimal", ORANGE),
    ):
        sheet.band(left, "gaps", label, _main(metrics, experiment, metric), color=colour, label=label)
    left.set(xlabel="$t$ (stage 2)", ylabel="least logit gap", title="gaps grow linearly", xlim=(0, None))
    left.legend(loc="upper left")
    _unseen(sheet, right, metrics, experiment)
    counts = {kind: int(_main(metrics, experiment, f"unseen_{kind}").final().sum()) for kind in UNSEEN}
    return Drawing(sheet.figure, sheet.table, {"counts": counts})


def _unseen(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> None:
    """Accuracy and mean probability on unseen sentences, as bars with the range of seeds."""
    names = ("accuracy", "probability")
    for offset, (name, colour) in enumerate(zip(names, (GREEN, GREY), strict=True)):
        values = np.array([_main(metrics, experiment, f"{name}_{kind}").final() for kind in UNSEEN])
        middle = np.nanmean(values, axis=1)
        places = np.arange(len(UNSEEN)) + 0.4 * offset - 0.2
        spread = [middle - np.nanmin(values, axis=1), np.nanmax(values, axis=1) - middle]
        label = {"accuracy": "accuracy", "probability": "mean probability"}[name]
        ax.bar(places, middle, 0.36, yerr=spread, color=colour, label=label, capsize=3)
        for place, height in zip(places, middle, strict=True):
            ax.text(place, height + 0.02, f"{height:.3f}", ha="center", va="bottom", fontsize=7)
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        sheet.record("unseen", label, places, middle, low, high)
    ax.set_xticks(range(len(UNSEEN)), UNSEEN.values())
    ax.set(ylim=(0, 1.45), title="unseen sentences")
    ax.grid(False, axis="x")
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.legend(loc="upper center", ncols=2)


WORDS = {"S": "Dogs", "V": "Chase", "O": "Cats", "P": "."}
COLOURS = {"S": "#FFE98A", "V": "#A6DBA0", "O": "#B5DDF5", "P": "#D9D9D9"}


@FIGURES("fig1")
def fig1(metrics: Metrics, experiment: Experiment[Strings]) -> Drawing:
    """The schematic, drawn from the collocation and the orders that the example's strings imply."""
    strings = experiment.settings.strings
    alphabet = "".join(dict.fromkeys("".join(strings)))
    collocation = metrics.array(experiment.name, "collocation")[0].astype(int)
    role = metrics.array(experiment.name, "role")[0].astype(int)
    sheet = Sheet(1, 2, size=(9.5, 2.7), width_ratios=[1.25, 1])
    left, right = sheet.panels[0]
    _sentences(sheet, left, strings[0], alphabet, collocation, role)
    _collocation(sheet, right, alphabet, collocation)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set_axis_off()
    return Drawing(sheet.figure, sheet.table, {"strings": ", ".join(strings)})


def _sentences(sheet: Sheet, ax: Axes, string: str, alphabet: str, collocation: np.ndarray, role: np.ndarray) -> None:
    """The prefixes of a string, their optimal token framed, with the token that follows."""
    for row, length in enumerate(range(2, len(string))):
        sentence, height = string[:length], -1.5 * row
        query = alphabet.index(sentence[-1])
        for place, token in enumerate(sentence):
            is_optimal = role[query, alphabet.index(token)] == language.OPTIMAL
            _box(ax, 1.5 * place, height, token, framed=is_optimal)
            sheet.record("sentences", f"{sentence}: {token}{' (optimal)' if is_optimal else ''}", [place], [row])
        optimal = next(t for t in sentence if role[query, alphabet.index(t)] == language.OPTIMAL)
        follows = alphabet[collocation[alphabet.index(optimal)]]
        _arrow(ax, (1.5 * len(sentence) - 0.7, height), (1.5 * len(string) - 0.85, height))
        _box(ax, 1.5 * len(string), height, follows)
        sheet.record("sentences", f"{sentence} -> {follows}", [len(string)], [row])
    ax.set(xlim=(-0.8, 1.5 * len(string) + 0.9), ylim=(-1.5 * (len(string) - 3) - 0.8, 0.75))
    ax.set_title("next token of a sentence; its optimal token framed")


def _collocation(sheet: Sheet, ax: Axes, alphabet: str, collocation: np.ndarray) -> None:
    """Each token over the one that follows it."""
    for column, (token, follows) in enumerate(zip(alphabet, collocation, strict=True)):
        _box(ax, 1.6 * column, 0, token)
        _arrow(ax, (1.6 * column, -0.5), (1.6 * column, -1.0))
        _box(ax, 1.6 * column, -1.5, alphabet[follows])
        sheet.record("collocation", f"{token} -> {alphabet[follows]}", [column], [0])
    ax.set(xlim=(-0.95, 1.6 * len(alphabet) - 0.7), ylim=(-2.3, 0.75))
    ax.set_title("collocation")
    ax.axvline(-0.95, color=BLUE, linewidth=2)


def _box(ax: Axes, x: float, y: float, token: str, framed: bool = False) -> None:
    ax.add_patch(
        Rectangle(
            (x - 0.62, y - 0.42), 1.24, 0.84, facecolor=COLOURS.get(token, "white"), edgecolor="black", linewidth=0.8
        )
    )
    if framed:
        ax.add_patch(Rectangle((x - 0.7, y - 0.5), 1.4, 1.0, fill=False, edgecolor=RED, linewidth=2.5))
    word = WORDS.get(token)
    ax.text(x, y, f"{word} ({token})" if word else token, ha="center", va="center", fontsize=9)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=BLUE, linewidth=1.6))
