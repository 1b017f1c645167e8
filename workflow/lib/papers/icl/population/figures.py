"""Figures of descent on the population loss: the four phases, the plateau and the scaling with K."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import Look, looks
from workflow.lib.papers.icl.population.metrics import PLATEAU, finest, pace, waits
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, WIDE, Sheet, shades
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
    Phase("I", "decrease of\nthe dominant", "crossing", r"$\alpha_k > |\beta_{k,1}|$"),
    Phase("II", "switching of\nthe leader", "half_log", r"$A_k = \frac{1}{2}\log K$"),
    Phase("III", "growth of\nthe target", "log", r"$A_k = \log K$"),
    Phase("IV", "convergence\n", "error", "$L_k$ is small"),
)
WEIGHTS = {"target": ("$A_k$", RED), "dominant": ("$B_{k,1}$", BLUE), "other": ("$B_{k,n}$", GREY)}
QUERIES = {
    "dominant": (BLUE, "dominant $v_1$"),
    "balanced": (GREEN, "balanced $v_k$"),
    "rare": (RED, "rare $v_k$"),
}


def _main(experiment: Runs) -> str:
    """The optimizer that figures follow: gradient descent, or the first one where a user left it out."""
    return "gd" if "gd" in experiment.optimizers else next(iter(experiment.optimizers))


def _left_out(experiment: Runs, *drawn: str) -> list[str]:
    return [label for label in experiment.optimizers if label not in (_main(experiment), *drawn)]


@dataclass(frozen=True)
class _Course:
    """The runs of one optimizer over time, in units of step size times steps."""

    metrics: Metrics
    experiment: str
    optimizer: Optimizer[PopulationOptions]

    @classmethod
    def coarse(cls, metrics: Metrics, experiment: Runs) -> _Course:
        """Gradient descent's runs, which last until every feature has converged."""
        return cls(metrics, experiment.name, experiment.optimizers[_main(experiment)])

    @classmethod
    def fine(cls, metrics: Metrics, experiment: Runs) -> _Course:
        """Its runs with the smallest step size, for what happens at the very start."""
        return cls(metrics, experiment.name, finest(experiment, _main(experiment)))

    def curve(self, metric: str, index: Index = "") -> tuple[np.ndarray, np.ndarray]:
        """Times and values of a metric."""
        curve = self.metrics.curve(self.experiment, metric, self.optimizer.label, index)
        return curve.steps * pace(self.optimizer), curve.values[0]

    def at(self, metric: str, index: Index, time: float) -> float:
        """The value of a metric at some time."""
        return float(np.interp(time, *self.curve(metric, index)))

    def borders(self, times: Iterable[float]) -> list[float]:
        """0 and the times of events, or the end of the run for events that it did not reach."""
        end = float(self.curve("mean_error")[0][-1])
        return [0.0, *(end if np.isnan(time) else time for time in times)]

    def waits(self, count: int) -> float:
        """The share of the time to Attn_k = 0.5 that a rare query spends below 0.1; NaN if it does not get there."""
        try:
            return waits(self.metrics, self.experiment, self.optimizer.label, ("rare", count))
        except NotRecordedError:
            return float("nan")

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
    times = {phase.event: course.event(phase.event, "rare", count) for phase in PHASES}
    borders = course.borders(times.values())
    sheet = Sheet(3, 4, size=(WIDE, 6.0), height_ratios=[2.0, 0.5, 2.1])
    for column, (phase, (start, end)) in enumerate(zip(PHASES, pairwise(borders), strict=True)):
        bars, shares = sheet.panels[0, column], sheet.panels[1, column]
        _weights(sheet, bars, phase, course, count, start, end)
        _shares(sheet, shares, bars, phase, course, count, end)
        bars.set_title(f"{phase.number}: {phase.name}")
        condition = f"$L_k < {settings.error_threshold:g}$" if phase.event == "error" else phase.condition
        shares.set_xlabel(f"ends with {condition}\nat {TIME} = {end:,.0f}", fontsize=8)
        if column:
            bars.tick_params(labelleft=False)
    sheet.panels[0, 0].set_ylabel("logit at the end\n(pale: at the start)")
    sheet.panels[1, 0].set_ylabel("attention", fontsize=8)
    grid = sheet.panels[2, 0].get_gridspec()
    for ax in sheet.panels[2]:
        ax.remove()
    below = sheet.figure.add_subplot(grid[2, :])
    _timeline(sheet, below, course, ("rare", count), borders, WEIGHTS, [phase.number for phase in PHASES])
    sheet.letter([*sheet.panels[0], below])
    facts = {
        "feature_count": count,
        "dominant_probability": settings.dominant_probability,
        "crossing": _told(times["crossing"]),
        "fallen": _told(course.event("fallen", "rare", count)),
        "left_out": _left_out(experiment),
    }
    return sheet.drawing(facts)


