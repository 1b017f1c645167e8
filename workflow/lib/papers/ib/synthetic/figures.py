"""The figures of the synthetic experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import RULES, looks, ordered
from workflow.lib.papers.ib.synthetic import rates
from workflow.lib.papers.ib.synthetic.settings import FixedDecoder, Joint, JointIterations, Variants
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.plotting import MEDIUM, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()

# Of the joint experiment: drawn by extra_joint_rules alone, beside the others.
OTHER_JOINT_RULES = ("ngd_separate", "ngd_led", "ngd_constant", "polyak")
_LAW = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 0.9}
_CORR = "\\mathrm{corr}(W, W_{\\mathrm{mm}})"
_DECADES = (0.1, 1e-3, 1e-10, 1e-30, 1e-100, 1e-300)
_STEPS = "steps"
# Label of an entry -> what it differs in from the one that has its rule's name.
_DIFFERS = {
    "ngd_separate": "norm",
    "ngd_led": "led",
    "ngd_constant": "decay",
    "ngd_tenth": "lr",
    "gd_10": "lr",
    "gd_100": "lr",
    "gd_1000": "lr",
}
SIGNALS = {"orthogonal": "orthogonal", "antipodal": "opposite to each other"}


def decades(ax: Axes) -> None:
    """Scale y by the logarithm of the number of decades below 1, so that 1e-3 and 1e-200 are both read off."""

    def down(y: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.log1p(-np.log10(np.clip(y, 5e-324, 1.0)))

    def back(z: np.ndarray) -> np.ndarray:
        return 10.0 ** -np.clip(np.expm1(-z), 0, 323)

    low, high = ax.dataLim.intervaly
    if not np.isfinite(low):
        raise NotRecordedError("no run ended at a number")
    ax.set_yscale("function", functions=(down, back))
    ax.yaxis.set_major_locator(FixedLocator([y for y in _DECADES if y >= low / 10 or y >= 1e-3]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y > 0.05 else f"$10^{{{np.log10(y):.0f}}}$"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(max(low**1.15, 5e-324), min(high**0.8, 1.0))


def cube_root(ax: Axes, ticks: Sequence[float]) -> None:
    """Scale x like t^(1/3), where exp(-c t^(1/3)) is straight on a log axis."""
    last = ax.dataLim.xmax
    ax.set_xscale("function", functions=(np.cbrt, lambda x: x**3))
    ax.xaxis.set_major_locator(FixedLocator([t for t in ticks if t <= last]))
    ax.set_xlim(0, last)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def _started(curve: Curve) -> Curve:
    """What has a place on log axes: steps from 1, values above 0 (W is still 0 where u moves first)."""
    part = curve.window(1, np.inf)
    return Curve(part.seeds, part.steps, np.where(part.values > 0, part.values, np.nan))


def _names(experiment: Experiment) -> dict[str, str]:
    """What tells shipped entries of one rule apart, by label, while they differ in that; others have their labels."""
    told = {}
    for label, what in _DIFFERS.items():
        optimizer = experiment.optimizers.get(label)
        first = experiment.optimizers.get(label.partition("_")[0])
        if optimizer is None or first is None or optimizer.rule not in (first.rule, "led_ngd"):
            continue
        name, own, others = RULES[first.rule].name, optimizer.hyperparameters, first.hyperparameters
        if what == "led" and optimizer.rule == "led_ngd":
            told[label] = f"{name}, by u's norm"
        elif what == "norm" and own.get("norm") == "per_group" and optimizer.options.groups == "separate":
            told[label] = f"{name}, a norm each"
        elif what == "decay" and others.get("decay") and own.get("decay") == 0:
            told[label] = f"{name}, constant step"
        elif what == "lr" and optimizer.rule == first.rule and own["lr"] != others["lr"]:
            ratio = own["lr"] / others["lr"]
            told[label] = f"{name}, step × {ratio:.4g}" if ratio > 1 else f"{name}, step / {1 / ratio:.4g}"
    return told


class _Panels:
    """Draws one metric of one experiment after the other, in the looks of its optimizers.

    Attributes:
        optimizers: those drawn, in the order of legends; `without` are left out.
    """

    def __init__(self, metrics: Metrics, experiment: Experiment, sheet: Sheet, without: Sequence[str] = ()) -> None:
        self.metrics, self.experiment, self.sheet = metrics, experiment.name, sheet
        self.looks = looks(experiment, _names(experiment))
        self.optimizers = ordered([label for label in experiment.optimizers if label not in without], experiment)

    def whole(self, metric: str, optimizer: str, variant: str = "") -> Curve:
        """A metric as it was recorded."""
        return self.metrics.curve(self.experiment, metric, optimizer, variant)

    def draw(self, ax: Axes, panel: str, metric: str, **style: Any) -> None:
        """A metric of all optimizers, on log axes."""
        style = {"middle": "geometric mean", **style}
        for optimizer in self.optimizers:
            curve = _started(self.whole(metric, optimizer))
            self.sheet.band(ax, panel, optimizer, curve, **{**self.looks[optimizer].line, **style})
        if not np.isfinite(ax.dataLim.intervaly).all():
            raise NotRecordedError(f"no run has a {metric} above 0 from step 1 on")

    def draw_complement(self, ax: Axes, panel: str, metric: str) -> None:
        """1 less a metric of all optimizers, on a linear axis."""
        for optimizer in self.optimizers:
            curve = _started(self.whole(metric, optimizer))
            complement = Curve(curve.seeds, curve.steps, 1 - curve.values)
            self.sheet.band(ax, panel, optimizer, complement, **self.looks[optimizer].line)

    def ends(self) -> dict[str, float]:
        """The last L - L* of each optimizer, geometric mean over seeds."""
        return {optimizer: _middle(self.whole("gap", optimizer).values)[-1] for optimizer in self.optimizers}

    def powers(self, metric: str, windows: Mapping[str, rates.Window]) -> dict[str, float]:
        """Fitted powers of t, mean over seeds, of the optimizers that have a window."""
        return {
            optimizer: _fit(self.whole(metric, optimizer), windows[optimizer])
            for optimizer in self.optimizers
            if optimizer in windows
        }

    def mark_divergence(self, ax: Axes, variants: Sequence[str] = ("",)) -> None:
        """Say in a panel which runs left the finite numbers."""
        lost = []
        for optimizer in self.optimizers:
            steps = [
                self.metrics.value(self.experiment, "diverged_at", optimizer, index=variant)
                for variant in variants
                if self.metrics.has(self.experiment, "diverged_at", optimizer, variant)
            ]
            if steps:
                name, count = self.looks[optimizer].name, np.isfinite(steps).sum()
                lost.append(f"{name}: {count} runs diverged, the first by step {int(np.nanmin(steps))}")
        if lost:
            ax.text(0.03, 0.05, "\n".join(lost), transform=ax.transAxes, color="crimson", fontsize=7)

    def told(self, values: Mapping[str, float], form: str) -> str:
        """A number of each optimizer, for a caption."""
        return ", ".join(f"{self.looks[name].name} {value:{form}}" for name, value in values.items())


def _late(curve: Curve, first: float) -> Curve:
    """The part from a step on, or the later half of runs that a user made too short for it."""
    return curve.window(min(first, curve.steps[-1] / 2), np.inf)


def _slope(fit: Callable[[Curve, rates.Window], np.ndarray], curve: Curve, window: rates.Window) -> float:
    """A fit of `rates`, mean over seeds; NaN for runs that a user made too short for the window."""
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(fit(curve, window).mean())
    except NotRecordedError:
        return float("nan")


def _fit(curve: Curve, window: rates.Window) -> float:
    return _slope(rates.power, curve, window)


def _middle(values: np.ndarray) -> np.ndarray:
    """Geometric mean over seeds."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(axis=0))  # type: ignore[no-any-return]


