"""Prediction errors and attention scores on unseen prompts (specification, section 6)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.experiments import Experiment
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.formulas import errors_and_attention
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.runs import DATA, Run, Trace

RAW_SAMPLES = 200_000


def measure(experiment: Experiment, data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """What figures and claims read; features are counted from 1, as in the paper.

    Per optimizer: what training recorded; `target_logit_{k}`, A_k; `error_{k}`, the population error L_k;
    `attention_{m}_{k}`, the mean Attn_m given query v_k; `converged_{k}` and `concentrated_{k}`, the first recorded
    epochs with L_k below and Attn_k above the thresholds; `closed_loss_error`, the largest difference of L_k and the
    sampled squared error, of the first seed.
    Of the data: `projector_sum`, sum_ij |P_ij| for the projector P on the features, and `probability_{k}`.
    """
    settings = experiment.settings
    assert isinstance(settings, Prompts)
    measured = {label: _measure_run(settings, data, run, experiment) for label, run in runs.items()}
    measured[DATA] = trace = Trace(data)
    features = [block["features"] for block in data.values()]
    trace.record("projector_sum", 0, [np.abs(f.T @ f).sum() for f in features])
    for k, p in enumerate(settings.distribution, start=1):
        trace.record(f"probability_{k}", 0, p)
    return measured


def _measure_run(settings: Prompts, data: Mapping[int, Arrays], run: Run, experiment: Experiment) -> Trace:
    trace = Trace(run.seeds)
    for metric in run.trace.metrics:
        curve = run.trace[metric]
        trace.record(metric, curve.steps, curve.values)
    epochs = np.asarray(settings.recorded)
    both = [
        errors_and_attention(logits, data[seed]["fresh_counts"], settings.mask_query)
        for seed, logits in zip(run.seeds, run.parameters["logits"], strict=True)
    ]
    errors, attention = (np.stack(values) for values in zip(*both, strict=True))
    count = settings.feature_count
    for k in range(count):
        trace.record(f"target_logit_{k + 1}", epochs, run.parameters["logits"][..., k, k])
        trace.record(f"error_{k + 1}", epochs, errors[..., k])
        trace.record(f"converged_{k + 1}", 0, _first(epochs, errors[..., k] < settings.error_threshold))
        on_target = attention[..., k, k]
        trace.record(f"concentrated_{k + 1}", 0, _first(epochs, on_target > settings.attention_threshold))
        for m in range(count):
            trace.record(f"attention_{m + 1}_{k + 1}", epochs, attention[..., m, k])
    middle = len(epochs) // 8
    raw = raw_errors(settings, run.parameters["logits"][0, middle], experiment.seed(run.seeds[0]).generator("raw"))
    difference = np.full(len(run.seeds), np.nan)
    difference[0] = np.abs(raw - errors[0, middle]).max()
    trace.record("closed_loss_error", int(epochs[middle]), difference)
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
    key_weights = np.exp(logits - logits.max(axis=0))
    errors = np.empty(len(logits))
    for k in range(len(logits)):
        own_key = 0.0 if settings.mask_query else key_weights[k, k]
        predicted = (counts * labels) @ key_weights[:, k] / (counts @ key_weights[:, k] + own_key)
        errors[k] = np.mean((predicted - labels[:, k]) ** 2) / 2
    return errors