def _weights(sheet: Sheet, ax: Axes, phase: Phase, course: _Course, count: int, start: float, end: float) -> None:
    """Bars of the three weights with their change, in bold that of the one that moves most."""
    before = {name: course.at("logit", ("rare", count, name), start) for name in WEIGHTS}
    after = {name: course.at("logit", ("rare", count, name), end) for name in WEIGHTS}
    leader = max(WEIGHTS, key=lambda name: abs(after[name] - before[name]))
    for place, (name, (label, color)) in enumerate(WEIGHTS.items()):
        leads, upward = name == leader, after[name] >= 0
        for layer, (when, logit, shade, alpha) in enumerate(
            [("end", after[name], color, 1.0), ("start", before[name], "white", 0.7)], start=2
        ):
            style = {"name": label, "width": 0.62, "color": shade, "alpha": alpha, "zorder": layer}
            part = f"logit of {name} at the {when}"
            sheet.bars(ax, f"phase {phase.number}", course.optimizer.label, [place], [logit], part=part, **style)
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
    ax.axhline(0, color="#444444", linewidth=0.7)
    ax.set_xticks(range(len(WEIGHTS)), [label for label, _ in WEIGHTS.values()], fontsize=9.5)
    ax.set(xlim=(-0.62, 2.62), ylim=(-4.6, 8.6))
    ax.grid(False, axis="x")


def _shares(sheet: Sheet, ax: Axes, bars: Axes, phase: Phase, course: _Course, count: int, time: float) -> None:
    """One stacked bar: the attention on the target, on the dominant feature and on all others; told with `bars`."""
    shares = {name: course.at("attention", ("rare", count, name), time) for name in ("target", "dominant")}
    shares["other"] = 1 - sum(shares.values())
    left = 0.0
    for name, width in shares.items():
        ax.barh(0, width, 0.6, left=left, color=WEIGHTS[name][1])
        if width > 0.15:
            ax.text(left + width / 2, 0, f"{width:.2f}", ha="center", va="center", color="white", fontsize=8)
        sheet.note(bars, f"phase {phase.number}", f"attention on {name} at the end", width)
        left += width
    ax.set(xlim=(0, 1), ylim=(-0.5, 0.5), yticks=[], xticks=[0, 0.5, 1])
    ax.grid(False)


def _timeline(
    sheet: Sheet,
    logits: Axes,
    course: _Course,
    column: tuple[str, int],
    borders: list[float],
    weights: Mapping[str, tuple[str, str]],
    numbers: Sequence[str],
) -> None:
    """Logits and, dotted, attention over time, with the phases shaded."""
    scores = logits.twinx()
    end = 1.12 * borders[-1]
    panel = f"course, {column[0]}"
    for name, (label, color) in weights.items():
        times, values = course.curve("logit", (*column, name))
        shown = times <= end
        known = {"part": f"logit of {name}", "color": color, "label": label}
        sheet.line(logits, panel, course.optimizer.label, times[shown], values[shown], **known)
    for name, label in (("target", "Attn$_k$"), ("dominant", "Attn$_1$")):
        if name not in weights:
            continue
        times, values = course.curve("attention", (*column, name))
        shown = times <= end
        style = {"color": weights[name][1], "linestyle": ":", "linewidth": 1.3, "label": f"{label} (right)"}
        part = f"attention on {name}"
        sheet.line(scores, panel, course.optimizer.label, times[shown], values[shown], part=part, **style)
    for index, (number, (first, last)) in enumerate(zip(numbers, pairwise(borders), strict=True)):
        logits.axvspan(first, last, color="white" if index % 2 else "#ececec", zorder=0, linewidth=0)
        across = logits.get_xaxis_transform()
        logits.text((first + last) / 2, 0.96, number, transform=across, ha="center", va="top", fontsize=8)
    lowest = -4.0 if "dominant" in weights else -1.0
    logits.set(xlabel=f"time {TIME} (step size times steps)", ylabel="logit", xlim=(0, end), ylim=(lowest, 9.5))
    logits.xaxis.set_major_formatter(THOUSANDS)
    logits.xaxis.set_major_locator(MaxNLocator(5))
    logits.grid(False, axis="x")
    scores.set(ylabel="attention", ylim=(lowest / 9.5, 1), yticks=[0, 0.5, 1])
    scores.spines["right"].set_visible(True)
    scores.grid(False)
    lines = [*logits.get_lines(), *scores.get_lines()]
    texts = [str(line.get_label()) for line in lines]
    if "dominant" in weights:
        logits.legend(lines, texts, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(lines), columnspacing=1.2)
    else:
        logits.legend(lines, texts, loc="center left")