def fixed_decoder(metrics: Metrics, experiment: Experiment[FixedDecoder]) -> Drawing:
    """Loss gap, norm, alignment, attention and the complements of the last two, against the step."""
    sheet = Sheet(2, 3, size=(WIDE, 4.5))
    (gap, norm, corr), (attention, distraction, angle) = sheet.panels
    panels = _Panels(metrics, experiment, sheet)
    panels.draw(gap, "gap", "gap")
    decades(gap)
    gap.set(title="distance to the floor", ylabel="$L - L^*$")
    panels.mark_divergence(gap)
    panels.draw(norm, "norm", "norm_w")
    norm.set(title="norm of $W$", ylabel="$\\|W\\|_F$", yscale="log")
    panels.draw_complement(attention, "attention", "distraction")
    attention.set(title="optimal token", ylabel="its attention $p_{\\mathrm{opt}}$", ylim=(0, 1.02))
    panels.draw_complement(corr, "corr", "misalignment_w")
    corr.set(title="alignment", ylabel=f"${_CORR}$", ylim=(None, 1.001))
    margin_norm = metrics.value(experiment.name, "margin_norm")
    _distraction_with_law(panels, distraction, margin_norm, experiment)
    panels.draw(angle, "misalignment", "misalignment_w")
    angle.set(title="misalignment", ylabel=f"$1 - {_CORR}$", yscale="log")

    for ax in sheet.panels.ravel():
        ax.set(xscale="log", xlim=(1, None), xlabel=_STEPS)
    sheet.letter()
    sheet.legend(5)
    facts = {
        "seeds": len(margin_norm),
        "signals": SIGNALS[experiment.settings.signals],
        "margin_norm_low": f"{margin_norm.min():.3f}",
        "margin_norm_high": f"{margin_norm.max():.3f}",
        "active": int(metrics.value(experiment.name, "active").min()),
        "constraints": int(metrics.value(experiment.name, "constraints")[0]),
        "floor": f"{metrics.value(experiment.name, 'floor').mean():.6f}",
        "residual": f"{metrics.value(experiment.name, 'kkt_residual').max():.0e}",
        "ends": panels.told(panels.ends(), ".0e"),
        "norm_slopes": panels.told(panels.powers("norm_w", rates.NORM), ".2f"),
        "turning_slopes": panels.told(panels.powers("misalignment_w", rates.ALIGNMENT), ".2f"),
        "windows": ", ".join(
            f"{panels.looks[label].name} {rates.NORM[label][0]:g} to {rates.NORM[label][1]:g}"
            for label in panels.optimizers
            if label in rates.NORM
        ),
    }
    return sheet.drawing(facts)


