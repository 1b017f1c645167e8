"""The measured side of the ledger (docs/papers/icl.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.icl.formulas import initial_errors
from workflow.lib.papers.icl.population.metrics import CLASSES, finest
from workflow.lib.papers.icl.settings import Population, PopulationOptions, Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Index, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Prompts]]
Populations = Mapping[str, Experiment[Population, PopulationOptions]]

SCENARIOS = ("balanced", "imbalanced")
# Times of figure 1's events at K = 160 and p_1 = 1/2, in units of step size times steps (derived, section 7.3).
PHASE_TIMES = {"crossing": 23087.0, "half_log": 54429.0, "log": 61648.0, "error": 74119.0}


def _values(
    metrics: Metrics,
    experiment: str,
    metric: str,
    indices: Iterable[Index] = ("",),
    step: int | None = None,
    optimizer: str | None = None,
) -> np.ndarray:
    """A metric of an optimizer (the first when not said), shape (seeds, indices); NaN where no seed recorded it."""
    optimizer = optimizer or metrics.optimizers(experiment)[0]
    columns: list[np.ndarray | float] = []
    for index in indices:
        try:
            columns.append(metrics.value(experiment, metric, optimizer, step, index))
        except NotRecordedError:  # a threshold that no seed reached
            columns.append(np.nan)
    return np.stack(np.broadcast_arrays(*columns, np.empty(1))[:-1], axis=1)


def _errors(metrics: Metrics, experiments: Experiments, name: str, step: int | None = None) -> np.ndarray:
    return _values(metrics, name, "error", experiments[name].settings.numbers, step)


def _scores(metrics: Metrics, experiments: Experiments, name: str, step: int | None = None) -> np.ndarray:
    return _values(metrics, name, "attention", ((k, k) for k in experiments[name].settings.numbers), step)


def _epochs(metrics: Metrics, experiments: Experiments, name: str, event: str) -> np.ndarray:
    return _values(metrics, name, event, experiments[name].settings.numbers)


@CLAIMS("icl.model.attn_sum")
def attention_sums(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest deviation of sum_m Attn_m from 1, over all queries and recorded epochs."""
    largest = []
    for name in SCENARIOS:
        optimizer, numbers = metrics.optimizers(name)[0], experiments[name].settings.numbers
        for k in numbers:
            parts = [metrics.curve(name, "attention", optimizer, (m, k)).values for m in numbers]
            largest.append(np.abs(np.sum(parts, axis=0) - 1).max(axis=1))
    return np.max(largest, axis=0)


