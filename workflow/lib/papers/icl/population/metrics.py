"""Curves and times of descent on the population loss (docs/papers/icl.md, section 7.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.model import DOMINANT, OTHER, TARGET, column, drifts
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.runs import Trace

CLASSES = {"target": TARGET, "dominant": DOMINANT, "other": OTHER}


def measure(
    experiment: Experiment[Population, PopulationOptions], data: Mapping[int, Arrays], runs: Mapping[str, Run]
) -> dict[str, Trace]:
    """What figures and claims read; a column's index is its query and K, as in ("rare", 160).

    What training recorded. Of every column: `error`, L_k; and the times in units of step size times steps at which
    L_k falls below the threshold (`time_error`), A_k reaches half of log K (`time_half_log`) and log K (`time_log`),
    B_{k,1} falls to -0.49 log K (`time_fallen`) and alpha_k overtakes |beta_{k,1}| (`time_crossing`); NaN where the
    run is too short. With the class as a third index: `attention` on one target feature, Attn_k; and of the columns
    with K = `phases_of` also `attention` on the dominant feature, and `logit` and `drift` of all of `CLASSES`.
    """
    return {
        label: _measure_run(experiment.settings, experiment.optimizers[label], data, run) for label, run in runs.items()
    }


def finest(experiment: Experiment[Population, PopulationOptions]) -> Optimizer[PopulationOptions]:
    """The optimizer with the smallest step size, for what happens at the very start."""
    return min(experiment.optimizers.values(), key=lambda optimizer: optimizer.hyperparameters["lr"])


def _measure_run(
    settings: Population, optimizer: Optimizer[PopulationOptions], data: Mapping[int, Arrays], run: Run
) -> Trace:
    trace = Trace(run.seeds)
    trace.update(run.trace)
    steps = run.parameters["steps"][0]
    times = steps * optimizer.hyperparameters["lr"]
    arrays = data[run.seeds[0]]  # nothing is random: the columns of all seeds are the same
    for place, count in enumerate(arrays["feature_count"].tolist()):
        index = QUERIES[place % len(QUERIES)], count
        logits = np.moveaxis(run.parameters["logits"][:, :, place], -1, 0)
        probability = arrays["probability"][place][:, None, None]
        seen = column(logits, probability, arrays["multiplicity"][place][:, None, None])
        drift = drifts(seen, probability)
        trace.record("error", steps, seen.error, index)
        trace.record("attention", steps, seen.attention[TARGET], (*index, "target"))
        reached = {
            "error": settings.error_threshold - seen.error,
            "half_log": logits[TARGET] - np.log(count) / 2,
            "log": logits[TARGET] - np.log(count),
            "fallen": -0.49 * np.log(count) - logits[DOMINANT],
            "crossing": drift[TARGET] - np.abs(drift[DOMINANT]),
        }
        for event, excess in reached.items():
            trace.record(f"time_{event}", 0, [first_crossing(times, e) for e in excess], index)
        if count == settings.phases_of:
            trace.record("attention", steps, seen.attention[DOMINANT], (*index, "dominant"))
            for label, row in CLASSES.items():
                trace.record("logit", steps, logits[row], (*index, label))
                trace.record("drift", steps, drift[row], (*index, label))
    return trace


def first_crossing(times: np.ndarray, excess: np.ndarray) -> float:
    """The time at which `excess` (n,) first reaches 0, linear between the samples; NaN where it does not."""
    above = excess >= 0
    index = int(above.argmax())
    if not above[index]:
        return float("nan")
    if index == 0:
        return float(times[0])
    low, high = excess[index - 1], excess[index]
    return float(times[index - 1] + (times[index] - times[index - 1]) * low / (low - high))
