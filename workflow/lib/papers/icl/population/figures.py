"""Figures of descent on the population loss: the four phases, the plateau and the scaling with K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from workflow.lib.experiments import Experiment
from workflow.lib.papers import Draw, Drawing
from workflow.lib.papers.icl.settings import Population
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Experiments = Mapping[str, Experiment]

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


def _settings(experiments: Experiments) -> Population:
    settings = experiments["population"].settings
    assert isinstance(settings, Population)
    return settings


@dataclass(frozen=True)
class _Course:
    """The runs of one optimizer over time, in units of step size times steps."""

    metrics: Metrics
    optimizer: str
    step_size: float

    @classmethod
    def coarse(cls, metrics: Metrics, experiments: Experiments) -> _Course:
        """The first optimizer's runs, which last until every feature has converged."""
        return cls._of(metrics, next(iter(experiments["population"].optimizers.values())))

    @classmethod
    def fine(cls, metrics: Metrics, experiments: Experiments) -> _Course:
        """The runs with the smallest step size, for what happens at the very start."""
        optimizers = experiments["population"].optimizers.values()
        return cls._of(metrics, min(optimizers, key=lambda optimizer: optimizer.hyperparameters["step_size"]))

    @classmethod
    def _of(cls, metrics: Metrics, optimizer: Any) -> _Course:
        return cls(metrics, optimizer.label, optimizer.hyperparameters["step_size"])

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Times and values of a metric."""
        curve = self.metrics.curve("population", name, self.optimizer)
        return curve.steps * self.step_size, curve.values[0]

    def at(self, name: str, time: float) -> float:
        """The value of a metric at some time."""
        return float(np.interp(time, *self.curve(name)))

    def event(self, name: str) -> float:
        """The time of an event, such as `error_rare_160`; NaN where the run ended before it."""
        try:
            return float(self.metrics.value("population", f"time_{name}", self.optimizer)[0])
        except NotRecordedError:
            return float("nan")


def _told(value: float, form: str = ",.0f") -> str:
    """A number for a caption, which may be missing in shortened runs."""
    return format(value, form) if np.isfinite(value) else "(not reached)"


@FIGURES("fig1")
def fig1(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Four panels, one a phase: how far each weight moves in it, and the attention at its end; beneath, the course."""
    settings = _settings(experiments)
    count = settings.phases_of
    course = _Course.coarse(metrics, experiments)
    end_of_run = float(course.curve("error")[0][-1])
    times = {phase.event: course.event(f"{phase.event}_rare_{count}") for phase in PHASES}
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
        "fallen": _told(course.event(f"fallen_rare_{count}")),
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _weights(sheet: Sheet, ax: Axes, phase: Phase, course: _Course, count: int, start: float, end: float) -> None:
    """Bars of the three weights with their change; the one that moves most stands out."""
    before = {name: course.at(f"logit_{name}_rare_{count}", start) for name in WEIGHTS}
    after = {name: course.at(f"logit_{name}_rare_{count}", end) for name in WEIGHTS}
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
    shares = {name: course.at(f"attention_{name}_rare_{count}", time) for name in ("target", "dominant")}
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
        times, values = course.curve(f"logit_{name}_rare_{count}")
        shown = times <= end
        sheet.line(logits, "course", label, times[shown], values[shown], color=color, label=label)
    for name, label in (("target", "Attn$_k$"), ("dominant", "Attn$_1$")):
        times, values = course.curve(f"attention_{name}_rare_{count}")
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
def extra_plateau(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Attention over time: for the three kinds of query at one K, and of rare ones over rescaled time at all K."""
    settings = _settings(experiments)
    count = settings.plateau_of
    coarse, fine = _Course.coarse(metrics, experiments), _Course.fine(metrics, experiments)
    sheet = Sheet(1, 2, size=(8.6, 3.3))
    left, right = sheet.panels[0]

    times, rare = coarse.curve(f"attention_target_rare_{count}")
    rise = [float(np.interp(level, rare, times, right=np.nan)) for level in (0.1, 0.5, 0.9)]
    end = 1.25 * rise[-1] if np.isfinite(rise[-1]) else times[-1]
    for query, (color, label) in QUERIES.items():
        # The dominant feature rises within a few large steps: its start comes from the small ones.
        early, first = fine.curve(f"attention_target_{query}_{count}")
        late, rest = coarse.curve(f"attention_target_{query}_{count}")
        x = np.concatenate([early, late[late > early[-1]]])
        y = np.concatenate([first, rest[late > early[-1]]])
        sheet.line(left, "plateau", query, x[x <= end], y[x <= end], color=color, label=label)
    left.set(xlabel=f"time {TIME}", xlim=(0, end), title=f"$K = {count}$")
    left.xaxis.set_major_formatter(THOUSANDS)
    left.legend(loc="lower right", bbox_to_anchor=(1, 0.1))

    shades = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(settings.feature_counts)))
    for size, shade in zip(settings.feature_counts, shades, strict=True):
        times, values = coarse.curve(f"attention_target_rare_{size}")
        shown = times <= 6 * size**2
        label = f"$K = {size}$"
        sheet.line(right, "rescaled", label, times[shown] / size**2, values[shown], color=shade, label=label)
    right.set(xlabel=r"rescaled time $\eta t / K^2$", xlim=(0, 6), title="under-represented $v_k$, any $K$")
    right.legend(loc="lower right")
    for ax in (left, right):
        ax.set(ylabel="Attn$_k$ given $v_k$", ylim=(0, 1.02))
    letter(sheet.panels)
    facts = {"feature_count": count, "rise": [_told(time) for time in rise]}
    return Drawing(sheet.figure, sheet.table, facts)


@FIGURES("extra_scaling")
def extra_scaling(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Times of the events against K on log axes, with exponents fitted to the upper half of the K's."""
    counts = np.array(_settings(experiments).feature_counts)
    coarse, fine = _Course.coarse(metrics, experiments), _Course.fine(metrics, experiments)
    series = {
        "error_rare": (coarse, RED, "o", "$L_k$ small, under-repr."),
        "log_rare": (coarse, ORANGE, "^", r"$A_k = \log K$, under-repr."),
        "half_log_rare": (coarse, PINK, "s", r"$A_k = \frac{1}{2}\log K$, under-repr."),
        "half_log_balanced": (coarse, GREEN, "D", r"$A_k = \frac{1}{2}\log K$, balanced"),
        "crossing_rare": (coarse, SKY, "v", "drifts cross, under-repr."),
        "error_dominant": (fine, BLUE, "o", "$L_1$ small, dominant"),
    }
    sheet = Sheet(1, 2, size=(9.2, 3.6), width_ratios=[1.25, 1])
    left, right = sheet.panels[0]
    exponents = {}
    upper = counts >= np.median(counts)
    for name, (course, color, marker, label) in series.items():
        times = np.array([course.event(f"{name}_{c}") for c in counts])
        times[times <= 0] = np.nan  # at once: no point on a log axis
        known = upper & np.isfinite(times)
        few = known.sum() < 2
        exponents[name] = np.nan if few else float(np.polyfit(np.log(counts[known]), np.log(times[known]), 1)[0])
        style = {"color": color, "marker": marker, "markersize": 4}
        sheet.line(left, "times", name, counts, times, label=f"{label}: $K^{{{exponents[name]:.2f}}}$", **style)
        if course is coarse:
            local = np.diff(np.log(times)) / np.diff(np.log(counts))
            sheet.line(right, "local exponents", name, np.sqrt(counts[1:] * counts[:-1]), local, **style)
    left.set(xlabel="number of features $K$", yscale="log", ylabel=f"time {TIME}", title="times, with fitted exponents")
    right.set(xlabel="$K$, middle of each doubling", ylabel="local exponent", title="exponents of the doublings")
    right.set_ylim(1.3, 2.5)
    right.axhline(2, color="#444444", linewidth=0.8, linestyle=":")
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xticks(counts, [str(c) for c in counts])
        ax.minorticks_off()
    sheet.figure.legend(loc="outside right center")
    letter(sheet.panels)
    slower = [coarse.event(f"error_rare_{c}") / fine.event(f"error_dominant_{c}") for c in counts]
    facts = {
        "exponents": {name: _told(exponent, ".2f") for name, exponent in exponents.items()},
        "feature_counts": counts.tolist(),
        "slower": [_told(ratio) for ratio in slower],
    }
    return Drawing(sheet.figure, sheet.table, facts)
