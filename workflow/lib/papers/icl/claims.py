"""The measured side of the ledger (docs/papers/icl.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.icl.formulas import initial_errors
from workflow.lib.papers.icl.population.data import QUERIES
from workflow.lib.papers.icl.population.metrics import CLASSES, PLATEAU, finest, pace, waits
from workflow.lib.papers.icl.settings import Population, PopulationOptions, Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Index, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Prompts]]
Populations = Mapping[str, Experiment[Population, PopulationOptions]]

SCENARIOS = ("balanced", "imbalanced")
TEN = ("balanced_ten", "imbalanced_ten")
# The entries that claims are about: the figures' rule on prompts, and the theory's on the population loss.
ADAM, GD = "adam", "gd"
# Times of figure 1's events at K = 160 and p_1 = 1/2, in units of step size times steps (derived, section 7.3).
PHASE_TIMES = {"crossing": 23087.0, "half_log": 54429.0, "log": 61648.0, "error": 74119.0}
# Powers of K, each times log K, that bound the lengths of a rare feature's phases (recalled, section 7.3).
PHASE_POWERS = {"crossing": 1.98, "half_log": 2.0, "log": 1.5, "error": 1.0}


def _values(
    metrics: Metrics,
    experiment: str,
    metric: str,
    indices: Iterable[Index] = ("",),
    step: int | None = None,
    optimizer: str = ADAM,
) -> np.ndarray:
    """A metric of an optimizer, shape (seeds, indices); NaN where no seed recorded it."""
    if optimizer not in metrics.optimizers(experiment):
        raise NotRecordedError(f"experiment {experiment!r}: no optimizer is labelled {optimizer!r}")
    columns: list[np.ndarray | float] = []
    for index in indices:
        try:
            columns.append(metrics.value(experiment, metric, optimizer, step, index))
        except NotRecordedError:  # a threshold that no seed reached
            columns.append(np.nan)
    seeds = len(next((column for column in columns if isinstance(column, np.ndarray)), [0.0]))
    return np.stack([np.broadcast_to(column, seeds) for column in columns], axis=1)


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
        numbers = experiments[name].settings.numbers
        for k in numbers:
            parts = [metrics.curve(name, "attention", ADAM, (m, k)).values for m in numbers]
            largest.append(np.abs(np.sum(parts, axis=0) - 1).max(axis=1))
    return np.max(largest, axis=0)


@CLAIMS("icl.model.drifts")
def drift_error(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest difference between the closed drifts and autograd, in the course of training."""
    return np.concatenate([_values(metrics, name, "drift_error").ravel() for name in SCENARIOS])


@CLAIMS("icl.model.closed_loss")
def closed_loss(metrics: Metrics, experiments: Experiments) -> float:
    """The largest difference between L_k and the sampled squared error, in the course of training."""
    # One seed of each block is sampled; where all of a scenario's diverged, nothing is known of it.
    largest = [np.fmax.reduce(_values(metrics, name, "closed_loss_error"), axis=None) for name in SCENARIOS]
    return float(np.max(largest))