FIGURES("fig2")(fixed_decoder)
FIGURES("fig3")(fixed_decoder)


def _distraction_with_law(
    panels: _Panels, ax: Axes, margin_norm: np.ndarray, experiment: Experiment[FixedDecoder]
) -> None:
    """1 - p_opt, and dashed the law that ties it to ||W|| late in training."""
    rivals = experiment.settings.tokens - 1
    panels.draw(ax, "distraction", "distraction")
    # Of rules that leave the gradients' span W may turn elsewhere, and then the law does not speak of it.
    turning = [label for label in panels.optimizers if experiment.optimizers[label].traits.rotations]
    for optimizer in turning:
        part = _late(panels.whole("norm_w", optimizer), rates.LAW.get(optimizer, (100, np.inf))[0] / 10)
        law = _middle(rivals * np.exp(-part.values / margin_norm[:, None]))
        shown = law < 1  # the law is of late times; at early ones it is no probability
        name: Any = {"part": "law", "role": "theory", "name": "late law", "label": None}
        if optimizer == turning[0]:
            name["label"] = "late law"
        panels.sheet.line(ax, "distraction", optimizer, part.steps[shown], law[shown], **name, **_LAW)
    decades(ax)
    ax.set(title="other tokens", ylabel="$1 - p_{\\mathrm{opt}}$")


