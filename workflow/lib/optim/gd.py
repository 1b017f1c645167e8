"""Gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._norms import with_gradients
from workflow.lib.settings import Positive


class GD(torch.optim.Optimizer):
    """Gradient descent: w <- w - step_size g.

    Args:
        params: tensors or parameter groups, stacked over runs or not (the rule acts entry by entry).
        step_size: factor of the gradient.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(self, params: Iterable[torch.Tensor], *, step_size: Positive, stacked: bool = False) -> None:
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, found {step_size}")
        super().__init__(params, {"step_size": step_size})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p, gradient in with_gradients(group):
                p.sub_(gradient, alpha=group["step_size"])
        return loss