@CLAIMS("icl.fig2.start_balanced")
def start_balanced(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Distance of L_k(0) from the formula's value, the largest of each seed."""
    return _start(metrics, experiments, "balanced")


@CLAIMS("icl.fig2.start_imbalanced")
def start_imbalanced(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Distance of L_k(0) from the formula's value, the largest of each seed."""
    return _start(metrics, experiments, "imbalanced")


def _start(metrics: Metrics, experiments: Experiments, name: str) -> np.ndarray:
    settings = experiments[name].settings
    expected = initial_errors(np.asarray(settings.distribution), settings.context_length)
    return np.abs(_errors(metrics, experiments, name, step=0) - expected).max(axis=1)


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
    return _spread(metrics, experiments, "balanced")


def _spread(metrics: Metrics, experiments: Experiments, name: str) -> np.ndarray:
    epochs = _epochs(metrics, experiments, name, "converged")
    return epochs.max(axis=1) / epochs.min(axis=1)


@CLAIMS("icl.fig2.stagewise")
def stagewise(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Whether the dominant feature converges before every other one."""
    return (_delay(metrics, experiments, "imbalanced", "converged") > 1).astype(float)


@CLAIMS("icl.fig2.stage_ratio")
def stage_ratio(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The first under-represented feature's epoch of convergence over the dominant feature's."""
    return _delay(metrics, experiments, "imbalanced", "converged")


@CLAIMS("icl.fig2.stage_ratio_training")
def stage_ratio_training(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The same by the error on the training prompts."""
    return _delay(metrics, experiments, "imbalanced", "training_converged")


def _delay(metrics: Metrics, experiments: Experiments, name: str, event: str) -> np.ndarray:
    """The first under-represented feature's epoch over the dominant one's; infinite if only the latter gets there."""
    epochs = _epochs(metrics, experiments, name, event)
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
    return _delay(metrics, experiments, "imbalanced", "concentrated")


@CLAIMS("icl.fig3.dominant_released")
def dominant_released(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest Attn_1 given another query at the last epoch."""
    others = experiments["imbalanced"].settings.numbers[1:]
    return _values(metrics, "imbalanced", "attention", ((1, k) for k in others)).max(axis=1)


@CLAIMS("icl.fig3.moves_at_once")
def moves_at_once(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Mean Attn_k over its start, when the mean Attn_1 given v_k (k >= 2) has lost half of its start."""
    others = experiments["imbalanced"].settings.numbers[1:]

    def mean(index: Iterable[Index]) -> np.ndarray:
        return np.mean([metrics.curve("imbalanced", "attention", ADAM, i).values for i in index], axis=0)

    released, gained = mean((1, k) for k in others), mean((k, k) for k in others)
    fallen = released <= released[:, :1] / 2
    at = fallen.argmax(axis=1)
    grown = gained[np.arange(len(at)), at] / gained[:, 0]
    return np.where(fallen.any(axis=1), grown, np.nan)


@CLAIMS("icl.ten.end")
def ten_end(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest L_k at the last epoch, ten features."""
    return np.concatenate([_errors(metrics, experiments, name).max(axis=1) for name in TEN])


@CLAIMS("icl.ten.balanced_together")
def ten_balanced_together(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The last over the first feature's epoch of convergence, ten features."""
    return _spread(metrics, experiments, "balanced_ten")


@CLAIMS("icl.ten.stage_ratio")
def ten_stage_ratio(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The first under-represented feature's epoch of convergence over the dominant feature's, ten features."""
    return _delay(metrics, experiments, "imbalanced_ten", "converged")


@CLAIMS("icl.ten.concentration")
def ten_concentration(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The smallest Attn_k at the last epoch, ten features."""
    return np.concatenate([_scores(metrics, experiments, name).min(axis=1) for name in TEN])


def _times(metrics: Metrics, event: str, columns: Iterable[Index], optimizer: str = GD) -> np.ndarray:
    """When an event came to each column of population descent, shape (columns,); nothing there is random."""
    return _values(metrics, "population", f"time_{event}", columns, optimizer=optimizer)[0]


def _counts(experiments: Populations, first: int, last: int) -> list[int]:
    """The numbers of features from first to last.

    Raises:
        NotRecordedError: there are fewer than two.
    """
    found = [c for c in experiments["population"].settings.feature_counts if first <= c <= last]
    if len(found) < 2:
        raise NotRecordedError(f"fewer than two numbers of features from {first} to {last} were run")
    return found


@CLAIMS("icl.model.population_times")
def population_times(metrics: Metrics, experiments: Populations) -> float:
    """The largest relative difference of the times of figure 1's events from an independent implementation's."""
    times = [_times(metrics, event, [("rare", 160)])[0] for event in PHASE_TIMES]
    return float(np.abs(np.array(times) / list(PHASE_TIMES.values()) - 1).max())


@CLAIMS("icl.fig1.phase_order")
def phase_order(metrics: Metrics, experiments: Populations) -> float:
    """The smallest ratio of a border's time to that of the border before."""
    column = "rare", experiments["population"].settings.phases_of
    times = np.array([_times(metrics, event, [column])[0] for event in PHASE_TIMES])
    return float((times[1:] / times[:-1]).min())


@CLAIMS("icl.fig1.leaders")
def leaders(metrics: Metrics, experiments: Populations) -> float:
    """How far B_{k,1} moves in phase I and A_k in the others, over the next weight's move; the smallest of all."""
    population = experiments["population"]
    column = "rare", population.settings.phases_of
    borders = [0.0, *(_times(metrics, event, [column])[0] for event in PHASE_TIMES)]
    if np.isnan(borders).any():
        return float("nan")
    moves = {}
    for name in CLASSES:
        curve = metrics.curve("population", "logit", GD, (*column, name))
        moves[name] = np.abs(
            np.diff(np.interp(borders, curve.steps * pace(population.optimizers[GD]), curve.values[0]))
        )
    ratios = [
        moves[leader][phase] / max(moves[name][phase] for name in CLASSES if name != leader)
        for phase, leader in enumerate(("dominant", "target", "target", "target"))
    ]
    return float(min(ratios))


@CLAIMS("icl.theory.quadratic")
def quadratic(metrics: Metrics, experiments: Populations) -> np.ndarray:
    """The local exponents of the time to A_k = log(K)/2 for the doublings of K from 80 to 320."""
    counts = _counts(experiments, 80, 320)
    times = np.stack([_times(metrics, "half_log", [(query, c) for c in counts]) for query in ("balanced", "rare")])
    return np.ravel(np.diff(np.log(times)) / np.diff(np.log(counts)))


def _powers(metrics: Metrics, counts: list[int], query: str, events: Iterable[str]) -> np.ndarray:
    """The exponent in K of the length of each phase, from the smallest to the largest K; shape (events,)."""
    ends = [counts[0], counts[-1]]
    times = np.array([_times(metrics, event, [(query, c) for c in ends]) for event in events])
    lengths = np.diff(times, axis=0, prepend=0.0)
    return np.asarray(np.diff(np.log(lengths), axis=1)[:, 0] / np.log(ends[1] / ends[0]))


@CLAIMS("icl.theory.phase_bounds")
def phase_bounds(metrics: Metrics, experiments: Populations) -> np.ndarray:
    """How far the exponent of each phase's length exceeds that of the theory's K^a log K, from K = 80 to 320."""
    counts = _counts(experiments, 80, 320)
    logarithm = np.log(np.log(counts[-1]) / np.log(counts[0])) / np.log(counts[-1] / counts[0])
    return _powers(metrics, counts, "rare", PHASE_POWERS) - np.array(list(PHASE_POWERS.values())) - logarithm


@CLAIMS("icl.theory.balanced_phases")
def balanced_phases(metrics: Metrics, experiments: Populations) -> float:
    """The exponent of a balanced feature's first phase, to A_k = log K, less that of its second, to small L_k."""
    first, second = _powers(metrics, _counts(experiments, 80, 320), "balanced", ("log", "error"))
    return float(first - second)


@CLAIMS("icl.theory.dominant_k_free")
def dominant_k_free(metrics: Metrics, experiments: Populations) -> float:
    """The dominant feature's largest over smallest time of convergence from K = 10 on, from the finest steps."""
    columns = [("dominant", c) for c in _counts(experiments, 10, 1_000_000)]
    times = _times(metrics, "error", columns, finest(experiments["population"], GD).label)
    return float(times.max() / times.min())


@CLAIMS("icl.plateau.first")
def first_plateau(metrics: Metrics, experiments: Populations) -> float:
    """The smallest K of which a rare feature waits on a plateau; infinite if none does."""
    counts = experiments["population"].settings.feature_counts
    return min((c for c in counts if waits(metrics, "population", GD, ("rare", c)) > PLATEAU), default=float("inf"))


@CLAIMS("icl.finite.limit")
def finite_limit(metrics: Metrics, experiments: Populations) -> float:
    """The largest difference of Attn_k at N = K^2 from the limit of long prompts, over all queries and times."""
    settings = experiments["finite"].settings
    count, largest = settings.phases_of, 0.0
    for query in QUERIES:
        long, finite = (
            metrics.curve("finite", "attention", GD, (query, count, *length, "target")) for length in ((), (count**2,))
        )
        largest = max(largest, float(np.abs(long.values - finite.values).max()))
    return largest


@CLAIMS("icl.finite.floor")
def finite_floor(metrics: Metrics, experiments: Populations) -> float:
    """A rare feature's last L_k at N = 2 K over 1/2 (1 - p_k)^N, the share of prompts without it."""
    settings = experiments["finite"].settings
    count, length = settings.phases_of, 2 * settings.phases_of
    rare = (1 - settings.dominant_probability) / (count - 1)
    error = metrics.value("finite", "error", GD, index=("rare", count, length))[0]
    return float(error / (0.5 * (1 - rare) ** length))


@CLAIMS("icl.trap.basis")
def trap_basis(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """Attn_k at the last epoch, with features along the axes."""
    return _scores(metrics, experiments, "basis").ravel()


@CLAIMS("icl.trap.large_step")
def trap_large_step(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The smallest Attn_k at the last epoch, with features along the axes and the larger step size."""
    numbers = experiments["basis"].settings.numbers
    return _values(metrics, "basis", "attention", ((k, k) for k in numbers), optimizer="adam_large").min(axis=1)


@CLAIMS("icl.trap.plain_gd")
def trap_plain_gd(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The largest A_k at the last epoch of plain gradient descent."""
    numbers = experiments["balanced"].settings.numbers
    return _values(metrics, "balanced", "target_logit", numbers, optimizer=GD).max(axis=1)
