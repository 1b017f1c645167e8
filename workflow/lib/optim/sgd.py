"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from workflow.lib.optim._adaptive import check, direction
from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._norms import with_gradients
from workflow.lib.settings import Positive, Probability


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent: w <- w - step_size v, v <- momentum v + g.

    Args:
        params: tensors or parameter groups, stacked over runs or not (the rule acts entry by entry).
        step_size: factor of the direction.
        momentum: share of the previous direction that is kept.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        momentum: Probability = 0.0,
        stacked: bool = False,
    ) -> None:
        check(
            step_size=(step_size > 0, "a positive number", step_size),
            momentum=(0 <= momentum <= 1, "a number from 0 to 1", momentum),
        )
        super().__init__(params, {"step_size": step_size, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for p, gradient in with_gradients(group):
                p.sub_(direction(self.state[p], gradient, group["momentum"]), alpha=group["step_size"])
        return loss
