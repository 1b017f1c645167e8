"""How far the direction is from the one with the largest margin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workflow.lib.contract import Run
from workflow.lib.files import Arrays
from workflow.lib.max_margin import max_margin
from workflow.lib.papers.margin.settings import Separable
from workflow.lib.plan.model import Experiment
from workflow.lib.runs import Trace


def measure(experiment: Experiment[Separable], data: Mapping[int, Arrays], runs: Mapping[str, Run]) -> dict[str, Trace]:
    """Add `misalignment`, 1 - cos between w and the max-margin solution, from step 1 on."""
    best = np.stack([max_margin(arrays["signed"]).w for arrays in data.values()])
    best /= np.linalg.norm(best, axis=1, keepdims=True)
    measured = {}
    for label, run in runs.items():
        w = run.parameters["weights"][:, 1:]
        cosine = np.einsum("std,sd->st", w, best) / np.linalg.norm(w, axis=2)
        trace = Trace(data)
        trace.update(run.trace)
        trace.record("misalignment", np.arange(1, w.shape[1] + 1), 1 - cosine)
        measured[label] = trace
    return measured