@FIGURES("fig5")
def joint(metrics: Metrics, experiment: Experiment[Joint]) -> Drawing:
    """Joint training: loss against t^(1/3), norms, attention and misalignments of W and u."""
    sheet = Sheet(2, 2, size=(MEDIUM, 4.6))
    (loss, norm), (attention, angle) = sheet.panels
    panels = _Panels(metrics, experiment, sheet, without=OTHER_JOINT_RULES)

    panels.draw(loss, "loss", "gap")
    loss.set(title="loss", ylabel="$L$", yscale="log")
    cube_root(loss, (1, 100, 1000, 5000, 20000))
    panels.mark_divergence(loss)
    _both(panels, norm, "norm", "norms")
    norm.set(ylabel="norm")
    panels.draw_complement(attention, "attention", "distraction")
    attention.set(title="optimal token", ylabel="its attention $p_{\\mathrm{opt}}$", xscale="log", ylim=(0, 1.02))
    _both(panels, angle, "misalignment", "misalignments")
    angle.set(ylabel="$1 - \\mathrm{corr}$")

    for ax in (loss, norm, attention, angle):
        ax.set_xlabel(_STEPS + (", cube-root axis" if ax is loss else ""))
    sheet.letter()
    sheet.legend(4, sheet.sample("$W$"), sheet.sample("$u$", linestyle=_U))
    facts: dict[str, Any] = {"seeds": len(metrics.value(experiment.name, "margin_norm"))}
    facts["ends"] = panels.told(panels.ends(), ".0e")
    facts["left_out"] = "; ".join(
        panels.looks[label].name for label in OTHER_JOINT_RULES if label in experiment.optimizers
    )
    ngd = experiment.optimizers.get("ngd")
    facts["ngd"] = _joint_powers(panels, "ngd") | _joint_step(ngd) if ngd and ngd.rule == "ngd" else None
    return sheet.drawing(facts)


def _joint_powers(panels: _Panels, optimizer: str) -> dict[str, str]:
    """Powers of t of -log L, ||W|| and ||u|| over the last window, and the growth of ||W|| per fold over ||W_mm||."""
    window = rates.JOINT[-1]
    gap = panels.whole("gap", optimizer)
    with np.errstate(divide="ignore"):
        powers = {"loss": _fit(Curve(gap.seeds, gap.steps, -np.log(gap.values)), window)}
    powers |= {f"norm_{name}": _fit(panels.whole(f"norm_{name}", optimizer), window) for name in "wu"}
    growth = _slope(rates.per_fold, panels.whole("norm_w", optimizer), window)
    powers["fold"] = growth / float(panels.metrics.value(panels.experiment, "margin_norm").mean())
    return {name: f"{power:.2f}" for name, power in powers.items()}


def _joint_step(ngd: Optimizer[JointIterations]) -> dict[str, str]:
    """What joint NGD divides its gradients by, and how its steps shrink, in words."""
    given = ngd.hyperparameters
    each = {"global": "one norm over both", "per_tensor": "a norm for each"}
    grouped = "a norm for each" if ngd.options.groups == "separate" else "one norm over both"
    power = Fraction(given["decay"]).limit_denominator(20)
    exact = f"{power}" if abs(power - given["decay"]) < 1e-12 else f"{given['decay']:g}"
    shrinking = f"a step that shrinks like t^(-{exact})" if given["decay"] else "a constant step"
    return {"norms": each.get(given["norm"], grouped), "step": shrinking}


def _both(panels: _Panels, ax: Axes, metric: str, title: str) -> None:
    """A metric of W, and dotted of u."""
    panels.draw(ax, f"{metric} of W", f"{metric}_w", label=None)
    panels.draw(ax, f"{metric} of u", f"{metric}_u", linestyle=_U, label=None)
    ax.set(title=f"{title} of $W$ and $u$", xscale="log", yscale="log")


