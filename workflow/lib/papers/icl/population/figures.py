"""Figures of descent on the population loss: the four phases, the plateau and the scaling with K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.icl.population.metrics import finest
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Index, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Population, PopulationOptions]

TIME = r"$\eta t$"
THOUSANDS = StrMethodFormatter("{x:,.0f}")


class Phase(NamedTuple):
    """One phase of an under-represented feature, and the event that ends it."""

    number: str
    name: str
    event: str
    condition: str


PHASES = (
    Phase("I", "decrease of\nthe dominant feature", "crossing", r"$\alpha_k > |\beta_{k,1}|$"),
    Phase("II", "switching of\nthe leading influence", "half_log", r"$A_k = \frac{1}{2}\log K$"),
    Phase("III", "growth of\nthe target feature", "log", r"$A_k = \log K$"),
    Phase("IV", "convergence\n", "error", "$L_k$ is small"),
)
WEIGHTS = {"target": ("$A_k$", RED), "dominant": ("$B_{k,1}$", BLUE), "other": ("$B_{k,n}$", GREY)}
QUERIES = {
    "dominant": (BLUE, "dominant $v_1$"),
    "balanced": (GREEN, "balanced $v_k$"),
    "rare": (RED, "under-represented $v_k$"),
}


@dataclass(frozen=True)
class _Course:
    """The runs of one optimizer over time, in units of step size times steps."""

    metrics: Metrics
    experiment: str
    optimizer: Optimizer[PopulationOptions]

    @classmethod
    def coarse(cls, metrics: Metrics, experiment: Runs) -> _Course:
        """The first optimizer's runs, which last until every feature has converged."""
        return cls(metrics, experiment.name, next(iter(experiment.optimizers.values())))

    @classmethod
    def fine(cls, metrics: Metrics, experiment: Runs) -> _Course:
        """The runs with the smallest step size, for what happens at the very start."""
        return cls(metrics, experiment.name, finest(experiment))

    def curve(self, metric: str, index: Index = "") -> tuple[np.ndarray, np.ndarray]:
        """Times and values of a metric."""
        curve = self.metrics.curve(self.experiment, metric, self.optimizer.label, index)
        return curve.steps * self.optimizer.hyperparameters["lr"], curve.values[0]

    def at(self, metric: str, index: Index, time: float) -> float:
        """The value of a metric at some time."""
        return float(np.interp(time, *self.curve(metric, index)))

    def event(self, event: str, query: str, count: int) -> float:
        """The time of an event for a query of `QUERIES` and K; NaN where the run ended before it."""
        try:
            times = self.metrics.value(self.experiment, f"time_{event}", self.optimizer.label, index=(query, count))
        except NotRecordedError:
            return float("nan")
        return float(times[0])


def _told(value: float, form: str = ",.0f") -> str:
    """A number for a caption, which may be missing in shortened runs."""
    return format(value, form) if np.isfinite(value) else "(not reached)"


@FIGURES("fig1")
def fig1(metrics: Metrics, experiment: Runs) -> Drawing:
    """Four panels, one a phase: how far each weight moves in it, and the attention at its end; beneath, the course."""
    settings = experiment.settings
    count = settings.phases_of
    course = _Course.coarse(metrics, experiment)
    end_of_run = float(course.curve("mean_error")[0][-1])
    times = {phase.event: course.event(phase.event, "rare", count) for phase in PHASES}
    borders = [0.0, *(end_of_run if np.isnan(time) else time for time in times.values())]
    sheet = Sheet(3, 4, size=(9.6, 6.6), height_ratios=[2.1, 0.7, 2.2])
    for column, (phase, (start, end)) in enumerate(zip(PHASES, pairwise(borders), strict=True)):
        bars, shares = sheet.panels[0, column], sheet.panels[1, column]
        _weights(sheet, bars, phase, course, count, start, end)
        _shares(sheet, shares, phase, course, count, end)
        bars.set_title(f"Phase {phase.number}: {phase.name}", fontsize=9)
        condition = f"$L_k < {settings.error_threshold:g}$" if phase.event == "error" else phase.condition
        shares.set_xlabel(f"ends when {condition},\nat {TIME} = {end:,.0f}", fontsize=8.5)
    sheet.panels[0, 0].set_ylabel("logit at the end\n(pale: at the start)")
    sheet.panels[1, 0].set_ylabel("attention\nat the end")
    _timeline(sheet, course, count, borders)
    facts = {
        "feature_count": count,
        "dominant_probability": settings.dominant_probability,
        "crossing": _told(times["crossing"]),
        "fallen": _told(course.event("fallen", "rare", count)),
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _weights(sheet: Sheet, ax: Axes, phase: Phase, course: _Course, count: int, start: float, end: float) -> None:
    """Bars of the three weights with their change; the one that moves most stands out."""
    before = {name: course.at("logit", ("rare", count, name), start) for name in WEIGHTS}
    after = {name: course.at("logit", ("rare", count, name), end) for name in WEIGHTS}
    leader = max(WEIGHTS, key=lambda name: abs(after[name] - before[name]))
    for place, (name, (label, color)) in enumerate(WEIGHTS.items()):
        leads, upward = name == leader, after[name] >= 0
        ax.bar(place, after[name], 0.62, color=color, alpha=1.0 if leads else 0.45, zorder=2)
        ax.bar(place, before[name], 0.62, color="white", alpha=0.55, zorder=3)
        ax.annotate(
            f"{after[name] - before[name]:+.2f}".replace("-", "\N{MINUS SIGN}"),
            (place, after[name]),
            xytext=(0, 3 if upward else -3),
            textcoords="offset points",
            ha="center",
            va="bottom" if upward else "top",
            fontsize=9 if leads else 8,
            fontweight="bold" if leads else "normal",
            zorder=4,
        )
        sheet.record(f"phase {phase.number}", label, [start, end], [before[name], after[name]])
    ax.axhline(0, color="#444444", linewidth=0.7)
    ax.set_xticks(range(len(WEIGHTS)), [label for label, _ in WEIGHTS.values()], fontsize=9.5)
    ax.set_ylim(-4.6, 8.6)
    ax.grid(False, axis="x")


def _shares(sheet: Sheet, ax: Axes, phase: Phase, course: _Course, count: int, time: float) -> None:
    """One stacked bar: the attention on the target, on the dominant feature and on all others."""
    shares = {name: course.at("attention", ("rare", count, name), time) for name in ("target", "dominant")}
    shares["other"] = 1 - sum(shares.values())
    left = 0.0
    for name, width in shares.items():
        ax.barh(0, width, 0.6, left=left, color=WEIGHTS[name][1])
        if width > 0.15:
            ax.text(left + width / 2, 0, f"{width:.2f}", ha="center", va="center", color="white", fontsize=8)
        sheet.record(f"phase {phase.number}", f"attention on {name}", [time], [width])
        left += width
    ax.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], xticks=[0, 0.5, 1])
    ax.grid(False)


