"""The figures of the deep experiments: train loss by step and by length of the path, accuracy, attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from workflow.lib.contract import Draw, Drawing
from workflow.lib.look import RULES, Look, looks, ordered
from workflow.lib.papers.ib.deep.claims import LONGER, by_length, diverged_at, equal_length
from workflow.lib.papers.ib.deep.settings import ENCODERS, Language, Scratch, Vision, pretrains
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.plotting import GREY, MEDIUM, WIDE, Sheet
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

FIGURES: Registry[Draw] = Registry()
Runs = Experiment[Vision] | Experiment[Language]

# Other readings of rules in the row: label -> the hyper-parameter that it differs in, and what a legend calls that.
READINGS = {
    "sngd_momentum": ("momentum", "momentum"),
    "sngd_per_tensor": ("norm", "norm"),
    "sps_cap": ("eta_max", "cap"),
}
SMALL = 7.0  # points


def language(metrics: Metrics, experiment: Experiment[Language]) -> Drawing:
    """A BERT: train loss by step and by length of the path, test accuracy and attention."""
    labels = _rivals(experiment)
    sheet = Sheet(2, 2, size=(MEDIUM, 4.3))
    drawn = _Panels(sheet, metrics, experiment, labels)
    (loss, path), (accuracy, attention) = sheet.panels
    drawn.train_loss(loss)
    drawn.by_length(path)
    drawn.test_accuracy(accuracy)
    drawn.by_epoch(attention, "attention", "attention sparsity", "largest [CLS] weight")
    return drawn.finished()


def vision(metrics: Metrics, experiment: Experiment[Vision]) -> Drawing:
    """A ViT: train loss by step, test accuracy, train loss by length of the path."""
    labels = [label for label in _rivals(experiment) if label not in READINGS]
    sheet = Sheet(1, 3, size=(WIDE, 2.7))
    drawn = _Panels(sheet, metrics, experiment, labels)
    loss, accuracy, path = sheet.panels[0]
    drawn.train_loss(loss)
    drawn.test_accuracy(accuracy)
    drawn.by_length(path)
    return drawn.finished()


FIGURES("fig1")(language)
FIGURES("fig4")(language)
FIGURES("fig6")(vision)
FIGURES("fig7")(vision)


@FIGURES("extra_vision_sensitivity")
def extra_vision_sensitivity(metrics: Metrics, experiment: Experiment[Vision]) -> Drawing:
    """A ViT with other readings of SNGD and SPS, beside the paper's values and SGD."""
    known = _rivals(experiment)
    labels = [label for label in known if label in ("sgd", "sngd", "sps", *READINGS)]
    if not labels:
        raise NotRecordedError(f"{experiment.name} has no run of SGD, SNGD or SPS")
    sheet = Sheet(1, 3, size=(WIDE, 2.9))
    drawn = _Panels(sheet, metrics, experiment, labels)
    loss, accuracy, length = sheet.panels[0]
    drawn.train_loss(loss)
    drawn.test_accuracy(accuracy)
    drawn.bands(length, "step length", "step_length")
    length.set(xscale="log", yscale="log", xlabel="steps", ylabel="mean length of steps", title="steps")
    length.xaxis.set_minor_formatter(NullFormatter())
    drawn.mark_epochs(length, "step length")
    read = [drawn.looks[label].name for label in labels if label in READINGS]
    return drawn.finished(extra=True, readings=read)


def _rivals(experiment: Runs) -> list[str]:
    """The optimizers to compare, in the order of legends."""
    found = [label for label, optimizer in experiment.optimizers.items() if not pretrains(optimizer)]
    return ordered(found, experiment)


