"""Curves and times of descent on the population loss (specification, section 6)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.experiments import Experiment, Optimizer
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.model import DOMINANT, OTHER, TARGET, column, drifts
from workflow.lib.papers.icl.settings import Population
from workflow.lib.runs import Run, Trace

CLASSES = {"target": TARGET, "dominant": DOMINANT, "other": OTHER}


def measure(experiment: Experiment, data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """What figures and claims read; a metric's name ends in the query and K, as in `error_rare_160`.

    Of every column: `error`, L_k; `attention_target`, Attn_k; and the times in units of step size times steps at
    which L_k falls below the threshold (`time_error`), A_k reaches half of log K (`time_half_log`) and log K
    (`time_log`), B_{k,1} falls to -0.49 log K (`time_fallen`) and alpha_k overtakes |beta_{k,1}| (`time_crossing`);
    NaN where the run is too short. Of the columns with K = `phases_of` also `attention_dominant`, and `logit_` and
    `drift_` of target, dominant and other.
    """
    return {label: _measure_run(experiment, experiment.optimizers[label], data, run) for label, run in runs.items()}


def _measure_run(experiment: Experiment, optimizer: Optimizer, data: Mapping[int, Arrays], run: Run) -> Trace:
    settings = experiment.settings
    assert isinstance(settings, Population)
    trace = Trace(run.seeds)
    trace.record("error", run.trace["error"].steps, run.trace["error"].values)
    steps = run.parameters["steps"][0]
    times = steps * optimizer.hyperparameters["step_size"]
    arrays = data[run.seeds[0]]  # nothing is random: the columns of all seeds are the same
    for index, count in enumerate(arrays["feature_count"].tolist()):
        name = f"{QUERIES[index % len(QUERIES)]}_{count}"
        logits = np.moveaxis(run.parameters["logits"][:, :, index], -1, 0)
        probability = arrays["probability"][index][:, None, None]
        seen = column(logits, probability, arrays["multiplicity"][index][:, None, None])
        drift = drifts(seen, probability)
        trace.record(f"error_{name}", steps, seen.error)
        trace.record(f"attention_target_{name}", steps, seen.attention[TARGET])
        reached = {
            "error": settings.error_threshold - seen.error,
            "half_log": logits[TARGET] - np.log(count) / 2,
            "log": logits[TARGET] - np.log(count),
            "fallen": -0.49 * np.log(count) - logits[DOMINANT],
            "crossing": drift[TARGET] - np.abs(drift[DOMINANT]),
        }
        for event, excess in reached.items():
            trace.record(f"time_{event}_{name}", 0, [first_crossing(times, e) for e in excess])
        if count == settings.phases_of:
            trace.record(f"attention_dominant_{name}", steps, seen.attention[DOMINANT])
            for label, row in CLASSES.items():
                trace.record(f"logit_{label}_{name}", steps, logits[row])
                trace.record(f"drift_{label}_{name}", steps, drift[row])
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
