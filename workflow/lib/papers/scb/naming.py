"""What the figures of this paper share: what optimizers and settings are called, and seeds by their support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from workflow.lib.look import Look, looks
from workflow.lib.papers.scb.settings import Bigram, RunOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Metrics

Runs = Experiment[Bigram, RunOptions]
ALIGNMENTS = {"value_alignment": r"$\alpha_V$", "attention_alignment": r"$\alpha_A$"}


def _described(optimizers: Sequence[Optimizer[RunOptions]]) -> str:
    """What a legend calls an optimizer of one experiment, or of several that differ in its step."""
    first, options = optimizers[0], optimizers[0].options
    sizes = " / ".join(dict.fromkeys(f"{o.hyperparameters['lr']:g}" for o in optimizers if "lr" in o.hyperparameters))
    if options.attention == "softmax":
        return "softmax model"
    if first.rule == "gd":
        return f"plain SGD, η = {sizes}"
    if first.rule != "preconditioned_prox":
        return first.label
    if options.pretrained:
        return f"θ = {options.pretrained:g}"
    penalty = first.hyperparameters["penalty"]
    kind = f"prox, λ = {penalty:g}" if penalty else "SGD"
    return f"{kind}{'' if options.switch else ', no switch'}, η = {sizes}"


def looks_of(*experiments: Runs, without: Sequence[str] = ()) -> dict[str, Look]:
    """One look for each optimizer of some experiments, by label; boosting is the first part of others' curves.

    An optimizer looks the same with and without some others.
    """
    found: dict[str, list[Optimizer[RunOptions]]] = {}
    for experiment in experiments:
        for label, optimizer in experiment.optimizers.items():
            if not optimizer.options.boosting:
                found.setdefault(label, []).append(optimizer)
    names = {label: _described(optimizers) for label, optimizers in found.items()}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    names = {label: f"{name} ({label})" if name in twice else name for label, name in names.items()}
    together = experiments[0].model_copy(update={"optimizers": {label: o[0] for label, o in found.items()}})
    return {label: look for label, look in looks(together, names).items() if label not in without}


def seeds_of(metrics: Metrics, experiment: Runs) -> tuple[int, ...]:
    """The seeds of an experiment."""
    return metrics.curve(experiment.name, "k_p").seeds


def right_support(metrics: Metrics, experiment: Runs) -> np.ndarray:
    """Which seeds have the right support after the switch, shape (seeds,); all of them where nobody switches."""
    for label in experiment.optimizers:
        if metrics.has(experiment.name, "support_exact", label):
            return metrics.value(experiment.name, "support_exact", label) == 1
    return np.ones(len(seeds_of(metrics, experiment)), dtype=bool)


def chosen(seeds: Sequence[int], chosen: np.ndarray) -> list[int]:
    """The seeds that are chosen."""
    return [seed for seed, wanted in zip(seeds, chosen, strict=True) if wanted]


def median(values: np.ndarray) -> np.ndarray:
    """The median over seeds (first dimension), where what diverged counts as infinite; NaN where that is the median."""
    middle = np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    return np.where(np.isinf(middle), np.nan, middle)


def difference(experiment: Runs, main: Runs) -> str:
    """What an experiment has in place of the main one's settings, in the paper's letters."""
    letters = {"states": "N", "support": "Q", "positions": "T", "batch_size": "B"}
    pairs = {name: (getattr(experiment.settings, key), getattr(main.settings, key)) for key, name in letters.items()}
    changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if not changed:
        return "another draw of P and Q"
    own, other = (", ".join(f"{name} = {pair[i]}" for name, pair in changed.items()) for i in (0, 1))
    return f"{own} in place of {other}"