class _Panels:
    """The panels of one experiment."""

    def __init__(self, sheet: Sheet, metrics: Metrics, experiment: Runs, labels: Sequence[str]) -> None:
        self.sheet, self.metrics, self.experiment, self.labels = sheet, metrics, experiment, labels
        own = {label: label for label, optimizer in experiment.optimizers.items() if label != optimizer.rule}
        told = {LONGER: ("lr", "rate"), **READINGS}
        own |= {label: _told(experiment.optimizers[label], *told[label]) for label in told if label in own}
        self.looks: dict[str, Look] = looks(experiment, own)
        self.per_epoch = float(metrics.value(experiment.name, "batches_per_epoch")[0])

    def bands(self, ax: Axes, panel: str, metric: str) -> None:
        """A metric of every optimizer."""
        for place, label in enumerate(self.labels):
            self._band(ax, panel, place, self.metrics.curve(self.experiment.name, metric, label))

    def _band(self, ax: Axes, panel: str, place: int, curve: Curve) -> None:
        if not np.isfinite(curve.values).any():
            return
        look = self.looks[self.labels[place]]
        # A marker here and there, at another place for each: curves may lie on one another.
        first = (place + 0.5) / len(self.labels) / 4
        style: dict[str, Any] = {"marker": look.marker, "markersize": 3.5, "markevery": (first, 0.25), "linewidth": 1.2}
        self.sheet.band(ax, panel, self.labels[place], curve, **look.line, **style)

    def train_loss(self, ax: Axes) -> None:
        """The train loss by step, with a cross where a seed diverged."""
        self.bands(ax, "train loss", "train_loss")
        for label in self.labels:
            curve = self.metrics.curve(self.experiment.name, "train_loss", label)
            for row, at in zip(curve.values, diverged_at(self.metrics, self.experiment.name, label), strict=True):
                if np.isfinite(at):
                    finite = row[np.isfinite(row)]
                    height = finite[-1] if finite.size else ax.get_ylim()[1]  # at the top if it diverged at once
                    first = max(at, curve.steps[0])  # a log axis has no place for step 0
                    self.sheet.lost(ax, "train loss", label, first, height, color=self.looks[label].color)
        ax.set(xscale="log", xlabel="steps", ylabel="train loss (nats)", title="train loss")
        ax.xaxis.set_minor_formatter(NullFormatter())
        _loss_axis(ax)
        self.mark_epochs(ax, "train loss")

    def by_length(self, ax: Axes) -> None:
        """The train loss by the length of the path."""
        for place, label in enumerate(self.labels):
            self._band(ax, "by length", place, by_length(self.metrics, self.experiment.name, label))
        ax.set(xscale="log", xlabel="length of the path in weights", ylabel="train loss (nats)")
        ax.set_title("loss at equal length")
        ax.xaxis.set_minor_formatter(NullFormatter())
        _loss_axis(ax)

    def test_accuracy(self, ax: Axes) -> None:
        """The accuracy by epoch, and what the largest class alone would give."""
        self.by_epoch(ax, "test_accuracy", "test accuracy", "share of the test set")
        share = float(self.metrics.value(self.experiment.name, "largest_class").mean())
        self.sheet.level(ax, "test accuracy", "largest class", share, label="largest class")

    def by_epoch(self, ax: Axes, metric: str, title: str, ylabel: str) -> None:
        """A metric of the test set, from the first epoch on."""
        for place, label in enumerate(self.labels):
            curve = self.metrics.curve(self.experiment.name, metric, label)
            self._band(ax, title, place, curve.window(1, np.inf))
        ax.set(xscale="log", xlabel="epochs", ylabel=ylabel, ylim=(0, 1), title=title)
        ticks = [n for n in (1, 2, 3, 5, 10, 20, 30, 50, 100) if n <= self.experiment.settings.epochs]
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.set_xticks([], minor=True)

    def mark_epochs(self, ax: Axes, panel: str) -> None:
        """Lines at 1 and 10 epochs through a panel whose axis is of steps."""
        for epoch in [n for n in (1, 10, 100) if n <= self.experiment.settings.epochs]:
            name, style = f"{epoch} epoch{'s' if epoch > 1 else ''}", {"linestyle": (0, (1, 2)), "zorder": 0.5}
            self.sheet.moment(ax, panel, name, epoch * self.per_epoch, **style)
            at, fraction = (epoch * self.per_epoch, 1), ("data", "axes fraction")  # above all curves
            look: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "ha": "center"}
            ax.annotate(f"{epoch} ep.", at, (0, 2), fraction, "offset points", **look)

    def finished(self, extra: bool = False, **more: Any) -> Drawing:
        """The figure with its legend, headline and facts, and some more of these."""
        facts = _facts(self.metrics, self.experiment, self.labels, self.looks) | more
        about = f"{facts['data']}; {facts['examples']}, {facts['length']}, seeds: {facts['seeds']}"
        title = f"{'extra: ' if extra else ''}{facts['model']}\n{about}"
        if facts["at_chance"] and not extra:
            title += f"\nat chance to the end: {', '.join(facts['at_chance'])}"
            title += "; the caption says why" if facts["needed"] and facts["at_chance"] == ["SGD"] else ""
        self.sheet.legend(len(self.labels) + 1 if len(self.labels) < 6 else 4, title=title)
        self.sheet.letter()
        return self.sheet.drawing(facts)