@FIGURES("extra_plateau")
def extra_plateau(metrics: Metrics, experiment: Runs, finite: Runs) -> Drawing:
    """Attention over time: three kinds of query, rare ones at all K, a balanced one's phases, prompts of finite N."""
    settings = experiment.settings
    coarse, fine = _Course.coarse(metrics, experiment), _Course.fine(metrics, experiment)
    sheet = Sheet(2, 2, size=(WIDE, 5.4))
    (kinds, rescaled), (balanced, lengths) = sheet.panels
    rise = _plateau(sheet, kinds, coarse, fine, settings.plateau_of)
    _rescaled(sheet, rescaled, coarse, settings.feature_counts)
    phases = _balanced(sheet, balanced, coarse, settings.phases_of)
    _lengths(sheet, lengths, _Course.coarse(metrics, finite), finite.settings)
    samples = [sheet.sample(label, color=color) for color, label in QUERIES.values()]
    sheet.legend(3, *samples, only=True)
    for ax in (kinds, rescaled, lengths):
        ax.set(ylabel="Attn$_k$ given $v_k$", ylim=(0, 1.02))
    sheet.letter()
    waiting = {count: coarse.waits(count) for count in settings.feature_counts}
    facts = {
        "feature_count": settings.plateau_of,
        "rise": [_told(time) for time in rise],
        "waiting": [f"{100 * share:.0f} % at K = {count}" for count, share in waiting.items() if np.isfinite(share)],
        "first": next((count for count, share in waiting.items() if share > PLATEAU), None),
        "balanced_of": settings.phases_of,
        "balanced": [_told(time) for time in phases],
        "finite_of": finite.settings.feature_counts[0],
        "left_out": _left_out(experiment, fine.optimizer.label)
        + [f"{label} of {finite.name}" for label in _left_out(finite)],
    }
    return sheet.drawing(facts)


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
        style = {"part": query, "color": color, "label": label}
        sheet.line(ax, "plateau", coarse.optimizer.label, x[x <= end], y[x <= end], **style)
    ax.set(xlabel=f"time {TIME}", xlim=(0, end), title=f"three queries, $K = {count}$")
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    return rise


def _rescaled(sheet: Sheet, ax: Axes, coarse: _Course, counts: Sequence[int]) -> None:
    """Attn_k of rare queries at all K, over time divided by K^2."""
    for count, shade in zip(counts, shades(len(counts)), strict=True):
        times, values = coarse.curve("attention", ("rare", count, "target"))
        shown = times <= 6 * count**2
        style = {"part": f"K = {count}", "name": f"K = {count}", "color": shade, "label": f"{count}"}
        sheet.line(ax, "rescaled", coarse.optimizer.label, times[shown] / count**2, values[shown], **style)
    ax.set(xlabel=r"rescaled time $\eta t / K^2$", xlim=(0, 6), title="rare $v_k$, all $K$")
    ax.legend(title="$K$", title_fontsize=8, loc="lower right", ncols=2)


def _balanced(sheet: Sheet, ax: Axes, course: _Course, count: int) -> list[float]:
    """The course of an equally likely feature with its two phases; returns when they end."""
    times = [course.event(event, "balanced", count) for event in ("log", "error")]
    weights = {"target": (WEIGHTS["target"][0], QUERIES["balanced"][0]), "other": WEIGHTS["other"]}
    _timeline(sheet, ax, course, ("balanced", count), course.borders(times), weights, ("I", "II"))
    ax.set(xlabel=f"time {TIME}", title=f"balanced $v_k$ in two phases, $K = {count}$")
    return times


LENGTHS = ("-", (0, (4, 1.6)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))


def _lengths(sheet: Sheet, ax: Axes, course: _Course, settings: Population) -> None:
    """Attn_k of rare and balanced queries for prompts of each length, from the longest to the shortest."""
    count = settings.feature_counts[0]
    lengths = sorted((n for k, n in settings.systems if k == count), key=lambda n: -n if n else float("-inf"))
    for length, dash in zip(lengths, cycle(LENGTHS), strict=False):
        for query in ("balanced", "rare"):
            color = QUERIES[query][0]
            label = (f"$N = {length}$" if length else r"$N \to \infty$") if query == "rare" else None
            index = (query, count, *([length] if length else []), "target")
            part = f"{query}, N = {length}" if length else f"{query}, long prompts"
            style: dict[str, Any] = {"part": part, "name": part, "color": color, "linestyle": dash, "label": label}
            sheet.line(ax, "length", course.optimizer.label, *course.curve("attention", index), **style)
    ax.set(xlabel=f"time {TIME}", xlim=(0, None), title=f"prompts of $N$ tokens, $K = {count}$")
    ax.xaxis.set_major_formatter(THOUSANDS)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.legend(loc="lower right", handlelength=2.5)


