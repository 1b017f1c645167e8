"""The figures of the synthetic experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from workflow.lib.experiments import Experiment
from workflow.lib.papers import Draw, Drawing
from workflow.lib.papers.ib.synthetic import rates
from workflow.lib.papers.ib.synthetic.settings import Sequences
from workflow.lib.plotting import BLUE, GREEN, GREY, ORANGE, PINK, RED, Sheet, letter
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()

Experiments = Mapping[str, Experiment]

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
    """Draws one metric after the other with the colours and names of the optimizers."""

    def __init__(self, metrics: Metrics, experiment: str, sheet: Sheet, optimizers: Sequence[str] | None = None):
        self.metrics, self.experiment, self.sheet = metrics, experiment, sheet
        self.optimizers = optimizers or metrics.optimizers(experiment)

    def curve(self, metric: str, optimizer: str) -> Curve:
        return _started(self.metrics.curve(self.experiment, metric, optimizer))

    def draw(self, ax: Axes, panel: str, metric: str, *, geometric: bool = True, **style: Any) -> None:
        for optimizer in self.optimizers:
            look = {"color": COLOURS.get(optimizer), "label": NAMES.get(optimizer, optimizer), **style}
            self.sheet.band(ax, panel, optimizer, self.curve(metric, optimizer), geometric=geometric, **look)

    def powers(self, metric: str, windows: Mapping[str, rates.Window]) -> dict[str, float]:
        """Fitted powers of t, mean over seeds, of the optimizers that have a window."""
        return {
            optimizer: _fit(self.metrics.curve(self.experiment, metric, optimizer), windows[optimizer])
            for optimizer in self.optimizers
            if optimizer in windows
        }

    def mark_divergence(self, ax: Axes, prefix: str = "") -> None:
        """Say in a panel which runs left the finite numbers."""
        lost = {}
        for optimizer in self.optimizers:
            if self.metrics.has(self.experiment, f"{prefix}diverged_at", optimizer):
                steps = self.metrics.value(self.experiment, f"{prefix}diverged_at", optimizer)
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


def _fixed_decoder(experiment: str, metrics: Metrics, experiments: Experiments) -> Drawing:
    """Loss gap, norm, alignment, attention and the complements of the last two, against the iteration."""
    settings = experiments[experiment].settings
    assert isinstance(settings, Sequences)
    sheet = Sheet(2, 3, size=(10.5, 5.9))
    (gap, norm, corr), (attention, distraction, angle) = sheet.panels
    panels = _Panels(metrics, experiment, sheet)
    margin_norm = metrics.value(experiment, "margin_norm")

    panels.draw(gap, "gap", "gap")
    decades(gap)
    gap.set(title="distance to the floor, $L - L^*$", ylabel="$L - L^*$")
    panels.mark_divergence(gap)

    panels.draw(norm, "norm", "norm_w")
    norm.set(title="norm of the key-query matrix", ylabel="$\\|W\\|_F$", yscale="log")
    slopes = panels.powers("norm_w", rates.NORM)
    _fitted(norm, slopes, "slope at the end", 0.62, 0.42)

    for ax, panel, metric, name in (
        (attention, "attention", "distraction", "attention on the optimal token"),
        (corr, "corr", "misalignment_w", f"alignment, ${_ALIGNMENT}$"),
    ):
        for optimizer in panels.optimizers:
            curve = panels.curve(metric, optimizer)
            whole = Curve(curve.seeds, curve.steps, 1 - curve.values)
            sheet.band(ax, panel, optimizer, whole, color=COLOURS.get(optimizer))
        ax.set_title(name)
    attention.set(ylabel="mean $p_{\\mathrm{opt}}$", ylim=(0, 1.02))
    corr.set(ylabel=f"${_ALIGNMENT}$", ylim=(None, 1.001))

    panels.draw(distraction, "distraction", "distraction")
    for optimizer in panels.optimizers:
        part = _late(metrics.curve(experiment, "norm_w", optimizer), rates.LAW.get(optimizer, (100, np.inf))[0] / 10)
        law = _middle((settings.tokens - 1) * np.exp(-part.values / margin_norm[:, None]))
        shown = law < 1  # the law is of late times; at early ones it is no probability
        label = None if optimizer != panels.optimizers[0] else "$(T-1)\\,e^{-\\|W\\|/\\|W_{\\mathrm{mm}}\\|}$"
        sheet.line(
            distraction, "distraction", f"law for {optimizer}", part.steps[shown], law[shown], **_LAW, label=label
        )
    decades(distraction)
    distraction.set(title="attention elsewhere, $1 - p_{\\mathrm{opt}}$", ylabel="$1 - p_{\\mathrm{opt}}$")
    distraction.legend(*[part[-1:] for part in _with_label(distraction, "(T-1)")], loc="lower left")

    panels.draw(angle, "misalignment", "misalignment_w")
    angle.set(title=f"misalignment, $1 - {_ALIGNMENT}$", ylabel=f"$1 - {_ALIGNMENT}$", yscale="log")
    turning = panels.powers("misalignment_w", rates.ALIGNMENT)
    _fitted(angle, turning, "slope at the end", 0.03, 0.40)

    for ax in sheet.panels.ravel():
        ax.set(xscale="log", xlim=(1, None))
    for ax in sheet.panels[1]:
        ax.set_xlabel("iteration $t$")
    letter(sheet.panels)
    _legend_above(sheet, gap, len(panels.optimizers))

    end = {name: _middle(metrics.curve(experiment, "gap", name).values)[-1] for name in panels.optimizers}
    facts = {
        "seeds": len(margin_norm),
        "margin_norm_low": f"{margin_norm.min():.3f}",
        "margin_norm_high": f"{margin_norm.max():.3f}",
        "active": int(metrics.value(experiment, "active").min()),
        "constraints": int(metrics.value(experiment, "constraints")[0]),
        "floor": f"{metrics.value(experiment, 'floor').mean():.6f}",
        "residual": f"{metrics.value(experiment, 'kkt_residual').max():.0e}",
        "ends": ", ".join(f"{NAMES.get(name, name)} {value:.0e}" for name, value in end.items()),
        "norm_slopes": _told(slopes),
        "turning_slopes": _told(turning),
        "windows": _windows(),
    }
    return Drawing(sheet.figure, sheet.table, facts)


def _with_label(ax: Axes, start: str) -> tuple[list[Any], list[str]]:
    found = [(h, text) for h, text in zip(*ax.get_legend_handles_labels(), strict=True) if start in text]
    return [h for h, _ in found], [text for _, text in found]


def _fitted(ax: Axes, slopes: Mapping[str, float], title: str, x: float, y: float) -> None:
    """Write fitted slopes in the colours of their curves."""
    ax.text(x, y, title, transform=ax.transAxes, fontsize=8, va="top")
    for row, (optimizer, slope) in enumerate(slopes.items(), start=1):
        text = f"{NAMES[optimizer]}: {slope:.2f}".replace("-", "−")
        ax.text(x, y - 0.085 * row, text, transform=ax.transAxes, fontsize=8, va="top", color=COLOURS[optimizer])


def _told(slopes: Mapping[str, float]) -> str:
    return ", ".join(f"{NAMES.get(name, name)} {slope:.2f}" for name, slope in slopes.items())


def _windows() -> str:
    return ", ".join(f"{NAMES[name]} {first:g} to {last:g}" for name, (first, last) in rates.NORM.items())


FIGURES("fig2")(partial(_fixed_decoder, "orthogonal"))
FIGURES("fig3")(partial(_fixed_decoder, "antipodal"))


@FIGURES("fig5")
def joint(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Joint training: loss against t^(1/3), norms, attention and misalignments of W and u."""
    sheet = Sheet(2, 2, size=(8.4, 6.2))
    (loss, norm), (attention, angle) = sheet.panels
    panels = _Panels(metrics, "joint", sheet, [o for o in ("ngd", "gd") if o in metrics.optimizers("joint")])

    panels.draw(loss, "loss", "gap")
    loss.set(title="loss; a straight line is $\\exp(-c\\,t^{1/3})$", ylabel="$L$", yscale="log")
    cube_root(loss, (1, 100, 1000, 5000, 10000, 20000))
    panels.mark_divergence(loss)

    panels.draw(norm, "norm of W", "norm_w", label=None)
    panels.draw(norm, "norm of u", "norm_u", linestyle="--", label=None)
    norm.set(title="norms of $W$ and $u$", ylabel="norm", xscale="log", yscale="log")
    fits = {name: _fit(metrics.curve("joint", f"norm_{name}", "ngd"), rates.JOINT) for name in "wu"}
    norm.text(
        0.03, 0.96, f"NGD, slopes from $t = 300$\n$\\|u\\|$: {fits['u']:.2f}   $\\|W\\|$: {fits['w']:.2f}",
        transform=norm.transAxes, fontsize=8, va="top", color=COLOURS["ngd"],
    )  # fmt: skip

    for optimizer in panels.optimizers:
        curve = panels.curve("distraction", optimizer)
        whole = Curve(curve.seeds, curve.steps, 1 - curve.values)
        sheet.band(attention, "attention", optimizer, whole, color=COLOURS[optimizer])
    attention.set(
        title="attention on the optimal token", ylabel="mean $p_{\\mathrm{opt}}$", xscale="log", ylim=(0, 1.02)
    )

    panels.draw(angle, "misalignment of W", "misalignment_w", label=None)
    panels.draw(angle, "misalignment of u", "misalignment_u", linestyle="--", label=None)
    angle.set(title="misalignment with $W_{\\mathrm{mm}}$ and $u_{\\mathrm{mm}}$", ylabel="$1 - \\mathrm{corr}$")
    angle.set(xscale="log", yscale="log")
    for ax in (norm, angle):
        ax.plot([], [], color="#444444", label="$W$")
        ax.plot([], [], color="#444444", linestyle="--", label="$u$")
        ax.legend(loc="lower right" if ax is norm else "lower left")

    for ax in (loss, norm, attention, angle):
        ax.set_xlabel("iteration $t$" + (" (axis: cube root)" if ax is loss else ""))
    letter(sheet.panels)
    _legend_above(sheet, loss, 2)
    log_loss = metrics.curve("joint", "gap", "ngd")
    power = _fit(Curve(log_loss.seeds, log_loss.steps, -np.log(log_loss.values)), rates.JOINT)
    facts = {
        "seeds": len(log_loss.seeds),
        "power": f"{power:.2f}",
        "power_w": f"{fits['w']:.2f}",
        "power_u": f"{fits['u']:.2f}",
        "ends": ", ".join(
            f"{NAMES[o]} {_middle(metrics.curve('joint', 'gap', o).values)[-1]:.0e}" for o in panels.optimizers
        ),
    }
    return Drawing(sheet.figure, sheet.table, facts)


