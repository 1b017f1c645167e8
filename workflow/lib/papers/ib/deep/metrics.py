"""What the figures and claims of the deep experiments read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.ib.deep.recorded import EPOCH_METRICS, ITERATION_METRICS
from workflow.lib.papers.ib.deep.settings import Deep
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import DATA, Curve, Trace

POINTS = 300


def measure(experiment: Experiment[Deep], data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """Trailing means of what training recorded by iteration, the rest as it is, and facts of the data.

    Per optimizer: `train_loss`, `gradient_norm`, `step_size`, `step_length` and `path_length` by iteration,
    `test_accuracy`, `test_loss`, `attention` by epoch, and `diverged_at` if any seed diverged; of runs that fill in
    masked words `masked_loss` instead. Of the data: the numbers of training and test examples and of words, the share
    of the test set's largest class, and the batches per epoch.
    """
    measured = {label: _measure_run(run.trace, experiment.settings.smoothing) for label, run in runs.items()}
    facts = Trace(data)
    for part in ("train", "test"):
        facts.record(f"{part}_examples", 0, [len(arrays[f"{part}_labels"]) for arrays in data.values()])
    counts = [np.bincount(arrays["test_labels"]) for arrays in data.values()]
    facts.record("largest_class", 0, [count.max() / count.sum() for count in counts])
    for run in [run for run in runs.values() if "batches_per_epoch" in run.trace][:1]:
        facts.record("batches_per_epoch", 0, run.trace["batches_per_epoch"].values[:, 0])
    if all("vocabulary" in arrays for arrays in data.values()):
        facts.record("words", 0, [float(arrays["vocabulary"]) for arrays in data.values()])
    return {**measured, DATA: facts}


def _measure_run(trace: Trace, window: int) -> Trace:
    measured = Trace(trace.seeds)
    for metric in (*ITERATION_METRICS, "masked_loss"):
        if metric in trace:
            smoothed = trailing_mean(trace[metric], window, POINTS)
            measured.record(metric, smoothed.steps, smoothed.values)
    for metric in (*EPOCH_METRICS, "diverged_at"):
        if metric in trace:
            measured.record(metric, trace[metric].steps, trace[metric].values)
    if "step_length" in trace:
        length = trace["step_length"]
        walked = trailing_mean(Curve(length.seeds, length.steps, length.values.cumsum(axis=1)), window, POINTS)
        measured.record("path_length", walked.steps, walked.values)
    return measured


def trailing_mean(curve: Curve, window: int, points: int) -> Curve:
    """The mean of the last `window` steps, or of all where there are fewer.

    It is kept at no more than `points` steps, evenly on a logarithmic axis, the first and the last included. A window
    with a missing value gives none.
    """
    count = curve.steps.size
    chosen = np.unique(np.geomspace(1, count, points).round().astype(int))
    # Sums of slices, not differences of running sums: one missing value must not spoil what comes before it.
    means = [curve.values[:, max(0, last - window) : last].mean(axis=1) for last in chosen]
    return Curve(curve.seeds, curve.steps[chosen - 1], np.stack(means, axis=1))
