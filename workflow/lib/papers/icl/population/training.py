"""Descent on the population loss, column by column (docs/papers/icl.md, sections 5 and 6.4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from workflow.lib.contract import Job, Run
from workflow.lib.errors import UserError
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.population.model import column, drifts
from workflow.lib.papers.icl.settings import Population, PopulationOptions
from workflow.lib.plan.model import Experiment, Optimizer
from workflow.lib.runs import Trace

# Rules that move each entry by its own gradient. Others would see one entry where a column has many equal ones.
ENTRYWISE = ("adam", "gd")


def train(
    experiment: Experiment[Population, PopulationOptions],
    optimizer: Optimizer[PopulationOptions],
    data: Mapping[int, Arrays],
    job: Job,
) -> Run:
    """Run all columns of all seeds at once from S = 0.

    The columns of S decouple, as the weights for query v_k depend only on prompts with that query, so each column is
    a run of its own.

    Returns:
        The trace holds `mean_error`, the mean of the columns' L_k, at the snapshots. The parameters are `steps`
        (seeds, snapshots) and `logits` (seeds, snapshots, columns, 3); snapshots are spaced geometrically.

    Raises:
        UserError: the optimizer couples entries, which the shared entries of a column do not allow.
    """
    settings, options = experiment.settings, optimizer.options
    if optimizer.rule not in ENTRYWISE:
        raise UserError(
            f"{experiment.paper}.experiments.{experiment.name}.optimizers.{optimizer.label}: found the rule "
            f"{optimizer.rule!r}, expected one that acts entry by entry: {', '.join(ENTRYWISE)}"
        )
    probability, multiplicity = (
        np.concatenate([block[name] for block in data.values()]).T for name in ("probability", "multiplicity")
    )
    logits = torch.zeros(probability.T.shape, dtype=torch.float64)
    logits.grad = torch.zeros_like(logits)
    # The same memory with the classes first: on arrays this small, NumPy's calls cost a third of torch's.
    at, gradient = logits.numpy().T, logits.grad.numpy().T
    steps = optimizer.build([logits], stacked=True)
    kept = snapshot_steps(options.iterations, settings.snapshots)
    wanted = set(kept.tolist())
    snapshots, errors = [], []

    for step in range(options.iterations + 1):
        seen = column(at, probability, multiplicity)
        if step in wanted:
            snapshots.append(at.T.copy())
            errors.append(seen.error)
        np.negative(drifts(seen, probability), out=gradient)
        if step < options.iterations:
            steps.step()
    seeds = len(data)
    trace = Trace(data)
    trace.record("mean_error", kept, np.reshape(errors, (len(kept), seeds, -1)).mean(axis=2).T)
    found = np.reshape(snapshots, (len(kept), seeds, -1, 3)).swapaxes(0, 1)
    return Run(trace, {"steps": np.tile(kept, (seeds, 1)), "logits": found})


def snapshot_steps(iterations: int, count: int) -> np.ndarray:
    """0 and at most `count` steps up to the last, each longer than the one before by the same factor or by one."""
    return np.unique(np.concatenate([[0], np.geomspace(1, iterations, count).round().astype(np.int64)]))