# (event, query) -> its colour, marker and label. The dominant feature's is timed with the finest steps.
SCALING = {
    ("error", "rare"): (RED, "o", "$L_k$ small, rare"),
    ("log", "rare"): (ORANGE, "^", r"$A_k = \log K$, rare"),
    ("half_log", "rare"): (PINK, "s", r"$A_k = \frac{1}{2}\log K$, rare"),
    ("half_log", "balanced"): (GREEN, "D", r"$A_k = \frac{1}{2}\log K$, balanced"),
    ("crossing", "rare"): (SKY, "v", "drifts cross, rare"),
    ("error", "dominant"): (BLUE, "o", "$L_1$ small, dominant"),
}


LOCAL_FROM = 10  # below, the phases have not parted, and the crossing has no power law


@FIGURES("extra_scaling")
def extra_scaling(metrics: Metrics, experiment: Runs) -> Drawing:
    """Times of the events against K on log axes, with exponents fitted to the upper half of the K's."""
    counts = np.array(experiment.settings.feature_counts)
    coarse, fine = _Course.coarse(metrics, experiment), _Course.fine(metrics, experiment)
    times = {
        (event, query): np.array([(fine if query == "dominant" else coarse).event(event, query, c) for c in counts])
        for event, query in SCALING
    }
    sheet = Sheet(1, 2, size=(WIDE, 4.0), width_ratios=[1.2, 1])
    left, right = sheet.panels[0]
    exponents = {}
    for (event, query), (color, marker, label) in SCALING.items():
        name = f"{event}_{query}"
        style: dict[str, Any] = {"part": name, "name": label, "color": color, "marker": marker, "markersize": 4}
        followed = (fine if query == "dominant" else coarse).optimizer.label
        shown = np.where(times[event, query] > 0, times[event, query], np.nan)  # at once: no point on a log axis
        exponents[name] = _exponent(counts, shown)
        sheet.line(left, "times", followed, counts, shown, label=f"{label}: $K^{{{exponents[name]:.2f}}}$", **style)
        if query != "dominant":
            local = (np.diff(np.log(shown)) / np.diff(np.log(counts)))[counts[:-1] >= LOCAL_FROM]
            middle = np.sqrt(counts[1:] * counts[:-1])[counts[:-1] >= LOCAL_FROM]
            sheet.line(right, "local exponents", followed, middle, local, **style)
    _others(sheet, left, metrics, experiment)
    _scaling_axes(left, right, counts)
    sheet.level(right, "local exponents", "two", 2.0, role="theory", color="#444444", linewidth=0.8)
    sheet.legend(3)
    sheet.letter()
    facts = {
        "exponents": {name: _told(exponent, ".2f") for name, exponent in exponents.items()},
        "feature_counts": counts.tolist(),
        "local_from": LOCAL_FROM,
        "others": [label for label, _ in _other_rules(experiment)],
        "slower": [_told(ratio) for ratio in times["error", "rare"] / times["error", "dominant"]],
    }
    return sheet.drawing(facts)


def _other_rules(experiment: Runs) -> list[tuple[str, Look]]:
    """Optimizers other than gradient descent at any step size, which the curves above follow."""
    rule = experiment.optimizers[_main(experiment)].rule
    return [(label, look) for label, look in looks(experiment).items() if experiment.optimizers[label].rule != rule]


def _others(sheet: Sheet, ax: Axes, metrics: Metrics, experiment: Runs) -> None:
    """When a rare L_k is small under the other rules, in their own units of step size times steps."""
    counts = experiment.settings.feature_counts
    for label, look in _other_rules(experiment):
        course = _Course(metrics, experiment.name, experiment.optimizers[label])
        times = [course.event("error", "rare", count) for count in counts]
        style = {**look.points, "linestyle": (0, (3, 2)), "markersize": 5, "markerfacecolor": "white"}
        style["label"] = f"{look.name}: $L_k$ small, rare"
        sheet.line(ax, "times", label, counts, times, part="error_rare", **style)


def _exponent(counts: np.ndarray, times: np.ndarray) -> float:
    """The exponent of times as a power of K, fitted to the upper half of the K's; NaN with fewer than two times."""
    known = (counts >= np.median(counts)) & np.isfinite(times)
    if known.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(counts[known]), np.log(times[known]), 1)[0])


def _scaling_axes(left: Axes, right: Axes, counts: np.ndarray) -> None:
    left.set(xlabel="number of features $K$", yscale="log", ylabel=f"time {TIME}", title="times, fitted exponents")
    right.set(xlabel="$K$, between doublings", ylabel="local exponent", title="local exponents")
    right.set_ylim(1.3, 2.5)
    for ax in (left, right):
        ax.set_xscale("log")
        shown = counts if ax is left else counts[counts >= LOCAL_FROM]
        ax.set_xticks(shown, [str(c) for c in shown])
        ax.minorticks_off()
