"""The figures of the synthetic experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from workflow.lib.contract import Draw, Drawing
from workflow.lib.papers.ib.synthetic import rates
from workflow.lib.papers.ib.synthetic.settings import FixedDecoder, Joint, Variants
from workflow.lib.plan.model import Experiment
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()

COLOURS = {
    "gd": BLUE,
    "ngd": RED,
    "polyak": GREEN,
    "ngd_separate": ORANGE,
    "ngd_led": PINK,
    "ngd_constant": GREY,
}
NAMES = {
    "gd": "GD",
    "ngd": "NGD",
    "polyak": "Polyak step",
    "ngd_separate": "NGD, a norm each",
    "ngd_led": "NGD, by $\\|\\nabla_u\\|$",
    "ngd_constant": "NGD, constant step",
}
_LAW = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 0.9}
_ALIGNMENT = "\\mathrm{corr}(W, W_{\\mathrm{mm}})"
_DECADES = (0.5, 0.1, 1e-2, 1e-3, 1e-5, 1e-10, 1e-20, 1e-50, 1e-100, 1e-200, 1e-300)


def decades(ax: Axes) -> None:
    """Scale y by the logarithm of the number of decades below 1, so that 1e-3 and 1e-200 are both read off."""

    def down(y: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return -np.log1p(-np.log10(np.clip(y, 5e-324, 1.0)))

    def back(z: np.ndarray) -> np.ndarray:
        return 10.0 ** -np.clip(np.expm1(-z), 0, 323)

    low, high = ax.dataLim.intervaly
    ax.set_yscale("function", functions=(down, back))
    ax.yaxis.set_major_locator(FixedLocator([y for y in _DECADES if y >= low / 10 or y >= 1e-3]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y > 0.05 else f"$10^{{{np.log10(y):.0f}}}$"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylim(max(low**1.15, 1e-320), min(high**0.8, 1.0))


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


class _Panels:
    """Draws one metric of one experiment after the other, with the colours and names of the optimizers."""

    def __init__(self, metrics: Metrics, experiment: Experiment, sheet: Sheet, optimizers: Sequence[str] | None = None):
        self.metrics, self.experiment, self.sheet = metrics, experiment.name, sheet
        self.optimizers = optimizers or metrics.optimizers(experiment.name)

    def whole(self, metric: str, optimizer: str) -> Curve:
        """A metric as it was recorded."""
        return self.metrics.curve(self.experiment, metric, optimizer)

    def draw(self, ax: Axes, panel: str, metric: str, variant: str = "", **style: Any) -> None:
        """A metric of all optimizers, on log axes."""
        for optimizer in self.optimizers:
            look = {"color": COLOURS.get(optimizer), "label": NAMES.get(optimizer, optimizer), **style}
            curve = _started(self.metrics.curve(self.experiment, metric, optimizer, variant))
            self.sheet.band(ax, panel, optimizer, curve, geometric=True, **look)

    def draw_complement(self, ax: Axes, panel: str, metric: str) -> None:
        """1 less a metric of all optimizers, on a linear axis."""
        for optimizer in self.optimizers:
            curve = _started(self.whole(metric, optimizer))
            complement = Curve(curve.seeds, curve.steps, 1 - curve.values)
            self.sheet.band(ax, panel, optimizer, complement, color=COLOURS.get(optimizer))

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

    def mark_divergence(self, ax: Axes, variant: str = "") -> None:
        """Say in a panel which runs left the finite numbers."""
        lost = {}
        for optimizer in self.optimizers:
            if self.metrics.has(self.experiment, "diverged_at", optimizer, variant):
                steps = self.metrics.value(self.experiment, "diverged_at", optimizer, index=variant)
                lost[NAMES.get(optimizer, optimizer)] = (np.isfinite(steps).sum(), int(np.nanmin(steps)))
        if lost:
            text = "\n".join(
                f"{name}: {count} runs diverged, the first by step {step}" for name, (count, step) in lost.items()
            )
            ax.text(0.03, 0.05, text, transform=ax.transAxes, color="crimson", fontsize=7)


def _late(curve: Curve, first: float) -> Curve:
    """The part from a step on, or the later half of runs that a user made too short for it."""
    return curve.window(min(first, curve.steps[-1] / 2), np.inf)


def _slope(fit: Callable[[Curve, rates.Window], np.ndarray], curve: Curve, window: rates.Window) -> float:
    """A fit of `rates`, mean over seeds; NaN for runs that a user made too short for the window."""
    try:
        return float(fit(curve, window).mean())
    except NotRecordedError:
        return float("nan")


def _fit(curve: Curve, window: rates.Window) -> float:
    return _slope(rates.power, curve, window)


def _middle(values: np.ndarray) -> np.ndarray:
    """Geometric mean over seeds."""
    with np.errstate(divide="ignore"):
        return np.exp(np.log(values).mean(axis=0))  # type: ignore[no-any-return]


def _legend_above(sheet: Sheet, ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    sheet.figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def fixed_decoder(metrics: Metrics, experiment: Experiment[FixedDecoder]) -> Drawing:
    """Loss gap, norm, alignment, attention and the complements of the last two, against the iteration."""
    sheet = Sheet(2, 3, size=(10.5, 5.9))
    (gap, norm, corr), (attention, distraction, angle) = sheet.panels
    panels = _Panels(metrics, experiment, sheet)
    panels.draw(gap, "gap", "gap")
    decades(gap)
    gap.set(title="distance to the floor, $L - L^*$", ylabel="$L - L^*$")
    panels.mark_divergence(gap)
    slopes = _norm(panels, norm)
    panels.draw_complement(attention, "attention", "distraction")
    attention.set(title="attention on the optimal token", ylabel="mean $p_{\\mathrm{opt}}$", ylim=(0, 1.02))
    panels.draw_complement(corr, "corr", "misalignment_w")
    corr.set(title=f"alignment, ${_ALIGNMENT}$", ylabel=f"${_ALIGNMENT}$", ylim=(None, 1.001))
    margin_norm = metrics.value(experiment.name, "margin_norm")
    _distraction_with_law(panels, distraction, margin_norm, experiment.settings.tokens - 1)
    turning = _misalignment(panels, angle)

    for ax in sheet.panels.ravel():
        ax.set(xscale="log", xlim=(1, None))
    for ax in sheet.panels[1]:
        ax.set_xlabel("iteration $t$")
    letter(sheet.panels)
    _legend_above(sheet, gap, len(panels.optimizers))
    facts = {
        "seeds": len(margin_norm),
        "margin_norm_low": f"{margin_norm.min():.3f}",
        "margin_norm_high": f"{margin_norm.max():.3f}",
        "active": int(metrics.value(experiment.name, "active").min()),
        "constraints": int(metrics.value(experiment.name, "constraints")[0]),
        "floor": f"{metrics.value(experiment.name, 'floor').mean():.6f}",
        "residual": f"{metrics.value(experiment.name, 'kkt_residual').max():.0e}",
        "ends": _told(panels.ends(), ".0e"),
        "norm_slopes": _told(slopes, ".2f"),
        "turning_slopes": _told(turning, ".2f"),
        "windows": _windows(),
    }
    return Drawing(sheet.figure, sheet.table, facts)


FIGURES("fig2")(fixed_decoder)
FIGURES("fig3")(fixed_decoder)


def _norm(panels: _Panels, ax: Axes) -> dict[str, float]:
    """||W|| with its fitted powers of t, which are returned."""
    panels.draw(ax, "norm", "norm_w")
    ax.set(title="norm of the key-query matrix", ylabel="$\\|W\\|_F$", yscale="log")
    slopes = panels.powers("norm_w", rates.NORM)
    _fitted(ax, slopes, "slope at the end", 0.62, 0.42)
    return slopes


def _distraction_with_law(panels: _Panels, ax: Axes, margin_norm: np.ndarray, rivals: int) -> None:
    """1 - p_opt, and dashed the law that ties it to ||W|| late in training."""
    panels.draw(ax, "distraction", "distraction")
    for optimizer in panels.optimizers:
        part = _late(panels.whole("norm_w", optimizer), rates.LAW.get(optimizer, (100, np.inf))[0] / 10)
        law = _middle(rivals * np.exp(-part.values / margin_norm[:, None]))
        shown = law < 1  # the law is of late times; at early ones it is no probability
        label = None if optimizer != panels.optimizers[0] else "$(T-1)\\,e^{-\\|W\\|/\\|W_{\\mathrm{mm}}\\|}$"
        panels.sheet.line(
            ax, "distraction", f"law for {optimizer}", part.steps[shown], law[shown], **_LAW, label=label
        )  # fmt: skip
    decades(ax)
    ax.set(title="attention elsewhere, $1 - p_{\\mathrm{opt}}$", ylabel="$1 - p_{\\mathrm{opt}}$")
    ax.legend(*[part[-1:] for part in _with_label(ax, "(T-1)")], loc="lower left")


def _misalignment(panels: _Panels, ax: Axes) -> dict[str, float]:
    """1 - corr(W, W_mm) with its fitted powers of t, which are returned."""
    panels.draw(ax, "misalignment", "misalignment_w")
    ax.set(title=f"misalignment, $1 - {_ALIGNMENT}$", ylabel=f"$1 - {_ALIGNMENT}$", yscale="log")
    slopes = panels.powers("misalignment_w", rates.ALIGNMENT)
    _fitted(ax, slopes, "slope at the end", 0.03, 0.40)
    return slopes


def _with_label(ax: Axes, start: str) -> tuple[list[Any], list[str]]:
    found = [(h, text) for h, text in zip(*ax.get_legend_handles_labels(), strict=True) if start in text]
    return [h for h, _ in found], [text for _, text in found]


def _fitted(ax: Axes, slopes: Mapping[str, float], title: str, x: float, y: float) -> None:
    """Write fitted slopes in the colours of their curves."""
    ax.text(x, y, title, transform=ax.transAxes, fontsize=8, va="top")
    for row, (optimizer, slope) in enumerate(slopes.items(), start=1):
        text = f"{NAMES[optimizer]}: {slope:.2f}".replace("-", "−")
        ax.text(x, y - 0.085 * row, text, transform=ax.transAxes, fontsize=8, va="top", color=COLOURS[optimizer])


def _told(values: Mapping[str, float], form: str) -> str:
    """A number of each optimizer, for a caption."""
    return ", ".join(f"{NAMES.get(name, name)} {value:{form}}" for name, value in values.items())


def _windows() -> str:
    return ", ".join(f"{NAMES[name]} {first:g} to {last:g}" for name, (first, last) in rates.NORM.items())


@FIGURES("fig5")
def joint(metrics: Metrics, experiment: Experiment[Joint]) -> Drawing:
    """Joint training: loss against t^(1/3), norms, attention and misalignments of W and u."""
    sheet = Sheet(2, 2, size=(8.4, 6.2))
    (loss, norm), (attention, angle) = sheet.panels
    panels = _Panels(metrics, experiment, sheet, [o for o in ("ngd", "gd") if o in experiment.optimizers])

    panels.draw(loss, "loss", "gap")
    loss.set(title="loss; a straight line is $\\exp(-c\\,t^{1/3})$", ylabel="$L$", yscale="log")
    cube_root(loss, (1, 100, 1000, 5000, 10000, 20000))
    panels.mark_divergence(loss)
    power_u, power_w = _two_norms(panels, norm)
    panels.draw_complement(attention, "attention", "distraction")
    attention.set(title="attention on the optimal token", ylabel="mean $p_{\\mathrm{opt}}$")
    attention.set(xscale="log", ylim=(0, 1.02))
    _two_misalignments(panels, angle)

    for ax in (loss, norm, attention, angle):
        ax.set_xlabel("iteration $t$" + (" (axis: cube root)" if ax is loss else ""))
    letter(sheet.panels)
    _legend_above(sheet, loss, 2)
    gap = panels.whole("gap", "ngd")
    power = _fit(Curve(gap.seeds, gap.steps, -np.log(gap.values)), rates.JOINT)
    facts = {
        "seeds": len(gap.seeds),
        "power": f"{power:.2f}",
        "power_w": f"{power_w:.2f}",
        "power_u": f"{power_u:.2f}",
        "ends": _told(panels.ends(), ".0e"),
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _two_norms(panels: _Panels, ax: Axes) -> tuple[float, float]:
    """||u|| dashed and ||W||; NGD's fitted powers of t of both are returned."""
    panels.draw(ax, "norm of W", "norm_w", label=None)
    panels.draw(ax, "norm of u", "norm_u", linestyle="--", label=None)
    ax.set(title="norms of $W$ and $u$", ylabel="norm", xscale="log", yscale="log")
    power_u, power_w = (_fit(panels.whole(f"norm_{name}", "ngd"), rates.JOINT) for name in "uw")
    ax.text(
        0.03, 0.96, f"NGD, slopes from $t = 300$\n$\\|u\\|$: {power_u:.2f}   $\\|W\\|$: {power_w:.2f}",
        transform=ax.transAxes, fontsize=8, va="top", color=COLOURS["ngd"],
    )  # fmt: skip
    _solid_and_dashed(ax, "lower right")
    return power_u, power_w