@FIGURES("extra_joint_rules")
def joint_rules(metrics: Metrics, experiments: Experiments) -> Drawing:
    """The joint rules side by side."""
    sheet = Sheet(2, 3, size=(10.5, 6.1))
    (loss, norm_w, norm_u), (attention, angle_w, angle_u) = sheet.panels
    panels = _Panels(metrics, "joint", sheet)
    for ax, panel, metric, title, label in (
        (loss, "loss", "gap", "loss", "$L$"),
        (norm_w, "norm of W", "norm_w", "norm of $W$", "$\\|W\\|_F$"),
        (norm_u, "norm of u", "norm_u", "norm of $u$", "$\\|u\\|$"),
        (attention, "distraction", "distraction", "attention elsewhere", "$1 - p_{\\mathrm{opt}}$"),
        (angle_w, "misalignment of W", "misalignment_w", "misalignment of $W$", f"$1 - {_ALIGNMENT}$"),
        (
            angle_u,
            "misalignment of u",
            "misalignment_u",
            "misalignment of $u$",
            "$1 - \\mathrm{corr}(u, u_{\\mathrm{mm}})$",
        ),
    ):
        panels.draw(ax, panel, metric)
        ax.set(title=title, ylabel=label, xscale="log", xlim=(1, None))
        if ax is loss:
            decades(ax)
        else:
            ax.set_yscale("log")
    for ax in sheet.panels[1]:
        ax.set_xlabel("iteration $t$")
    panels.mark_divergence(loss)
    letter(sheet.panels)
    _legend_above(sheet, loss, len(panels.optimizers))
    rows = []
    for optimizer in panels.optimizers:
        powers = [
            _fit(metrics.curve("joint", metric, optimizer), rates.JOINT)
            for metric in ("norm_w", "norm_u", "misalignment_w")
        ]
        end = _middle(metrics.curve("joint", "gap", optimizer).values)[-1]
        name = NAMES.get(optimizer, optimizer).replace("$\\|\\nabla_u\\|$", "the norm of u's gradient")
        rows.append((name, f"{end:.0e}", *(f"{power:.2f}" for power in powers)))
    return Drawing(sheet.figure, sheet.table, {"rules": rows})