def _timeline(sheet: Sheet, course: _Course, count: int, borders: list[float]) -> None:
    """Logits and, dotted, attention over time, with the phases shaded."""
    grid = sheet.panels[2, 0].get_gridspec()
    for ax in sheet.panels[2]:
        ax.remove()
    logits = sheet.figure.add_subplot(grid[2, :])
    scores = logits.twinx()
    end = 1.12 * borders[-1]
    for name, (label, color) in WEIGHTS.items():
        times, values = course.curve("logit", ("rare", count, name))
        shown = times <= end
        sheet.line(logits, "course", label, times[shown], values[shown], color=color, label=label)
    for name, label in (("target", "Attn$_k$"), ("dominant", "Attn$_1$")):
        times, values = course.curve("attention", ("rare", count, name))
        shown = times <= end
        style = {"color": WEIGHTS[name][1], "linestyle": ":", "linewidth": 1.3, "label": label}
        sheet.line(scores, "course", label, times[shown], values[shown], **style)
    for index, (phase, (first, last)) in enumerate(zip(PHASES, pairwise(borders), strict=True)):
        logits.axvspan(first, last, color="white" if index % 2 else "#e8e8e8", zorder=0, linewidth=0)
        across = logits.get_xaxis_transform()
        logits.text((first + last) / 2, 0.965, phase.number, transform=across, ha="center", va="top")
    logits.set(xlabel=f"time {TIME} (step size times steps)", ylabel="logit", xlim=(0, end), ylim=(-4, 9.5))
    logits.xaxis.set_major_formatter(THOUSANDS)
    logits.grid(False, axis="x")
    scores.set(ylabel="attention", ylim=(-4 / 9.5, 1), yticks=[0, 0.5, 1])
    scores.spines["right"].set_visible(True)
    scores.grid(False)
    lines = [*logits.get_lines(), *scores.get_lines()]
    logits.legend(lines, [str(line.get_label()) for line in lines], loc="center left", bbox_to_anchor=(1.05, 0.5))


@FIGURES("extra_plateau")
def extra_plateau(metrics: Metrics, experiment: Runs) -> Drawing:
    """Attention over time: for the three kinds of query at one K, and of rare ones over rescaled time at all K."""
    settings = experiment.settings
    coarse, fine = _Course.coarse(metrics, experiment), _Course.fine(metrics, experiment)
    sheet = Sheet(1, 2, size=(8.6, 3.3))
    left, right = sheet.panels[0]
    rise = _plateau(sheet, left, coarse, fine, settings.plateau_of)
    _rescaled(sheet, right, coarse, settings.feature_counts)
    for ax in (left, right):
        ax.set(ylabel="Attn$_k$ given $v_k$", ylim=(0, 1.02))
    letter(sheet.panels)
    facts = {"feature_count": settings.plateau_of, "rise": [_told(time) for time in rise]}
    return Drawing(sheet.figure, sheet.table, facts)