def _two_misalignments(panels: _Panels, ax: Axes) -> None:
    """1 - corr of u dashed, and of W."""
    panels.draw(ax, "misalignment of W", "misalignment_w", label=None)
    panels.draw(ax, "misalignment of u", "misalignment_u", linestyle="--", label=None)
    ax.set(title="misalignment with $W_{\\mathrm{mm}}$ and $u_{\\mathrm{mm}}$", ylabel="$1 - \\mathrm{corr}$")
    ax.set(xscale="log", yscale="log")
    _solid_and_dashed(ax, "lower left")


def _solid_and_dashed(ax: Axes, place: Literal["lower left", "lower right"]) -> None:
    """A legend: W solid, u dashed."""
    ax.plot([], [], color="#444444", label="$W$")
    ax.plot([], [], color="#444444", linestyle="--", label="$u$")
    ax.legend(loc=place)


# Panel -> its metric, title and y label.
_RULES = {
    "loss": ("gap", "loss", "$L$"),
    "norm of W": ("norm_w", "norm of $W$", "$\\|W\\|_F$"),
    "norm of u": ("norm_u", "norm of $u$", "$\\|u\\|$"),
    "distraction": ("distraction", "attention elsewhere", "$1 - p_{\\mathrm{opt}}$"),
    "misalignment of W": ("misalignment_w", "misalignment of $W$", f"$1 - {_ALIGNMENT}$"),
    "misalignment of u": ("misalignment_u", "misalignment of $u$", "$1 - \\mathrm{corr}(u, u_{\\mathrm{mm}})$"),
}