@FIGURES("extra_variants")
def variants(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Loss gap and misalignment of every variant."""
    settings = experiments["variants"].settings
    assert isinstance(settings, Sequences)
    prefixes = list(settings.variants())
    sheet = Sheet(2, len(prefixes), size=(2.7 * len(prefixes), 5.4), sharex=True, sharey="row")
    panels = _Panels(metrics, "variants", sheet)
    for column, prefix in enumerate(prefixes):
        name = prefix.removesuffix(".")
        gap, angle = sheet.panels[:, column]
        panels.draw(gap, f"gap, {name}", f"{prefix}gap")
        panels.mark_divergence(gap, prefix)
        panels.draw(angle, f"misalignment, {name}", f"{prefix}misalignment_w")
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
    return Drawing(sheet.figure, sheet.table, {"variants": [prefix.removesuffix(".") for prefix in prefixes]})


@FIGURES("extra_rates")
def measured_rates(metrics: Metrics, experiments: Experiments) -> Drawing:
    """Sparsification and alignment against the laws, on axes on which the laws are straight."""
    sheet = Sheet(2, 3, size=(10.5, 5.9))
    measured: dict[str, dict[str, float]] = {}
    for row, experiment in zip(sheet.panels, ("orthogonal", "antipodal"), strict=True):
        title = f"{experiment} signals"
        panels = _Panels(metrics, experiment, sheet)
        hyperparameters = {name: o.hyperparameters for name, o in experiments[experiment].optimizers.items()}
        margin_norm = metrics.value(experiment, "margin_norm").mean()
        exponential, power, angle = row
        predicted = {
            "ngd": hyperparameters["ngd"]["step_size"] / margin_norm,
            "polyak": 1 / hyperparameters["polyak"]["factor"],
        }
        for optimizer, rate in predicted.items():
            curve = metrics.curve(experiment, "distraction", optimizer)
            look = {"color": COLOURS[optimizer], "label": NAMES[optimizer]}
            sheet.band(exponential, f"{experiment}: exponential", optimizer, curve, geometric=True, **look)
            late = _late(curve, rates.ATTENTION[optimizer][0])
            law = _middle(late.values)[0] * np.exp(-rate * (late.steps - late.steps[0]))
            sheet.line(exponential, f"{experiment}: exponential", f"law for {optimizer}", late.steps, law, **_LAW)
            slope = _slope(rates.exponential, late, (late.steps[0], rates.ATTENTION[optimizer][1]))
            measured.setdefault(experiment, {})[optimizer] = -slope / rate
        exponential.set(title=f"{title}: $e^{{-ct}}$", yscale="log", xlabel="iteration $t$")
        exponential.set(ylabel="$1 - p_{\\mathrm{opt}}$", ylim=(None, 1e10))
        exponential.yaxis.set_major_locator(FixedLocator([10.0**-e for e in range(0, 301, 50)]))
        exponential.yaxis.set_minor_locator(NullLocator())

        gd = _started(metrics.curve(experiment, "distraction", "gd"))
        sheet.band(power, f"{experiment}: power", "gd", gd, geometric=True, color=COLOURS["gd"], label=NAMES["gd"])
        late = _late(gd, 300)
        law = _middle(late.values)[-1] * late.steps[-1] / late.steps
        sheet.line(power, f"{experiment}: power", "law for gd", late.steps, law, **_LAW)
        power.set(
            title=f"{title}: power of $t$",
            xscale="log",
            yscale="log",
            xlabel="iteration $t$",
            ylabel="$1 - p_{\\mathrm{opt}}$",
        )
        power.annotate("$1/t$", (late.steps[0], law[0]), (-12, -12), textcoords="offset points", fontsize=9)

        panels.draw(angle, f"{experiment}: misalignment", "misalignment_w")
        ngd = _late(metrics.curve(experiment, "misalignment_w", "ngd"), rates.ALIGNMENT["ngd"][0])
        bound = _middle(ngd.values)[0] * (ngd.steps / ngd.steps[0]) ** -0.75
        sheet.line(angle, f"{experiment}: misalignment", "bound", ngd.steps, bound, **_LAW)
        angle.annotate("$t^{-3/4}$", (ngd.steps[-1], bound[-1]), (4, 4), textcoords="offset points", fontsize=9)
        angle.set(title=f"{title}: misalignment", ylabel=f"$1 - {_ALIGNMENT}$")
        angle.set(xscale="log", yscale="log", xlabel="iteration $t$")
    letter(sheet.panels)
    _legend_above(sheet, sheet.panels[0, 2], 3)
    return Drawing(sheet.figure, sheet.table, {"measured": measured})
