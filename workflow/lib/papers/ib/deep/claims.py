"""The claims of the deep experiments (specification, section 7, claims 22 to 24)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.experiments import Experiment
from workflow.lib.papers import Measured
from workflow.lib.papers.ib.deep.figures import COMPARED, diverged_at
from workflow.lib.papers.ib.deep.settings import Deep
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment]

FIGURES = {"fig1": "bert_mnli", "fig4": "bert_civil_comments", "fig6": "vit_mnist", "fig7": "vit_cifar10"}

# Section 5.4: batch size, step sizes of SGD, SNGD and Adam, eta_max of SPS and SNGD.
TEXT_ROW = {"batch_size": 32, "sgd": 1e-3, "sngd": 0.01, "adam": 2e-5, "eta_max": 0.1}
VIT_ROW = {"batch_size": 100, "sgd": 0.1, "sngd": 0.001, "adam": 0.001, "eta_max": 0.01}
VIT_SHAPE = {"patch": 4, "depth": 2, "heads": 8, "mlp": 128}
ROWS = {
    "fig1": (TEXT_ROW, {}),
    "fig4": (TEXT_ROW, {}),
    "fig6": (VIT_ROW, VIT_SHAPE),
    "fig7": (VIT_ROW, VIT_SHAPE),
}


def _lang_faster(figure: str) -> Measured:
    def lang_faster(metrics: Metrics, experiments: Experiments) -> float:
        """The lower of SNGD's and SPS's last train loss, less SGD's; means of seeds."""
        sgd, sngd, sps = (_last_loss(metrics, FIGURES[figure], label) for label in ("sgd", "sngd", "sps"))
        # Infinite against infinite is no number, and so in no band.
        return float(np.subtract(min(sngd, sps), sgd)) if np.isfinite(min(sngd, sps)) else np.nan

    return lang_faster


def _last_loss(metrics: Metrics, experiment: str, label: str) -> float:
    """The smoothed train loss at the last iteration, mean of seeds; infinite if a seed diverged."""
    if _diverged(metrics, experiment, label):
        return np.inf
    return float(metrics.value(experiment, "train_loss", label).mean())


def _diverged(metrics: Metrics, experiment: str, label: str) -> bool:
    return bool(np.isfinite(diverged_at(metrics, experiment, label)).any())


def _setting(figure: str) -> Measured:
    def setting(metrics: Metrics, experiments: Experiments) -> float:
        """Whether the configuration has the literal row."""
        row, shape = ROWS[figure]
        experiment = experiments[FIGURES[figure]]
        rules = experiment.optimizers
        if not set(COMPARED) <= set(rules) or any(rules[label].rule != label for label in COMPARED):
            return 0.0
        found = {label: rules[label].hyperparameters["step_size"] for label in ("sgd", "sngd", "adam")}
        assert isinstance(experiment.settings, Deep)
        found["batch_size"] = experiment.settings.batch_size
        caps = {rules[label].hyperparameters["eta_max"] for label in ("sngd", "sps")}
        same_shape = all(getattr(experiment.settings, key) == value for key, value in shape.items())
        return float(
            found == {k: v for k, v in row.items() if k != "eta_max"} and caps == {row["eta_max"]} and same_shape
        )

    return setting


def _complete(figure: str) -> Measured:
    def complete(metrics: Metrics, experiments: Experiments) -> np.ndarray:
        """Adam's last smoothed train loss over its first, per seed; NaN unless all four curves are finite."""
        experiment = FIGURES[figure]
        adam = metrics.curve(experiment, "train_loss", "adam").values
        diverged = any(_diverged(metrics, experiment, label) for label in COMPARED)
        return np.full(len(adam), np.nan) if diverged else adam[:, -1] / adam[:, 0]

    return complete


for _figure in FIGURES:
    CLAIMS(f"ib.{_figure}.setting")(_setting(_figure))
for _figure in ("fig1", "fig4"):
    CLAIMS(f"ib.{_figure}.lang_faster")(_lang_faster(_figure))
for _figure in ("fig6", "fig7"):
    CLAIMS(f"ib.{_figure}.complete")(_complete(_figure))