@FIGURES("extra_joint_rules")
def joint_rules(metrics: Metrics, experiment: Experiment[Joint]) -> Drawing:
    """The joint rules side by side."""
    sheet = Sheet(2, 3, size=(10.5, 6.1))
    panels = _Panels(metrics, experiment, sheet)
    for ax, (panel, (metric, title, label)) in zip(sheet.panels.ravel(), _RULES.items(), strict=True):
        panels.draw(ax, panel, metric)
        ax.set(title=title, ylabel=label, xscale="log", xlim=(1, None))
        if panel == "loss":
            decades(ax)
        else:
            ax.set_yscale("log")
    for ax in sheet.panels[1]:
        ax.set_xlabel("iteration $t$")
    loss = sheet.panels[0, 0]
    panels.mark_divergence(loss)
    letter(sheet.panels)
    _legend_above(sheet, loss, len(panels.optimizers))
    rows = []
    for optimizer, end in panels.ends().items():
        fitted = ("norm_w", "norm_u", "misalignment_w")
        powers = [_fit(panels.whole(metric, optimizer), rates.JOINT) for metric in fitted]
        name = NAMES.get(optimizer, optimizer).replace("$\\|\\nabla_u\\|$", "the norm of u's gradient")
        rows.append((name, f"{end:.0e}", *(f"{power:.2f}" for power in powers)))
    return Drawing(sheet.figure, sheet.table, {"rules": rows})