def _told(optimizer: Optimizer, key: str, name: str) -> str:
    """What a legend calls an entry that differs from another one of its rule in one hyper-parameter."""
    known = RULES.get(optimizer.rule)
    value = optimizer.hyperparameters.get(key)
    if known is None or value is None:  # another rule of a user's own in its place
        return optimizer.label
    return f"{known.name}, {name} {value.replace('_', ' ') if isinstance(value, str) else format(value, 'g')}"


def _loss_axis(ax: Axes) -> None:
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high < 2 * low:
        ax.set_yscale("linear")
        return
    # Few powers of ten lie in the range: plain numbers, and enough of them for a log axis to be seen as one.
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5, 7)):
        ticks = [float(f"{m}e{e}") for e in range(-6, 3) for m in steps if low <= float(f"{m}e{e}") <= high]
        if len(ticks) > 2:
            ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
            ax.set_yticks([], minor=True)
            return


def _facts(metrics: Metrics, experiment: Runs, labels: Sequence[str], look: dict[str, Look]) -> dict[str, Any]:
    settings, name = experiment.settings, experiment.name
    final = {look[label].name: _last(metrics, name, label) for label in labels}
    order = sorted((n for n in final if np.isfinite(final[n]["train_loss"][0])), key=lambda n: final[n]["train_loss"])
    share = float(metrics.value(name, "largest_class").mean())
    return {
        "data": _data(settings),
        "standin": settings.standin,
        "dataset": settings.dataset,
        "model": _model(experiment),
        "examples": f"{int(metrics.value(name, 'train_examples')[0]):,} training examples",
        "length": f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}",
        "seeds": len(metrics.curve(name, "train_loss", labels[0]).seeds),
        "smoothing": settings.smoothing,
        "steps": f"{int(metrics.curve(name, 'train_loss', labels[0]).steps[-1]):,}",
        "final": final,
        "order": _in_words(order, final),
        "at_chance": [n for n in final if final[n]["test_accuracy"][1] <= share + 0.05],
        "lowest": _lowest(metrics, name, {label: look[label].name for label in labels}),
        "below_sgd": order[: order.index("SGD")] if "SGD" in order else None,
        "longer": LONGER in labels,
        "equal_length": _equal_length(metrics, name, labels),
        "needed": _needed(metrics, name, labels),
        "masked": _masked(metrics, experiment),
        "caps": _caps(experiment),
    }


def _caps(experiment: Runs) -> dict[str, float] | None:
    """What the entries of the row may do: SGD's rate, SNGD's length of a step, SPS's cap, and that cap over that rate.

    None where one is not there, or has momentum.
    """
    rate, length, cap = (
        one.hyperparameters[key]
        if (one := experiment.optimizers.get(rule)) and one.rule == rule and not one.hyperparameters["momentum"]
        else None
        for rule, key in (("sgd", "lr"), ("sngd", "lr"), ("sps", "eta_max"))
    )
    if rate is None or length is None or cap is None:
        return None
    return {"rate": rate, "length": length, "cap": cap, "ratio": cap / rate}