@CLAIMS("icl.model.drifts")
def drift_error(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest difference between the closed drifts and autograd, in the course of training."""
    return np.concatenate([_values(metrics, name, "drift_error").ravel() for name in SCENARIOS])


@CLAIMS("icl.model.closed_loss")
def closed_loss(metrics: Metrics, experiments: Experiments) -> float:
    """The largest difference between L_k and the sampled squared error, in the course of training."""
    return float(np.nanmax([_values(metrics, name, "closed_loss_error") for name in SCENARIOS]))


@CLAIMS("icl.fig2.start_balanced")
def start_balanced(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """L_k(0) of every feature and seed."""
    return _errors(metrics, experiments, "balanced", step=0).ravel()


@CLAIMS("icl.fig2.start_imbalanced")
def start_imbalanced(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Distance of L_k(0) from the formula's value, the largest of each seed."""
    settings = experiments["imbalanced"].settings
    expected = initial_errors(np.asarray(settings.distribution), settings.context_length)
    return np.abs(_errors(metrics, experiments, "imbalanced", step=0) - expected).max(axis=1)


@CLAIMS("icl.fig3.start")
def start_attention(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Distance of Attn_k(0) from p_k, the largest of each seed."""
    return np.concatenate(
        [
            np.abs(_scores(metrics, experiments, name, step=0) - experiments[name].settings.distribution).max(axis=1)
            for name in SCENARIOS
        ]
    )


@CLAIMS("icl.fig2.balanced_end")
def balanced_end(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest L_k at the last epoch."""
    return _errors(metrics, experiments, "balanced").max(axis=1)


@CLAIMS("icl.fig2.balanced_together")
def balanced_together(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The last over the first feature's epoch of convergence."""
    epochs = _epochs(metrics, experiments, "balanced", "converged")
    return epochs.max(axis=1) / epochs.min(axis=1)


@CLAIMS("icl.fig2.stagewise")
def stagewise(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Whether the dominant feature converges before every other one."""
    return (_delay(metrics, experiments, "converged") > 1).astype(float)


@CLAIMS("icl.fig2.stage_ratio")
def stage_ratio(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The first under-represented feature's epoch of convergence over the dominant feature's."""
    return _delay(metrics, experiments, "converged")


def _delay(metrics: Metrics, experiments: Experiments, event: str) -> np.ndarray:
    """The first under-represented feature's epoch over the dominant one's; infinite if only the latter gets there."""
    epochs = _epochs(metrics, experiments, "imbalanced", event)
    return np.nan_to_num(epochs[:, 1:], nan=np.inf).min(axis=1) / epochs[:, 0]


@CLAIMS("icl.fig2.imbalanced_end")
def imbalanced_end(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest L_k at the last epoch."""
    return _errors(metrics, experiments, "imbalanced").max(axis=1)


@CLAIMS("icl.fig3.concentration")
def concentration(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The smallest Attn_k at the last epoch."""
    return np.concatenate([_scores(metrics, experiments, name).min(axis=1) for name in SCENARIOS])


@CLAIMS("icl.fig3.order")
def order(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The first under-represented feature's epoch of concentration over the dominant feature's."""
    return _delay(metrics, experiments, "concentrated")


@CLAIMS("icl.fig3.dominant_released")
def dominant_released(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest Attn_1 given another query at the last epoch."""
    others = experiments["imbalanced"].settings.numbers[1:]
    return _values(metrics, "imbalanced", "attention", ((1, k) for k in others)).max(axis=1)


@CLAIMS("icl.fig1.phase_order")
def phase_order(metrics: Metrics, experiments: Populations) -> float:
    """The largest relative difference of the events' times from the derived ones; infinite if their order differs."""
    column = [("rare", 160)]
    times = np.array([_values(metrics, "population", f"time_{event}", column)[0, 0] for event in PHASE_TIMES])
    expected = np.array(list(PHASE_TIMES.values()))
    return np.inf if (np.diff(times) <= 0).any() else float(np.abs(times / expected - 1).max())


@CLAIMS("icl.fig1.dominant_falls_first")
def dominant_falls_first(metrics: Metrics, experiments: Populations) -> float:
    """Whether |beta_{k,1}| is the largest drift at every snapshot before the drifts cross."""
    population = experiments["population"]
    column = "rare", population.settings.phases_of
    optimizer = metrics.optimizers("population")[0]
    drift = {c: metrics.curve("population", "drift", optimizer, (*column, c)) for c in CLASSES}
    times = drift["target"].steps * population.optimizers[optimizer].hyperparameters["lr"]
    early = times < _values(metrics, "population", "time_crossing", [column])[0, 0]
    sizes = {c: np.abs(curve.values[0, early]) for c, curve in drift.items()}
    return float(early.any() and (sizes["dominant"] > np.maximum(sizes["target"], sizes["other"])).all())


@CLAIMS("icl.theory.quadratic")
def quadratic(metrics: Metrics, experiments: Populations) -> np.ndarray:
    """The local exponents of the time to A_k = log(K)/2 for the doublings of K from 80 to 320."""
    counts = [c for c in experiments["population"].settings.feature_counts if 80 <= c <= 320]
    if len(counts) < 2:
        return np.array([np.nan])
    exponents = []
    for query in ("balanced", "rare"):
        times = _values(metrics, "population", "time_half_log", ((query, c) for c in counts))[0]
        exponents.append(np.diff(np.log(times)) / np.diff(np.log(counts)))
    return np.concatenate(exponents)


@CLAIMS("icl.theory.dominant_k_free")
def dominant_k_free(metrics: Metrics, experiments: Populations) -> float:
    """The dominant feature's largest over smallest time of convergence among all K, from the finest steps."""
    population = experiments["population"]
    columns = [("dominant", c) for c in population.settings.feature_counts]
    times = _values(metrics, "population", "time_error", columns, optimizer=finest(population).label)[0]
    return float(times.max() / times.min())


@CLAIMS("icl.trap.basis")
def trap_basis(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest Attn_k at the last epoch, with features along the axes."""
    return _scores(metrics, experiments, "basis").max(axis=1)


@CLAIMS("icl.trap.plain_gd")
def trap_plain_gd(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest A_k at the last epoch of plain gradient descent."""
    numbers = experiments["balanced"].settings.numbers
    return _values(metrics, "balanced", "target_logit", numbers, optimizer="gd").max(axis=1)