@FIGURES("extra_variants")
def variants(metrics: Metrics, experiment: Experiment[Variants]) -> Drawing:
    """Loss gap and misalignment of every variant."""
    names = list(experiment.settings.changes)
    sheet = Sheet(2, len(names), size=(2.7 * len(names), 5.4), sharex=True, sharey="row")
    panels = _Panels(metrics, experiment, sheet)
    for column, name in enumerate(names):
        gap, angle = sheet.panels[:, column]
        panels.draw(gap, f"gap, {name}", "gap", name)
        panels.mark_divergence(gap, name)
        panels.draw(angle, f"misalignment, {name}", "misalignment_w", name)
        gap.set_title(name.replace("_", " "))
        angle.set(title=gap.get_title(), xscale="log", yscale="log", xlim=(1, None), xlabel="iteration $t$")
    for ax in sheet.panels[0]:
        decades(ax)
    limits = np.array([ax.get_ylim() for ax in sheet.panels[0]])
    sheet.panels[0, 0].set_ylim(limits[:, 0].min(), limits[:, 1].max())
    sheet.panels[0, 0].set_ylabel("$L - L^*$")
    sheet.panels[1, 0].set_ylabel(f"$1 - {_ALIGNMENT}$")
    letter(sheet.panels)
    _legend_above(sheet, sheet.panels[0, 0], len(panels.optimizers))
    return Drawing(sheet.figure, sheet.table, {"variants": names})