def _last(metrics: Metrics, experiment: str, label: str) -> dict[str, tuple[float, float, float]]:
    """The last values: mean, least and largest of the seeds."""
    found = {}
    for metric in ("train_loss", "test_accuracy", "attention", "path_length", "step_length"):
        values = metrics.value(experiment, metric, label)
        found[metric] = (float(values.mean()), float(values.min()), float(values.max()))
    return found


def _lowest(metrics: Metrics, experiment: str, names: dict[str, str]) -> tuple[str, float, float]:
    """Who is nearest to chance at the end, and how far above the largest class's share: least and largest seed."""
    share = metrics.value(experiment, "largest_class")
    above = {name: metrics.value(experiment, "test_accuracy", label) - share for label, name in names.items()}
    lowest = min(above, key=lambda name: float(above[name].mean()))
    return lowest, float(above[lowest].min()), float(above[lowest].max())


def _in_words(order: Sequence[str], final: dict[str, Any]) -> str:
    """An order such as `Adam < SGD ~ SPS`: ~ where the ranges of two neighbours touch."""
    words = list(order[:1])
    for low, high in pairwise(order):
        apart = final[low]["train_loss"][2] < final[high]["train_loss"][1]
        words += ["<" if apart else "~", high]
    return " ".join(words)


def _equal_length(metrics: Metrics, experiment: str, labels: Sequence[str]) -> tuple[float, float] | None:
    """SNGD's train loss over SGD's (the longer steps', if there are such), least and largest of the seeds."""
    rival = LONGER if LONGER in labels else "sgd"
    if not {rival, "sngd"} <= set(labels):
        return None
    ratio = equal_length(metrics, experiment, "sngd", rival)
    return (float(ratio.min()), float(ratio.max())) if np.isfinite(ratio).all() else None


def _needed(metrics: Metrics, experiment: str, labels: Sequence[str]) -> dict[str, float] | None:
    """What the row's SGD would need, judged by SGD with longer steps on the same curve.

    `length` is the path after which that one has lost a tenth of its first train loss, `steps` is how many steps the
    row's would then have taken if it went on with steps as long as its last ones; means of seeds.
    """
    if not {LONGER, "sgd"} <= set(labels):
        return None
    curve = by_length(metrics, experiment, LONGER)
    loss = curve.values.mean(axis=0)
    there = np.flatnonzero(loss < 0.9 * loss[0])
    walked, last = (float(metrics.value(experiment, key, "sgd").mean()) for key in ("path_length", "step_length"))
    if not there.size or not walked < curve.steps[there[0]] or not last > 0:
        return None
    length, taken = float(curve.steps[there[0]]), metrics.curve(experiment, "train_loss", "sgd").steps[-1]
    return {"length": length, "steps": float(taken + (length - walked) / last)}


def _masked(metrics: Metrics, experiment: Runs) -> dict[str, float] | None:
    """The loss of the pre-training at its beginning and end, and that of guessing every word alike."""
    for label, optimizer in experiment.optimizers.items():
        if pretrains(optimizer) and metrics.has(experiment.name, "masked_loss", label):
            curve = metrics.curve(experiment.name, "masked_loss", label)
            words = float(metrics.value(experiment.name, "words")[0])
            ends = {
                "first": float(curve.values[0, 0]),
                "last": float(curve.values[0, -1]),
                "alike": float(np.log(words)),
            }
            return {**ends, "steps": float(optimizer.options.steps), "texts": float(optimizer.options.texts)}
    return None


def _data(settings: Vision | Language) -> str:
    title = settings.facts.title
    if isinstance(settings, Vision) and settings.pixels is not None:
        return f"{title}{', ' if settings.standin else ' at '}{settings.size} x {settings.size} pixels"
    return title


def _model(experiment: Runs) -> str:
    settings = experiment.settings
    if isinstance(settings, Vision):
        return f"ViT of width {settings.dim}"
    if isinstance(settings.encoder, Scratch):
        if any(optimizer.start_from for optimizer in experiment.optimizers.values()):
            return "tiny BERT, pre-trained with masked tokens on generated text, then fine-tuned"
        return "tiny BERT from scratch"
    return settings.encoder if settings.encoder in ENCODERS else Path(settings.encoder).name
