"""Prediction errors and attention scores on unseen prompts (docs/papers/icl.md, section 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.formulas import attention_scores, errors_and_attention
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import DATA, Trace

RAW_SAMPLES = 200_000
# As many samples are worked on at a time as stay in a processor's cache.
AT_ONCE = 10_000


def measure(experiment: Experiment[Prompts], data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """What figures and claims read; features are counted from 1, as in the paper.

    Per optimizer: what training recorded; at index k `target_logit`, A_k, and `error`, the population error L_k; the
    first recorded epochs past the thresholds, of L_k (`converged`), of the error on the training prompts
    (`training_converged`) and of Attn_k (`concentrated`); at index (m, k) `attention`, the mean Attn_m given query v_k;
    `closed_loss_error`, the largest difference of L_k and the sampled squared error, of the first seed.
    Of the data: `projector_sum`, sum_ij |P_ij| for the projector P on the features, and at index k `probability`.
    """
    measured = {label: _measure_run(experiment, data, run) for label, run in runs.items()}
    measured[DATA] = trace = Trace(data)
    features = [block["features"] for block in data.values()]
    trace.record("projector_sum", 0, [np.abs(f.T @ f).sum() for f in features])
    for k, p in enumerate(experiment.settings.distribution, start=1):
        trace.record("probability", 0, p, k)
    return measured


def _measure_run(experiment: Experiment[Prompts], data: Mapping[int, Arrays], run: Run) -> Trace:
    settings = experiment.settings
    trace = Trace(run.seeds)
    trace.update(run.trace)
    epochs = np.asarray(settings.recorded)
    both = [
        errors_and_attention(logits, data[seed]["fresh_counts"], settings.mask_query)
        for seed, logits in zip(run.seeds, run.parameters["logits"], strict=True)
    ]
    errors, attention = (np.stack(values) for values in zip(*both, strict=True))
    for column, k in enumerate(settings.numbers):
        trace.record("target_logit", epochs, run.parameters["logits"][..., column, column], k)
        trace.record("error", epochs, errors[..., column], k)
        trace.record("converged", 0, _first(epochs, errors[..., column] < settings.error_threshold), k)
        if str(k) in run.trace.indices("training_error"):  # not so for a feature that is no training prompt's query
            seen = run.trace.curve("training_error", k)
            trace.record("training_converged", 0, _first(seen.steps, seen.values < settings.error_threshold), k)
        on_target = attention[..., column, column]
        trace.record("concentrated", 0, _first(epochs, on_target > settings.attention_threshold), k)
        for row, m in enumerate(settings.numbers):
            trace.record("attention", epochs, attention[..., row, column], (m, k))
    at = settings.checked_at
    raw = raw_errors(settings, run.parameters["logits"][0, at], experiment.seed(run.seeds[0]).generator("raw"))
    difference = np.full(len(run.seeds), np.nan)
    difference[0] = np.abs(raw - errors[0, at]).max()
    trace.record("closed_loss_error", settings.recorded[at], difference)
    return trace


def _first(epochs: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """The first epoch at which each seed, a row of `reached`, is true; NaN where none is."""
    return np.where(reached.any(axis=1), epochs[reached.argmax(axis=1)], np.nan)


def raw_errors(settings: Prompts, logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """1/2 E[(yhat - <w, v_k>)^2] by sampling prompts and tasks, shape (K,): the definition, for a check of L_k.

    Args:
        settings: of the prompts.
        logits: S, shape (K, K), rows for keys.
        generator: draws the samples.
    """
    counts = generator.multinomial(settings.context_length, settings.distribution, size=RAW_SAMPLES)
    # <w, v_m> of orthonormal features are independent standard normal numbers.
    labels = generator.normal(size=counts.shape)
    errors = np.empty((len(logits), len(counts)))
    for k, first in product(range(len(logits)), range(0, len(counts), AT_ONCE)):
        some = slice(first, first + AT_ONCE)
        seen = attention_scores(logits[:, k], counts[some], None if settings.mask_query else k)
        errors[k, some] = ((seen.attention * labels[some]).sum(axis=1) - labels[some, k]) ** 2
    return errors.mean(axis=1) / 2
