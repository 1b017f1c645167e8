"""Curves and times of descent on the population loss (docs/papers/icl.md, section 7.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.model import DOMINANT, OTHER, TARGET, Columns
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Index, Metrics, NotRecordedError, Trace

# A query waits on a plateau if its own attention is below a tenth for more than this share of the time to one half.
PLATEAU = 0.5
CLASSES = {"target": TARGET, "dominant": DOMINANT, "other": OTHER}


def measure(
    experiment: Experiment[Population, PopulationOptions], data: Mapping[int, Arrays], runs: Mapping[str, Run]
) -> dict[str, Trace]:
    """What figures and claims read; a column's index is its query and K, as in ("rare", 160), and N where it is finite.

    What training recorded. Of every column: `error`, L_k; and the times in units of learning rate times steps at which
    L_k falls below the threshold (`time_error`), A_k reaches half of log K (`time_half_log`) and log K (`time_log`),
    B_{k,1} falls to -0.49 log K (`time_fallen`), alpha_k overtakes |beta_{k,1}| (`time_crossing`), and Attn_k reaches
    0.1 (`time_tenth`) and 0.5 (`time_half`); NaN where the run is too short. With the class as a last index:
    `attention` on one target feature, Attn_k; and of the columns with K = `phases_of` also `attention` on the
    dominant feature, and `logit` and `drift` of all of `CLASSES`.
    """
    return {
        label: _measure_run(experiment.settings, experiment.optimizers[label], data, run) for label, run in runs.items()
    }


def pace(optimizer: Optimizer[PopulationOptions]) -> float:
    """The time that passes in one step, eta; 1 for a rule without a learning rate."""
    return float(optimizer.hyperparameters.get("lr", 1.0))


def finest(experiment: Experiment[Population, PopulationOptions], label: str) -> Optimizer[PopulationOptions]:
    """The entry with a label's rule that has the smallest step size, for what happens at the very start."""
    if label not in experiment.optimizers:
        raise NotRecordedError(f"{experiment.name}: {label} was left out")
    rule = experiment.optimizers[label].rule
    return min((entry for entry in experiment.optimizers.values() if entry.rule == rule), key=pace)


def waits(metrics: Metrics, experiment: str, label: str, index: Index) -> float:
    """The share of the time to Attn_k = 0.5 that a column's query spends below 0.1; NaN if it does not get there."""
    tenth, half = (float(metrics.value(experiment, f"time_{e}", label, index=index)[0]) for e in ("tenth", "half"))
    return tenth / half if half > 0 else 0.0


def _measure_run(
    settings: Population, optimizer: Optimizer[PopulationOptions], data: Mapping[int, Arrays], run: Run
) -> Trace:
    trace = Trace(run.seeds)
    trace.update(run.trace)
    steps = run.parameters["steps"][0]
    times = steps * pace(optimizer)
    arrays = data[run.seeds[0]]  # nothing is random: the columns of all seeds are the same
    logits = run.parameters["logits"].transpose(3, 0, 1, 2)
    shape = logits.shape[1:]
    with np.errstate(invalid="ignore"):
        found = Columns(arrays)(logits.reshape(3, -1, shape[2]))
    error = found.error.reshape(shape)
    attention, drift = (values.reshape(3, *shape) for values in (found.attention, found.drift))
    systems = zip(arrays["feature_count"].tolist(), arrays["context_length"].tolist(), strict=True)
    for place, (count, length) in enumerate(systems):
        index = (QUERIES[place % len(QUERIES)], count, *([length] if length else []))
        logit, seen, moved = logits[..., place], attention[..., place], drift[..., place]
        trace.record("error", steps, error[..., place], index)
        trace.record("attention", steps, seen[TARGET], (*index, "target"))
        reached = {
            "error": settings.error_threshold - error[..., place],
            "half_log": logit[TARGET] - np.log(count) / 2,
            "log": logit[TARGET] - np.log(count),
            "fallen": -0.49 * np.log(count) - logit[DOMINANT],
            "crossing": moved[TARGET] - np.abs(moved[DOMINANT]),
            "tenth": seen[TARGET] - 0.1,
            "half": seen[TARGET] - 0.5,
        }
        for event, excess in reached.items():
            trace.record(f"time_{event}", 0, [first_crossing(times, e) for e in excess], index)
        if count == settings.phases_of:
            trace.record("attention", steps, seen[DOMINANT], (*index, "dominant"))
            for label, row in CLASSES.items():
                trace.record("logit", steps, logit[row], (*index, label))
                trace.record("drift", steps, moved[row], (*index, label))
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