_U: tuple[int, tuple[float, ...]] = (0, (1, 1.2))

# Panel -> its metric, title and y label.
_RULES = {
    "loss": ("gap", "loss", "$L$"),
    "norm of W": ("norm_w", "norm of $W$", "$\\|W\\|_F$"),
    "norm of u": ("norm_u", "norm of $u$", "$\\|u\\|$"),
    "distraction": ("distraction", "other tokens", "$1 - p_{\\mathrm{opt}}$"),
    "misalignment of W": ("misalignment_w", "misalignment of $W$", f"$1 - {_CORR}$"),
    "misalignment of u": ("misalignment_u", "misalignment of $u$", "$1 - \\mathrm{corr}(u, u_{\\mathrm{mm}})$"),
}


@FIGURES("extra_joint_rules")
def joint_rules(metrics: Metrics, experiment: Experiment[Joint]) -> Drawing:
    """The joint rules side by side."""
    sheet = Sheet(2, 3, size=(WIDE, 4.7))
    panels = _Panels(metrics, experiment, sheet)
    for ax, (panel, (metric, title, label)) in zip(sheet.panels.ravel(), _RULES.items(), strict=True):
        panels.draw(ax, panel, metric)
        ax.set(title=title, ylabel=label, xlabel=_STEPS, xscale="log", xlim=(1, None))
        if panel == "loss":
            decades(ax)
        else:
            ax.set_yscale("log")
    panels.mark_divergence(sheet.panels[0, 0])
    sheet.letter()
    sheet.legend(3)
    rows = []
    for optimizer, end in panels.ends().items():
        curve = panels.whole("gap", optimizer)
        last = curve.steps[-1]
        window = (last / 4, last)
        powers = [_fit(panels.whole(metric, optimizer), window) for metric in ("norm_w", "norm_u", "misalignment_w")]
        with np.errstate(divide="ignore"):
            powers.insert(0, _fit(Curve(curve.seeds, curve.steps, -np.log(curve.values)), window))
        rows.append((panels.looks[optimizer].name, f"{last:,}", f"{end:.0e}", *(f"{power:.2f}" for power in powers)))
    return sheet.drawing({"rules": rows})


@FIGURES("extra_variants")
def variants(metrics: Metrics, experiment: Experiment[Variants]) -> Drawing:
    """Where every rule ends in every variant: loss gap and misalignment, all seeds."""
    names = list(experiment.settings.changes)
    sheet = Sheet(2, 1, size=(MEDIUM, 4.8), sharex=True)
    panels = _Panels(metrics, experiment, sheet)
    count = len(panels.optimizers)
    for ax, (panel, metric) in zip(sheet.panels[:, 0], _ENDS.items(), strict=True):
        for place, optimizer in enumerate(panels.optimizers):
            ends = np.stack([panels.whole(metric, optimizer, name).final() for name in names], axis=1)
            x = np.arange(len(names)) + (place - (count - 1) / 2) * 0.8 / count
            look = {**panels.looks[optimizer].points, "markersize": 3.5, "alpha": 0.8, "clip_on": False}
            for row, seed in enumerate(metrics.curve(experiment.name, "floor", index=names[0]).seeds):
                style = {**look, "label": None if row else look["label"]}
                sheet.points(ax, panel, optimizer, x, ends[row], part=f"seed {seed}", **style)
        ax.grid(False, axis="x")
        ax.xaxis.set_minor_locator(
            FixedLocator([edge - 0.5 for edge in range(1, len(names))])
        )  # lines between the variants
        ax.grid(True, axis="x", which="minor", color="#bbbbbb")
        ax.tick_params(axis="x", which="minor", length=0)
    gap, angle = sheet.panels[:, 0]
    decades(gap)
    panels.mark_divergence(gap, names)
    gap.set(title="distance to the floor at the end", ylabel="$L - L^*$")
    angle.set(title="misalignment at the end", ylabel=f"$1 - {_CORR}$", yscale="log", xlabel="what differs")
    angle.set_xticks(range(len(names)), [name.replace("_", "\n", 1).replace("_", " ") for name in names])
    angle.set_xlim(-0.5, len(names) - 0.5)
    sheet.letter()
    sheet.legend(4)
    facts = {"variants": names, "order": _order(panels, experiment)}
    facts["runs"] = len(names) * len(metrics.value(experiment.name, "floor", index=names[0]))
    facts["steps"] = sorted({int(panels.whole("gap", label, names[0]).steps[-1]) for label in panels.optimizers})
    return sheet.drawing(facts)