@FIGURES("extra_rates")
def measured_rates(metrics: Metrics, *experiments: Experiment[FixedDecoder]) -> Drawing:
    """Sparsification and alignment against the laws, on axes on which the laws are straight; a row per experiment."""
    sheet = Sheet(len(experiments), 3, size=(10.5, 2.95 * len(experiments)))
    measured = {}
    for row, experiment in zip(sheet.panels, experiments, strict=True):
        exponential, power, angle = row
        panels = _Panels(metrics, experiment, sheet)
        title = f"{experiment.settings.signals} signals"
        measured[experiment.name] = _exponential_laws(panels, exponential, title, experiment)
        _power_law(panels, power, title)
        _bounded_misalignment(panels, angle, title)
    letter(sheet.panels)
    _legend_above(sheet, sheet.panels[0, 2], 3)
    return Drawing(sheet.figure, sheet.table, {"measured": measured})


def _exponential_laws(panels: _Panels, ax: Axes, title: str, experiment: Experiment[FixedDecoder]) -> dict[str, float]:
    """1 - p_opt of NGD and the Polyak step beside exp(-c t); measured rates over the laws' are returned."""
    panel = f"{experiment.name}: exponential"
    margin_norm = panels.metrics.value(experiment.name, "margin_norm").mean()
    predicted = {
        "ngd": experiment.optimizer("ngd").hyperparameters["lr"] / margin_norm,
        "polyak": 1 / experiment.optimizer("polyak").hyperparameters["factor"],
    }
    measured = {}
    for optimizer, rate in predicted.items():
        curve = panels.whole("distraction", optimizer)
        look = {"color": COLOURS[optimizer], "label": NAMES[optimizer]}
        panels.sheet.band(ax, panel, optimizer, curve, geometric=True, **look)
        late = _late(curve, rates.ATTENTION[optimizer][0])
        law = _middle(late.values)[0] * np.exp(-rate * (late.steps - late.steps[0]))
        panels.sheet.line(ax, panel, f"law for {optimizer}", late.steps, law, **_LAW)
        slope = _slope(rates.exponential, late, (late.steps[0], rates.ATTENTION[optimizer][1]))
        measured[optimizer] = -slope / rate
    ax.set(title=f"{title}: $e^{{-ct}}$", yscale="log", xlabel="iteration $t$")
    ax.set(ylabel="$1 - p_{\\mathrm{opt}}$", ylim=(None, 1e10))
    ax.yaxis.set_major_locator(FixedLocator([10.0**-e for e in range(0, 301, 50)]))
    ax.yaxis.set_minor_locator(NullLocator())
    return measured


def _power_law(panels: _Panels, ax: Axes, title: str) -> None:
    """1 - p_opt of GD beside 1/t."""
    panel = f"{panels.experiment}: power"
    gd = _started(panels.whole("distraction", "gd"))
    panels.sheet.band(ax, panel, "gd", gd, geometric=True, color=COLOURS["gd"], label=NAMES["gd"])
    late = _late(gd, 300)
    law = _middle(late.values)[-1] * late.steps[-1] / late.steps
    panels.sheet.line(ax, panel, "law for gd", late.steps, law, **_LAW)
    ax.set(title=f"{title}: power of $t$", ylabel="$1 - p_{\\mathrm{opt}}$")
    ax.set(xscale="log", yscale="log", xlabel="iteration $t$")
    ax.annotate("$1/t$", (late.steps[0], law[0]), (-12, -12), textcoords="offset points", fontsize=9)


def _bounded_misalignment(panels: _Panels, ax: Axes, title: str) -> None:
    """1 - corr(W, W_mm) of all optimizers beside the bound for NGD."""
    panel = f"{panels.experiment}: misalignment"
    panels.draw(ax, panel, "misalignment_w")
    ngd = _late(panels.whole("misalignment_w", "ngd"), rates.ALIGNMENT["ngd"][0])
    bound = _middle(ngd.values)[0] * (ngd.steps / ngd.steps[0]) ** -0.75
    panels.sheet.line(ax, panel, "bound", ngd.steps, bound, **_LAW)
    ax.annotate("$t^{-3/4}$", (ngd.steps[-1], bound[-1]), (4, 4), textcoords="offset points", fontsize=9)
    ax.set(title=f"{title}: misalignment", ylabel=f"$1 - {_ALIGNMENT}$")
    ax.set(xscale="log", yscale="log", xlabel="iteration $t$")
