"""Full-batch training of the merged key-query matrix from zero (docs/papers/icl.md, sections 5 and 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.icl.formulas import drifts
from workflow.lib.papers.icl.prompts.model import Evaluation, TrainingPrompts, population_loss
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Index, Trace


def train(experiment: Experiment[Prompts], optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:
    """Train all seeds at once, stacked along the leading dimension; one step is one epoch.

    Q itself is kept and moved, because Adam's path depends on its entries and not on the logits alone.

    Returns:
        The trace holds, at the recorded epochs, the training `loss`, `training_error` and `training_attention` at
        index k (means over the training prompts with query v_k), and `largest_entry`, the largest |Q_ij|;
        `drift_error` (largest difference of autograd and the closed drifts, early on), and `diverged_at` for a
        seed that did. The parameters are `logits` (seeds, recorded, K, K), rows for keys, and the final `key_query`
        (seeds, d, d).
    """
    settings = experiment.settings
    prompts = TrainingPrompts(data, settings.mask_query)
    key_query = torch.zeros(len(data), settings.dimension, settings.dimension, dtype=torch.float64)
    steps = optimizer.build([key_query], stacked=True)
    wanted = set(settings.recorded)
    kept: list[Evaluation] = []
    look = False

    def closure() -> torch.Tensor:
        nonlocal look
        loss, key_query.grad, seen = prompts.evaluate(key_query, look)
        if seen is not None:
            kept.append(seen)
            look = False  # at the start of the epoch alone; some rules look further
        return loss

    for epoch in range(settings.epochs + 1):
        look = epoch in wanted
        if epoch < settings.epochs:
            steps.step(closure)  # type: ignore[arg-type]
        else:
            closure()
    logits = torch.stack([now.logits for now in kept], dim=1).numpy()
    return Run(_trace(settings, prompts, kept, logits, data), {"logits": logits, "key_query": key_query.numpy()})


def _trace(
    settings: Prompts,
    prompts: TrainingPrompts,
    kept: Sequence[Evaluation],
    logits: np.ndarray,
    data: Mapping[int, Arrays],
) -> Trace:
    recorded = settings.recorded
    finite = np.logical_and.accumulate(np.isfinite(logits).all((2, 3)), axis=1)
    trace = Trace(data)

    def record(metric: str, values: Sequence[torch.Tensor], index: Index = "") -> None:
        trace.record(metric, recorded, np.where(finite, torch.stack(list(values), dim=1).numpy(), np.nan), index)

    record("loss", [now.loss for now in kept])
    record("largest_entry", [now.largest_entry for now in kept])
    errors = [prompts.mean_per_query(now.residual.square() / 2) for now in kept]
    attention = [prompts.mean_per_query(now.on_target) for now in kept]
    for column, k in enumerate(settings.numbers):
        record("training_error", [values[:, column] for values in errors], k)
        record("training_attention", [values[:, column] for values in attention], k)
    if not finite.all():
        first = [np.nan if row.all() else recorded[int(row.argmin())] for row in finite]
        trace.record("diverged_at", 0, first)
    checks = [
        drift_error(s, block["fresh_counts"], settings.distribution)
        for s, block in zip(logits[:, settings.checked_at], data.values(), strict=True)
    ]
    trace.record("drift_error", recorded[settings.checked_at], checks)
    return trace


def drift_error(logits: np.ndarray, counts: np.ndarray, probabilities: tuple[float, ...]) -> float:
    """The largest difference between the closed drifts and minus the autograd gradient of the population loss in S.

    Args:
        logits: shape (K, K), rows for keys.
        counts: shape (R, K).
        probabilities: p_k.
    """
    s = torch.from_numpy(logits.copy()).requires_grad_()
    loss = population_loss(s, torch.from_numpy(counts.astype(np.float64)), torch.tensor(probabilities, dtype=s.dtype))
    (gradient,) = torch.autograd.grad(loss, s)
    return float(np.abs(gradient.numpy() + drifts(logits, counts, np.asarray(probabilities))).max())
