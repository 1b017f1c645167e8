"""The figures of this paper (docs/papers/ntp.md, section 1), and ours beyond it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import looks
from workflow.lib.papers.ntp import language
from workflow.lib.papers.ntp.claims import NGD
from workflow.lib.papers.ntp.published import PANELS, readings
from workflow.lib.papers.ntp.settings import Strings, TwoStage, TwoStageOptions, learning_rates
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.plotting import BLUE, MEDIUM, RED, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[TwoStage, TwoStageOptions]

# Panel -> its title, the label of its axis, and the ticks of the published one.
AXES = {
    "L0": ("stage 1: loss", "$L_0$, mean (nats)", (0, 1, 2, 3)),
    "cos_ov": ("direction", r"cosine with $W_{ov}^*$", (0, 0.5, 1)),
    "norm_ov": ("norm", r"$\|W_{ov}\|$", (0, 20, 40)),
    "L": ("stage 2: loss", "$L$, sum (nats)", (0, 10, 20, 30)),
    "cos_kq": ("direction", r"cosine with $W_{kq}^*$", (0, 0.5, 1)),
    "norm_kq": ("norm", r"$\|W_{kq}\|$", (0, 5, 10)),
}
DASHED: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
POINTS: dict[str, Any] = {
    "color": "black", "linestyle": "none", "marker": "o", "markersize": 3.5, "markerfacecolor": "none",
    "markeredgewidth": 0.7, "clip_on": False, "label": "published (digitised)",
}  # fmt: skip


@FIGURES("fig2")
def fig2(metrics: Metrics, experiment: Runs) -> Drawing:
    """Six panels beside the published curves, with the deviation in a strip under each."""
    sheet = Sheet(4, 3, size=(WIDE, 5.2), height_ratios=[3, 1, 3, 1], sharex=True)
    upper, lower = sheet.panels[[0, 2]].ravel(), sheet.panels[[1, 3]].ravel()
    _six_panels(sheet, upper, metrics, experiment)
    deviations = {}
    for ax, panel in zip(lower, AXES, strict=True):
        deviations[panel] = _strip(sheet, ax, panel, _main(metrics, experiment, PANELS[panel]), _judged(experiment))
    for ax in sheet.panels[[1, 3], 0]:
        ax.set_ylabel("ours − publ.\n(errors)", fontsize=7.5)
    sheet.figure.align_ylabels(sheet.panels[:, 0])
    _time(sheet.panels[-1])
    sheet.letter(upper)
    sheet.legend(4, Patch(color="#bbbbbb", label="± one reading error"))
    # Runs shorter than the first reading have no deviation.
    largest = {panel: np.abs(found).max(initial=0.0 if found.size else np.nan) for panel, found in deviations.items()}
    facts = {
        **_facts(metrics, experiment),
        "deviation": largest,
        "start": {panel: readings()[panel].values[0] for panel in PANELS},
        "target": _range(metrics.value(experiment.name, "norm_key_query_target")),
        "proposition_2": metrics.value(experiment.name, "cos_proposition_2").min(),
    }
    return sheet.drawing(facts)


@FIGURES("extra_zero_init")
def extra_zero_init(metrics: Metrics, experiment: Runs, *others: Runs) -> Drawing:
    """Figure 2 from the printed zero start, beside the published curves; where the runs of `others` end is told."""
    sheet = Sheet(2, 3, size=(WIDE, 3.9), sharex=True)
    _six_panels(sheet, sheet.panels.ravel(), metrics, experiment)
    _time(sheet.panels[-1])
    sheet.letter()
    sheet.legend()
    first = _range(_main(metrics, experiment, "cos_kq").at(1))
    ends = [_end(metrics, run) for run in (experiment, *others)]
    return sheet.drawing({**_facts(metrics, experiment), "first": first, "ends": ends})


def _judged(experiment: Runs) -> str:
    """The optimizer that captions give numbers of: `ngd`, or the first one where there is none."""
    return NGD if NGD in experiment.optimizers else next(iter(experiment.optimizers))


def _main(metrics: Metrics, experiment: Runs, metric: str) -> Curve:
    return metrics.curve(experiment.name, metric, _judged(experiment))


def _range(values: np.ndarray) -> tuple[float, float]:
    if np.isnan(values).all():
        raise NotRecordedError("no seed has this number: all of them diverged")
    return float(np.nanmin(values)), float(np.nanmax(values))


def _facts(metrics: Metrics, experiment: Runs) -> dict[str, Any]:
    """What every caption of training runs says."""
    names = {label: look.name for label, look in looks(experiment).items()}
    lost = {
        name: int(np.isfinite(metrics.value(experiment.name, "diverged_at", label)).sum())
        for label, name in names.items()
        if metrics.has(experiment.name, "diverged_at", label)
    }
    return {
        "seeds": len(_main(metrics, experiment, "loss").seeds),
        "optimizers": ", ".join(names.values()),
        "judged": names[_judged(experiment)],
        "diverged": "; ".join(f"{count} of {name}" for name, count in lost.items()),
    }


def _end(metrics: Metrics, experiment: Runs) -> dict[str, Any]:
    """Where the runs of an experiment end: medians over seeds."""
    last = experiment.settings.steps_ov, experiment.settings.steps_kq
    sizes = learning_rates(experiment.optimizers[_judged(experiment)])
    loss = _main(metrics, experiment, "loss")
    slopes = [
        np.median(_main(metrics, experiment, name).slope(end / 2, end) / size)
        for name, end, size in zip(("norm_ov", "norm_kq"), last, sizes, strict=True)
    ]
    cosines = [np.median(_main(metrics, experiment, name).final()) for name in ("cos_ov", "cos_kq")]
    return {
        "name": experiment.name,
        "about": experiment.about,
        "cosines": cosines,
        "slopes": slopes,
        "loss": np.median(loss.final() / loss.values[:, 0]),
    }


def _six_panels(sheet: Sheet, panels: Sequence[Axes] | np.ndarray, metrics: Metrics, experiment: Runs) -> None:
    """The panels of Figure 2, stage 1 and then stage 2: every optimizer, and the published curve dashed."""
    for ax, (panel, (title, label, ticks)) in zip(panels, AXES.items(), strict=True):
        _bands(sheet, ax, panel, metrics, experiment, PANELS[panel])
        theirs = readings()[panel].until(_main(metrics, experiment, PANELS[panel]).steps[-1])
        sheet.points(ax, panel, "published", theirs.steps, theirs.values, role="published", **POINTS)
        ax.set(title=title, ylabel=label)
        if panel.startswith("cos"):
            ax.set_ylim(-0.2, 1.08)
        if theirs.steps[-1] == 900 and len(experiment.optimizers) == 1:
            ax.set_yticks(ticks)


def _bands(
    sheet: Sheet,
    ax: Axes,
    panel: str,
    metrics: Metrics,
    experiment: Runs,
    metric: str,
    change: Callable[[Curve, str], Curve] = lambda curve, _: curve,
) -> None:
    """Every optimizer's median over the seeds as a line, with the central 95 % of the seeds as a band.

    Args:
        sheet: the sheet.
        ax: the axes.
        panel: name in the table.
        metrics: the paper's.
        experiment: its optimizers are drawn.
        metric: is drawn.
        change: from the metric's curve and the optimizer's label to what is drawn.
    """
    for label, look in looks(experiment).items():
        curve = change(metrics.curve(experiment.name, metric, label), label)
        sheet.band(ax, panel, label, curve, middle="median", **look.line)


def _strip(sheet: Sheet, ax: Axes, panel: str, ours: Curve, label: str) -> np.ndarray:
    """The deviation of our median from the published curve over the reading error; for t > 0 it is returned."""
    reading = readings()[panel].until(ours.steps[-1])
    found = reading.deviation(ours)
    ax.axhspan(-1, 1, color="#bbbbbb", linewidth=0)
    style = {"color": "black", "linewidth": 0.8, "marker": ".", "markersize": 3}
    known: Any = {"part": "minus published, in reading errors", "role": "comparison"}
    sheet.line(ax, f"{panel}, deviation", label, reading.steps, found, **known, **style)
    reach = max(2.0, float(np.ceil(np.nanmax(np.abs(found)))))
    ax.set(ylim=(-1.15 * reach, 1.15 * reach), yticks=(-reach, 0, reach))
    return np.asarray(found[reading.steps > 0])


def _time(panels: Sequence[Axes] | np.ndarray) -> None:
    for ax in panels:
        ax.set(xlabel="$t$ (steps)", xlim=(0, None))
        if 600 < ax.get_xlim()[1] < 1000:
            ax.set_xticks([0, 300, 600, 900])


@FIGURES("extra_rates")
def extra_rates(metrics: Metrics, two_stage: Runs, long_run: Runs) -> Drawing:
    """Losses over their floors and distances from the targets, on log axes, with the laws beside them."""
    sheet = Sheet(2, 2, size=(WIDE, 4.9))
    loss_ov, loss, cos_ov, cos_kq = sheet.panels.ravel()
    targets = [
        metrics.value(run.name, f"norm_{name}_target") for run, name in ((two_stage, "value"), (long_run, "key_query"))
    ]
    sizes = [learning_rates(run.optimizers[_judged(run)])[stage] for stage, run in enumerate((two_stage, long_run))]
    steady = all(_steady(run.optimizers[_judged(run)]) for run in (two_stage, long_run))
    laws = [-size / np.median(norm) for size, norm in zip(sizes, targets, strict=True)] if steady else []
    _bands(sheet, loss_ov, "loss_ov", metrics, two_stage, "loss_ov")
    _bands(sheet, loss, "loss", metrics, long_run, "loss", lambda c, label: _over_floor(metrics, long_run, c, label))
    first = _main(metrics, two_stage, "loss_ov")
    second = _over_floor(metrics, long_run, _main(metrics, long_run, "loss"), _judged(long_run))
    if laws:
        _law(sheet, loss_ov, "loss_ov", first, laws[0], r"slope $-\eta_0/\|W_{ov}^*\|$", (1 / 2, 1))
        _law(sheet, loss, "loss", second, laws[1], r"slope $-\eta/\|W_{kq}^*\|$", (1 / 6, 2 / 3))
    loss_ov.set(yscale="log", title="stage 1: loss", ylabel="$L_0$, mean (nats)")
    loss.set(yscale="log", title="stage 2: loss over its floor", ylabel="$L -$ floor (nats)")
    slopes = [
        _turning(sheet, cos_ov, "cos_ov", metrics, two_stage, 1 / 2, 1),
        _turning(sheet, cos_kq, "cos_kq", metrics, long_run, 1 / 4, 2),
    ]
    for ax in sheet.panels.ravel():
        ax.set_xlabel("$t$ (steps)")
        if laws or ax not in (loss_ov, loss):
            ax.legend(handles=ax.get_lines()[-1:], loc="lower left", frameon=True, edgecolor="none", framealpha=0.8)
    sheet.letter()
    rules = looks(long_run).values()
    sheet.legend(4, *(sheet.sample(rule.name, color=rule.color, linestyle=rule.dash) for rule in rules), only=True)
    facts = {"slopes": slopes, "laws": laws, **_facts(metrics, long_run)}
    facts["loss_slopes"] = [_late(first, 1 / 2, 1), _late(second, 1 / 6, 1 / 3)]
    return sheet.drawing(facts)


def _steady(optimizer: Optimizer[TwoStageOptions]) -> bool:
    """Whether these are normalised steps of one length, of which the laws speak."""
    return optimizer.rule == "ngd" and not optimizer.hyperparameters["decay"]


def _late(curve: Curve, first: float, last: float) -> float:
    """The median slope of a logarithm between two shares of the run."""
    end = curve.steps[-1]
    return float(np.median(curve.slope(first * end, last * end, log_values=True)))


def _over_floor(metrics: Metrics, experiment: Runs, loss: Curve, label: str) -> Curve:
    """L less its floor at some 600 steps, while it is above rounding in every seed; then nothing."""
    floor = metrics.curve(experiment.name, "loss_floor", label).final()
    every = max(1, loss.steps.size // 600)
    steps, gap = loss.steps[::every], (loss.values - floor[:, None])[:, ::every]
    sound = np.logical_and.accumulate((gap > 1e-14).all(axis=0))
    return Curve(loss.seeds, steps, np.where(sound, gap, np.nan))


def _law(sheet: Sheet, ax: Axes, panel: str, curve: Curve, rate: float, label: str, part: tuple[float, float]) -> None:
    """An exponential law beside a part of a curve's run, drawn a little above it."""
    end = curve.steps[-1]
    window = curve.window(part[0] * end, part[1] * end)
    shape = np.exp(rate * (window.steps - window.steps[0]))
    _theory(sheet, ax, panel, "law", window.steps, shape, window.values[:, 0], label)


