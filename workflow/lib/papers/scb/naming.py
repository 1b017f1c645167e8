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
    """What an experiment has in place of the main one's settings: the paper's letters with values, the rest by name."""
    letters = {"states": "N", "support": "Q", "positions": "T", "batch_size": "B"}
    own, others = (run.settings.model_dump(exclude={"record_every"}) for run in (experiment, main))
    changed = [key for key in own if own[key] != others.get(key)]
    told = []
    if lettered := [key for key in letters if key in changed]:
        mine, theirs = (", ".join(f"{letters[key]} = {of[key]}" for key in lettered) for of in (own, others))
        told.append(f"{mine} in place of {theirs}")
    if rest := [key for key in changed if key not in letters]:
        told.append("another " + rest[0] if len(rest) == 1 else f"{len(rest)} other settings")
    if any(_steps(experiment, label) != _steps(main, label) for label in experiment.optimizers):
        told.append("other steps")
    if experiment.stream != main.stream:
        told.append("another draw of P and Q")
    return "; ".join(told) or "no change"


def _steps(experiment: Runs, label: str) -> object:
    """What an entry of an experiment does; nothing for one that it does not have."""
    found = experiment.optimizers.get(label)
    return found and (found.rule, found.hyperparameters, found.options)


def steps_told(printed: Runs, other: Runs) -> tuple[str, str]:
    """What the steps of Figure 1's rows are called: as printed while that is where they are from, and their ratio."""
    common = [label for label in other.optimizers if label in printed.optimizers]
    sizes = [[run.optimizers[label].hyperparameters.get("lr", 1.0) for label in common] for run in (printed, other)]
    ratios = {f"{above / below:.3g}" for below, above in zip(*sizes, strict=True)}
    given = [printed.optimizers[label].given for label in common]
    mine = any("lr" in one and one["lr"].source == "user" for one in given)
    first = "steps of yours" if mine else "printed steps"
    return first, f"steps × {ratios.pop()}" if len(ratios) == 1 else "other steps"
