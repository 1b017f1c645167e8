"""Training with any optimizer, one seed after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from workflow.lib.contract import Job, Run
from workflow.lib.files import Arrays
from workflow.lib.papers.margin.settings import Separable
from workflow.lib.plan.model import Experiment
from workflow.lib.plan.optimizer import Optimizer
from workflow.lib.runs import Trace


def train(experiment: Experiment[Separable], optimizer: Optimizer, data: Mapping[int, Arrays], job: Job) -> Run:
    """Minimise the mean logistic loss from w = 0.

    Returns:
        The trace holds `loss` at every step; the parameters are `weights` of shape (seeds, steps + 1, dimension).
    """
    losses, weights = [], []
    for arrays in data.values():
        signed = torch.from_numpy(arrays["signed"])
        w = torch.zeros(signed.shape[1], dtype=torch.float64, requires_grad=True)
        rule = optimizer.build([w])

        def closure(signed: torch.Tensor = signed, w: torch.Tensor = w) -> torch.Tensor:
            w.grad = None
            loss = torch.nn.functional.softplus(-signed @ w).mean()
            loss.backward()
            return loss

        path, curve = [w.detach().clone()], [closure().item()]
        for _ in range(experiment.settings.steps):
            rule.step(closure)
            path.append(w.detach().clone())
            curve.append(closure().item())
        weights.append(torch.stack(path).numpy())
        losses.append(curve)
    trace = Trace(data)
    trace.record_run({"loss": np.array(losses)})
    return Run(trace, {"weights": np.stack(weights)})