def _plateau(sheet: Sheet, ax: Axes, coarse: _Course, fine: _Course, count: int) -> list[float]:
    """Attn_k of each kind of query at one K; returns when that of a rare one is 0.1, 0.5 and 0.9."""
    times, rare = coarse.curve("attention", ("rare", count, "target"))
    rise = [float(np.interp(level, rare, times, right=np.nan)) for level in (0.1, 0.5, 0.9)]
    end = 1.25 * rise[-1] if np.isfinite(rise[-1]) else times[-1]
    for query, (color, label) in QUERIES.items():
        # The dominant feature rises within a few large steps: its start comes from the small ones.
        early, first = fine.curve("attention", (query, count, "target"))
        late, rest = coarse.curve("attention", (query, count, "target"))
        x = np.concatenate([early, late[late > early[-1]]])
        y = np.concatenate([first, rest[late > early[-1]]])
        sheet.line(ax, "plateau", query, x[x <= end], y[x <= end], color=color, label=label)
    ax.set(xlabel=f"time {TIME}", xlim=(0, end), title=f"$K = {count}$")
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    return rise


def _rescaled(sheet: Sheet, ax: Axes, coarse: _Course, counts: Sequence[int]) -> None:
    """Attn_k of rare queries at all K, over time divided by K^2."""
    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(counts)))
    for count, shade in zip(counts, shades, strict=True):
        times, values = coarse.curve("attention", ("rare", count, "target"))
        shown = times <= 6 * count**2
        label = f"$K = {count}$"
        sheet.line(ax, "rescaled", label, times[shown] / count**2, values[shown], color=shade, label=label)
    ax.set(xlabel=r"rescaled time $\eta t / K^2$", xlim=(0, 6), title="under-represented $v_k$, any $K$")
    ax.legend(loc="lower right")


# (event, query) -> its colour, marker and label. The dominant feature's is timed with the finest steps.
SCALING = {
    ("error", "rare"): (RED, "o", "$L_k$ small, under-repr."),
    ("log", "rare"): (ORANGE, "^", r"$A_k = \log K$, under-repr."),
    ("half_log", "rare"): (PINK, "s", r"$A_k = \frac{1}{2}\log K$, under-repr."),
    ("half_log", "balanced"): (GREEN, "D", r"$A_k = \frac{1}{2}\log K$, balanced"),
    ("crossing", "rare"): (SKY, "v", "drifts cross, under-repr."),
    ("error", "dominant"): (BLUE, "o", "$L_1$ small, dominant"),
}


@FIGURES("extra_scaling")
def extra_scaling(metrics: Metrics, experiment: Runs) -> Drawing:
    """Times of the events against K on log axes, with exponents fitted to the upper half of the K's."""
    counts = np.array(experiment.settings.feature_counts)
    coarse, fine = _Course.coarse(metrics, experiment), _Course.fine(metrics, experiment)
    times = {
        (event, query): np.array([(fine if query == "dominant" else coarse).event(event, query, c) for c in counts])
        for event, query in SCALING
    }
    sheet = Sheet(1, 2, size=(9.2, 3.6), width_ratios=[1.25, 1])
    left, right = sheet.panels[0]
    exponents = {}
    for (event, query), (color, marker, label) in SCALING.items():
        name, style = f"{event}_{query}", {"color": color, "marker": marker, "markersize": 4}
        shown = np.where(times[event, query] > 0, times[event, query], np.nan)  # at once: no point on a log axis
        exponents[name] = _exponent(counts, shown)
        sheet.line(left, "times", name, counts, shown, label=f"{label}: $K^{{{exponents[name]:.2f}}}$", **style)
        if query != "dominant":
            local = np.diff(np.log(shown)) / np.diff(np.log(counts))
            sheet.line(right, "local exponents", name, np.sqrt(counts[1:] * counts[:-1]), local, **style)
    _scaling_axes(left, right, counts)
    sheet.figure.legend(loc="outside right center")
    letter(sheet.panels)
    facts = {
        "exponents": {name: _told(exponent, ".2f") for name, exponent in exponents.items()},
        "feature_counts": counts.tolist(),
        "slower": [_told(ratio) for ratio in times["error", "rare"] / times["error", "dominant"]],
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _exponent(counts: np.ndarray, times: np.ndarray) -> float:
    """The exponent of times as a power of K, fitted to the upper half of the K's; NaN with fewer than two times."""
    known = (counts >= np.median(counts)) & np.isfinite(times)
    if known.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(counts[known]), np.log(times[known]), 1)[0])


def _scaling_axes(left: Axes, right: Axes, counts: np.ndarray) -> None:
    left.set(xlabel="number of features $K$", yscale="log", ylabel=f"time {TIME}", title="times, with fitted exponents")
    right.set(xlabel="$K$, middle of each doubling", ylabel="local exponent", title="exponents of the doublings")
    right.set_ylim(1.3, 2.5)
    right.axhline(2, color="#444444", linewidth=0.8, linestyle=":")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(counts, [str(c) for c in counts])
        ax.minorticks_off()
