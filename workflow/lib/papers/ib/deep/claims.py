"""The claims of the deep experiments (docs/papers/ib.md, section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.ib.deep.settings import Language, Vision
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics, NotRecordedError

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Vision | Language]]

COMPARED = ("sgd", "sngd", "sps", "adam")
FIGURES = {"fig1": "bert_mnli", "fig4": "bert_civil_comments", "fig6": "vit_mnist", "fig7": "vit_cifar10"}

# What the paper's rows of settings say (docs/papers/ib.md, section 5.3), and the ViT's besides. The numbers stand in
# the YAML alone, tagged `paper`.
ROW = ("batch_size", "sgd.lr", "sngd.lr", "sngd.eta_max", "sps.eta_max", "adam.lr")
SHAPE = ("patch", "depth", "heads", "mlp")


def diverged_at(metrics: Metrics, experiment: str, label: str) -> np.ndarray:
    """The iteration at which each seed diverged, NaN for those that did not, shape (seeds,)."""
    try:
        return metrics.value(experiment, "diverged_at", label)
    except NotRecordedError:  # recorded only where a seed diverged
        return np.full(len(metrics.curve(experiment, "train_loss", label).seeds), np.nan)


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
        """Whether every value of the row is still the one that was read in the paper."""
        experiment = experiments[FIGURES[figure]]
        rules = {label: optimizer.rule for label, optimizer in experiment.optimizers.items()}
        sources = {name: setting.source for name, setting in experiment.sourced()}
        row = ROW + (SHAPE if isinstance(experiment.settings, Vision) else ())
        compared = all(rules.get(label) == label for label in COMPARED)
        return float(compared and all(sources.get(name) == "paper" for name in row))

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
