"""Full-batch training of the merged key-query matrix from zero (specification, section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from workflow.lib.experiments import Experiment, Optimizer
from workflow.lib.files import Arrays
from workflow.lib.papers import Job
from workflow.lib.papers.icl.formulas import drifts
from workflow.lib.papers.icl.prompts.model import Evaluation, TrainingPrompts, population_loss
from workflow.lib.papers.icl.settings import Prompts
from workflow.lib.runs import Run, Trace


def train(experiment: Experiment, optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:
    """Train all seeds at once, stacked along the leading dimension; one step is one epoch.

    Q itself is kept and moved, because Adam's path depends on its entries and not on the logits alone.

    Returns:
        The trace holds, at the recorded epochs, the training `loss`, `training_error_{k}` and `training_attention_{k}`
        (means over the training prompts with query v_k), and `largest_entry`, the largest |Q_ij|; `drift_error`
        (largest difference of autograd and the closed drifts, early on), and `diverged_at` for a seed that
        did. The parameters are `logits` (seeds, recorded, K, K), rows for keys, and the final `key_query`
        (seeds, d, d).
    """
    settings = experiment.settings
    assert isinstance(settings, Prompts)
    prompts = TrainingPrompts(data, settings.mask_query)
    key_query = torch.zeros(len(data), settings.dimension, settings.dimension, dtype=torch.float64)
    steps = optimizer.build([key_query], stacked=True)
    recorder = _Recorder(prompts, settings.recorded)

    evaluation: Evaluation | None = None

    def closure() -> torch.Tensor:
        nonlocal evaluation
        evaluation = prompts.evaluate(key_query)
        key_query.grad = evaluation.gradient
        recorder.see(epoch, key_query, evaluation)
        return evaluation.loss

    for epoch in range(settings.epochs):
        steps.step(closure)  # type: ignore[arg-type]
    epoch = settings.epochs
    closure()
    return recorder.run(data, settings)


class _Recorder:
    """Keeps what the trace and the parameters need, at the recorded epochs."""

    def __init__(self, prompts: TrainingPrompts, recorded: list[int]) -> None:
        self._prompts = prompts
        self._recorded = recorded
        self._wanted = set(recorded)
        self._kept: dict[str, list[torch.Tensor]] = {
            name: [] for name in ("loss", "error", "attention", "largest_entry", "logits")
        }
        self._final = torch.empty(0)

    def see(self, epoch: int, key_query: torch.Tensor, now: Evaluation) -> None:
        if epoch not in self._wanted:
            return
        values = {
            "loss": now.loss,
            "error": self._prompts.mean_per_query(now.residual.square() / 2),
            "attention": self._prompts.mean_per_query(now.on_target),
            "largest_entry": key_query.abs().amax((1, 2)),
            "logits": now.logits,
        }
        for name, value in values.items():
            self._kept[name].append(value.clone())
        self._final = key_query

    def run(self, data: Mapping[int, Arrays], settings: Prompts) -> Run:
        kept = {name: torch.stack(values, dim=1).numpy() for name, values in self._kept.items()}
        finite = np.isfinite(kept["logits"]).all((2, 3)) & np.isfinite(kept["loss"])
        trace = Trace(data)

        def record(metric: str, values: np.ndarray) -> None:
            trace.record(metric, self._recorded, np.where(finite, values, np.nan))

        record("loss", kept["loss"])
        record("largest_entry", kept["largest_entry"])
        for k in range(settings.feature_count):
            record(f"training_error_{k + 1}", kept["error"][..., k])
            record(f"training_attention_{k + 1}", kept["attention"][..., k])
        first = [np.nan if fine.all() else self._recorded[int(fine.argmin())] for fine in finite]
        trace.record("diverged_at", settings.epochs, first)
        middle = len(self._recorded) // 8
        checks = [
            drift_error(logits[middle], block["fresh_counts"], settings.distribution)
            for logits, block in zip(kept["logits"], data.values(), strict=True)
        ]
        trace.record("drift_error", self._recorded[middle], checks)
        return Run(trace, {"logits": kept["logits"], "key_query": self._final.numpy()})


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
