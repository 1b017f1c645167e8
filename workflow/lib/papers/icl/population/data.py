"""The columns of the logit matrix that population descent has to follow (docs/papers/icl.md, section 6.4)."""

from __future__ import annotations

import numpy as np

from workflow.lib.files import Arrays
from workflow.lib.papers.icl.settings import Population
from workflow.lib.plan.model import Experiment
from workflow.lib.streams import Seed

# The query features that differ: v_1 and v_k (k >= 2) of the imbalanced scenario, any v_k of the balanced one.
QUERIES = ("dominant", "rare", "balanced")


def generate(experiment: Experiment[Population], seed: Seed) -> Arrays:
    """One column of S for each number of features K, prompt length N and query of `QUERIES`; nothing is random.

    From S = 0, keys that the data do not tell apart keep equal logits. So a column has three different entries, its
    classes: the query's own feature (A_k), the dominant feature (B_{k,1}) and the other ones (B_{k,n}).

    Returns:
        feature_count: (columns,), the K of each column; columns run through `QUERIES` for each K and N.
        context_length: (columns,), N, or 0 for prompts of any length.
        probability: (columns, 3), p of a feature of each class, 0 for a class without a feature.
        multiplicity: (columns, 3), how many features a class has.
        columns: (columns,), how many columns of the K x K matrix are like this one.
    """
    settings = experiment.settings
    arrays: dict[str, list[object]] = {
        name: [] for name in ("feature_count", "context_length", "probability", "multiplicity", "columns")
    }
    for count, length in settings.systems:
        dominant = settings.dominant_probability
        rare, equal = (1 - dominant) / (count - 1), 1 / count
        arrays["feature_count"] += [count] * len(QUERIES)
        arrays["context_length"] += [length] * len(QUERIES)
        arrays["probability"] += [[dominant, 0, rare], [rare, dominant, rare], [equal, equal, equal]]
        arrays["multiplicity"] += [[1, 0, count - 1], [1, 1, count - 2], [1, 1, count - 2]]
        arrays["columns"] += [1, count - 1, count]
    whole = {name: np.array(arrays[name]) for name in ("feature_count", "context_length", "columns")}
    return whole | {name: np.array(arrays[name], dtype=np.float64) for name in ("probability", "multiplicity")}