_ENDS = {"gap": "gap", "misalignment": "misalignment_w"}


def _order(panels: _Panels, experiment: Experiment[Variants]) -> list[tuple[str, str, int, int]]:
    """For each other rule and each GD: in how many runs the other ends below, in gap and in misalignment."""
    slow = [label for label in panels.optimizers if experiment.optimizers[label].rule == "gd"]
    rows = []
    for other in panels.optimizers:
        for label in slow if other not in slow else ():
            gap, angle = (_below(panels, other, label, metric, experiment) for metric in _ENDS.values())
            rows.append((panels.looks[other].name, panels.looks[label].name, gap, angle))
    return rows


def _below(panels: _Panels, one: str, other: str, metric: str, experiment: Experiment[Variants]) -> int:
    """In how many runs, of all seeds and variants, one rule ends below another in a metric."""
    ends = [[panels.whole(metric, o, name).final() for name in experiment.settings.changes] for o in (one, other)]
    return int((np.stack(ends[0]) < np.stack(ends[1])).sum())


@FIGURES("extra_rates")
def measured_rates(metrics: Metrics, *experiments: Experiment[FixedDecoder]) -> Drawing:
    """How fast attention concentrates and W grows, over what the late laws say; a column per experiment."""
    size = (min(max(3.25, 2.75 * len(experiments)), 6.75), 4.4)
    sheet = Sheet(2, len(experiments), size=size, sharex="col", sharey="row")
    measured, left_out = {}, set()
    for column, experiment in zip(sheet.panels.T, experiments, strict=True):
        panels = _Panels(metrics, experiment, sheet)
        ends = {}
        for optimizer in panels.optimizers:
            law = rates.law_of(experiment.optimizers[optimizer])
            if law is None:
                left_out.add(panels.looks[optimizer].name)
                continue
            found = rates.relative(metrics, experiment.name, optimizer, law)
            for ax, (name, curve) in zip(column, found.items(), strict=True):
                sheet.band(ax, f"{experiment.name}: {name}", optimizer, curve, **panels.looks[optimizer].line)
            ends[panels.looks[optimizer].name] = {name: float(curve.final().mean()) for name, curve in found.items()}
        measured[experiment.name] = ends
        signals = experiment.settings.signals
        column[0].set(title=f"attention, {signals}", xscale="log")
        column[1].set(title=f"norm, {signals}", xlabel=_STEPS, xlim=(10, None))
        last = max(curve.steps[-1] for curve in (panels.whole("gap", label) for label in panels.optimizers))
        for ax, name in zip(column, ("attention", "norm"), strict=True):
            ends_at, style = [10, max(last, 11)], {**_LAW, "label": "law", "role": "theory"}
            sheet.line(ax, f"{experiment.name}: {name}", "law", ends_at, [1.0, 1.0], **style)
    for ax, label in zip(
        sheet.panels[:, 0], ("rate of $1 - p_{\\mathrm{opt}}$ / law", "growth of $\\|W\\|_F$ / law"), strict=True
    ):
        ax.set_ylabel(label)
    sheet.letter()
    sheet.legend(4 if len(experiments) > 1 else 2)
    return sheet.drawing({"measured": measured, "left_out": sorted(left_out)})
