"""The claims of the deep experiments (docs/papers/ib.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.ib.deep.settings import Language, Vision
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Curve, Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Vision | Language]]

COMPARED = ("sgd", "sngd", "sps", "adam")
LONGER = "sgd_longer"  # SGD with steps about as long as SNGD's
FIGURES = {"fig1": "bert_mnli", "fig4": "bert_civil_comments", "fig6": "vit_mnist", "fig7": "vit_cifar10"}

# The paper's rows (docs/papers/ib.md, section 5.3) once more: the YAML is held against them by what was trained.
TEXT_ROW = {"batch_size": 32, "sgd": 1e-3, "sngd": 0.01, "eta_max": 0.1, "adam": 2e-5}
VIT_ROW = {"batch_size": 100, "sgd": 0.1, "sngd": 0.001, "eta_max": 0.01, "adam": 0.001}
ROWS = {"fig1": TEXT_ROW, "fig4": TEXT_ROW, "fig6": VIT_ROW, "fig7": VIT_ROW}


def diverged_at(metrics: Metrics, experiment: str, label: str) -> np.ndarray:
    """The iteration at which each seed diverged, NaN for those that did not, shape (seeds,)."""
    try:
        return metrics.value(experiment, "diverged_at", label)
    except NotRecordedError:  # recorded only where a seed diverged
        return np.full(len(metrics.curve(experiment, "train_loss", label).seeds), np.nan)


def loss_at_length(metrics: Metrics, experiment: str, label: str, lengths: np.ndarray) -> np.ndarray:
    """The train loss where a run's path has the given lengths, on a line between records.

    Args:
        metrics: of the paper.
        experiment: its name.
        label: of the optimizer.
        lengths: shape (seeds, n) or (n,).

    Returns:
        Shape (seeds, n); NaN before the first and after the last record.
    """
    walked, loss = (metrics.curve(experiment, name, label).values for name in ("path_length", "train_loss"))
    wanted = np.broadcast_to(lengths, (len(loss), np.shape(lengths)[-1]))
    found = np.full(wanted.shape, np.nan)
    for row, at, x, y in zip(found, wanted, walked, loss, strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        if known.any():
            row[:] = np.interp(at, x[known], y[known], left=np.nan, right=np.nan)
    return found


def by_length(metrics: Metrics, experiment: str, label: str, points: int = 120) -> Curve:
    """The train loss as a curve over the length of the path, as far as every seed went."""
    walked = metrics.curve(experiment, "path_length", label)
    known = walked.values[:, np.isfinite(walked.values).all(axis=0)]
    if not known.size or not (known[:, 0] > 0).all():
        return Curve(walked.seeds, np.ones(1), np.full((len(walked.seeds), 1), np.nan))
    lengths = np.geomspace(known[:, 0].max(), max(known[:, 0].max(), known[:, -1].min()), points)
    return Curve(walked.seeds, lengths, loss_at_length(metrics, experiment, label, lengths))


def _lang_faster(figure: str) -> Measured:
    def lang_faster(metrics: Metrics, experiments: Experiments) -> float:
        """The lower of SNGD's and SPS's last train loss, less SGD's; means of seeds."""
        sgd, sngd, sps = (_last_loss(metrics, FIGURES[figure], label) for label in ("sgd", "sngd", "sps"))
        # Infinite against infinite is no number, and so in no band.
        return float(np.subtract(min(sngd, sps), sgd)) if np.isfinite(min(sngd, sps)) else np.nan

    return lang_faster


def _lang_order(figure: str) -> Measured:
    def lang_order(metrics: Metrics, experiments: Experiments) -> float:
        """The higher of SNGD's and SPS's last train loss, less SGD's; means of seeds."""
        sgd, sngd, sps = (_last_loss(metrics, FIGURES[figure], label) for label in ("sgd", "sngd", "sps"))
        return float(np.subtract(max(sngd, sps), sgd)) if np.isfinite(max(sngd, sps)) else np.nan

    return lang_order


def _last_loss(metrics: Metrics, experiment: str, label: str) -> float:
    """The smoothed train loss at the last iteration, mean of seeds; infinite if a seed diverged."""
    if _diverged(metrics, experiment, label):
        return np.inf
    return float(metrics.value(experiment, "train_loss", label).mean())


def _diverged(metrics: Metrics, experiment: str, label: str) -> bool:
    return bool(np.isfinite(diverged_at(metrics, experiment, label)).any())


def equal_length(metrics: Metrics, experiment: str, one: str, other: str) -> np.ndarray:
    """The train loss of one optimizer over another's where the shorter of their paths ends, shape (seeds,)."""
    at = np.minimum(*(metrics.value(experiment, "path_length", label) for label in (one, other)))[:, None]
    losses = (loss_at_length(metrics, experiment, label, at)[:, 0] for label in (one, other))
    return np.asarray(np.divide(*losses))


def _equal_length(figure: str) -> Measured:
    def measured(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        """SNGD's train loss over that of SGD with steps about as long, where the shorter path ends."""
        return equal_length(metrics, FIGURES[figure], "sngd", LONGER)

    return measured


def _row(figure: str) -> Measured:
    def row(metrics: Metrics, experiments: Experiments) -> float:
        """The largest relative deviation of the recorded steps and batches from the paper's row."""
        name, told = FIGURES[figure], ROWS[figure]
        examples, batches = (metrics.value(name, key) for key in ("train_examples", "batches_per_epoch"))
        found = [batches / np.ceil(examples / told["batch_size"]) - 1]
        for label in ("sgd", "adam"):
            found.append(metrics.curve(name, "step_size", label).values / told[label] - 1)
        caps = (("sngd", "step_size", "eta_max"), ("sps", "step_size", "eta_max"), ("sngd", "step_length", "sngd"))
        for label, metric, limit in caps:
            found.append(np.maximum(metrics.curve(name, metric, label).values / told[limit] - 1, 0))
        # Each of SNGD's steps has the row's length or the row's cap, so its shares of both add up to 1 at least.
        length, size = (metrics.curve(name, metric, "sngd").values for metric in ("step_length", "step_size"))
        found.append(np.maximum(1 - length / told["sngd"] - size / told["eta_max"], 0))
        return float(np.max([_largest(values) for values in found]))

    return row


def _largest(values: np.ndarray) -> float:
    """The largest size among what was recorded, shape (seeds,) or (seeds, steps); NaN if a seed recorded nothing."""
    sizes = np.abs(values).reshape(len(values), -1)
    return float(np.max(np.fmax.reduce(sizes, axis=1)))


def _leaves_chance(figure: str) -> Measured:
    def leaves_chance(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        """The least test accuracy of the row's optimizers at the end, less the largest class's share, per seed."""
        name = FIGURES[figure]
        last = [metrics.value(name, "test_accuracy", label) for label in COMPARED]
        return np.asarray(np.min(last, axis=0) - metrics.value(name, "largest_class"))

    return leaves_chance


for _figure in FIGURES:
    CLAIMS(f"ib.{_figure}.row")(_row(_figure))
    CLAIMS(f"ib.{_figure}.leaves_chance")(_leaves_chance(_figure))
for _figure in ("fig1", "fig4"):
    CLAIMS(f"ib.{_figure}.lang_faster")(_lang_faster(_figure))
    CLAIMS(f"ib.{_figure}.lang_order")(_lang_order(_figure))
    CLAIMS(f"ib.{_figure}.equal_length")(_equal_length(_figure))