def _theory(
    sheet: Sheet, ax: Axes, panel: str, name: str, steps: np.ndarray, shape: np.ndarray, begin: np.ndarray, label: str
) -> None:
    """A shape that begins at three times the seeds' median; none where all of them have diverged."""
    recorded = begin[~np.isnan(begin)]
    if recorded.size:
        values = 3 * np.median(recorded) / shape[0] * shape
        sheet.line(ax, panel, name, steps, values, role="theory", **DASHED, label=label)


def _turning(sheet: Sheet, ax: Axes, metric: str, metrics: Metrics, experiment: Runs, late: float, power: int) -> float:
    """1 - cosine beside the shape log^power t / t of its bound; the median log-log slope after the share `late`."""

    def distance(curve: Curve, label: str = "") -> Curve:
        return Curve(curve.seeds, curve.steps, 1 - curve.values).window(1, np.inf)

    _bands(sheet, ax, metric, metrics, experiment, metric, distance)
    curve = distance(_main(metrics, experiment, metric))
    last = int(curve.steps[-1])
    steps = curve.window(10, np.inf).steps.astype(np.float64)
    shape = np.log(steps) ** power / steps
    label = r"shape of the bound, $\log t / t$" if power == 1 else r"shape of the bound, $\log^2 t / t$"
    _theory(sheet, ax, metric, "shape of the bound", steps, shape, curve.at(10), label)
    name = f"W_{{{metric[-2:]}}}"
    ax.set(xscale="log", yscale="log", title=f"stage {power}: direction", ylabel=f"1 − cosine of ${name}$")
    return float(np.median(curve.slope(late * last, last, log_steps=True, log_values=True)))


