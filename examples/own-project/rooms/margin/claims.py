"""The measured side of the ledger."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Measured
from workflow.lib.papers.margin.settings import Separable
from workflow.lib.plan.model import Experiment
from workflow.lib.registry import Registry
from workflow.lib.runs import Metrics

CLAIMS: Registry[Measured] = Registry()
Experiments = Mapping[str, Experiment[Separable]]


@CLAIMS("margin.fig1.direction")
def direction(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The last misalignment of gradient descent over that at its first step, shape (seeds,)."""
    curve = metrics.curve("separable", "misalignment", "gd")
    return curve.final() / curve.at(1)


@CLAIMS("margin.fig1.normalised_is_faster")
def normalised_is_faster(metrics: Metrics, experiments: Experiments) -> np.ndarray:
    """The last misalignment of normalised over that of plain gradient descent, shape (seeds,)."""
    return metrics.value("separable", "misalignment", "ngd") / metrics.value("separable", "misalignment", "gd")