@FIGURES("extra_dataset_shift")
def extra_dataset_shift(metrics: Metrics, experiment: Runs) -> Drawing:
    """Theorem 3: the two least logit gaps against t; what follows from them is one sentence of the caption."""
    sheet = Sheet(1, 2, size=(MEDIUM, 2.6), sharey=True)
    titles = {"optimal_gap": "optimal − non-comparable", "non_comparable_gap": "non-comparable − non-optimal"}
    for ax, (metric, title) in zip(sheet.panels[0], titles.items(), strict=True):
        _bands(sheet, ax, metric, metrics, experiment, metric)
        ax.set(title=title, xlabel="$t$ (steps of stage 2)", xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(MaxNLocator(5))
    sheet.panels[0, 0].set_ylabel("least gap of the logits")
    sheet.letter()
    sheet.legend()

    def unseen(name: str) -> list[np.ndarray]:
        return [_main(metrics, experiment, f"{name}_{kind}").final() for kind in language.UNSEEN]

    facts = {
        **_facts(metrics, experiment),
        "counts": [int(found.sum()) for found in unseen("unseen")],
        "right": [float(np.nanmin(found)) for found in unseen("accuracy")],
        "probability": [float(np.nanmean(found)) for found in unseen("probability")],
    }
    return sheet.drawing(facts)


WORDS = {"S": "Dogs", "V": "Chase", "O": "Cats", "P": "."}
COLOURS = {"S": "#FFE98A", "V": "#A6DBA0", "O": "#B5DDF5", "P": "#D9D9D9"}


@FIGURES("fig1")
def fig1(metrics: Metrics, experiment: Experiment[Strings]) -> Drawing:
    """The schematic, drawn from the collocation and the orders that the example's strings imply."""
    strings = experiment.settings.strings
    alphabet = "".join(dict.fromkeys("".join(strings)))
    collocation = metrics.array(experiment.name, "collocation")[0].astype(int)
    role = metrics.array(experiment.name, "role")[0].astype(int)
    sheet = Sheet(1, 2, size=(WIDE, 1.65), width_ratios=[1.5 * len(strings[0]) + 1.7, 1.6 * len(alphabet) + 0.25])
    left, right = sheet.panels[0]
    _sentences(sheet, left, strings[0], alphabet, collocation, role)
    _collocation(sheet, right, alphabet, collocation)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set_axis_off()
    sheet.letter()
    return sheet.drawing({"strings": ", ".join(strings)})


def _sentences(sheet: Sheet, ax: Axes, string: str, alphabet: str, collocation: np.ndarray, role: np.ndarray) -> None:
    """The prefixes of a string, their optimal token framed, with the token that follows."""
    for row, length in enumerate(range(2, len(string))):
        sentence, height = string[:length], -1.5 * row
        query = alphabet.index(sentence[-1])
        for place, token in enumerate(sentence):
            is_optimal = role[query, alphabet.index(token)] == language.OPTIMAL
            _box(ax, 1.5 * place, height, token, framed=is_optimal)
            part = f"{token}{', optimal' if is_optimal else ''}"
            sheet.record("sentences", sentence, [place], [row], part=part, role="data", ax=ax)
        optimal = next(t for t in sentence if role[query, alphabet.index(t)] == language.OPTIMAL)
        follows = alphabet[collocation[alphabet.index(optimal)]]
        _arrow(ax, (1.5 * len(sentence) - 0.7, height), (1.5 * len(string) - 0.85, height))
        _box(ax, 1.5 * len(string), height, follows)
        sheet.record("sentences", sentence, [len(string)], [row], part=f"next: {follows}", role="data", ax=ax)
    ax.set(xlim=(-0.8, 1.5 * len(string) + 0.9), ylim=(-1.5 * (len(string) - 3) - 0.8, 0.75))
    ax.set_title("sentence and next token, optimal token framed")


def _collocation(sheet: Sheet, ax: Axes, alphabet: str, collocation: np.ndarray) -> None:
    """Each token over the one that follows it."""
    for column, (token, follows) in enumerate(zip(alphabet, collocation, strict=True)):
        _box(ax, 1.6 * column, 0, token)
        _arrow(ax, (1.6 * column, -0.5), (1.6 * column, -1.0))
        _box(ax, 1.6 * column, -1.5, alphabet[follows])
        sheet.record("collocation", token, [column], [0], part=f"next: {alphabet[follows]}", role="data", ax=ax)
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
    ax.text(x, y, f"{word} ({token})" if word else token, ha="center", va="center", fontsize=7.5)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=BLUE, linewidth=1.6))
