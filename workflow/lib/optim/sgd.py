"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from workflow.lib.settings import NonNegative, Positive, Probability


class SGD(torch.optim.SGD):
    """SGD as torch implements it, under this library's names: w <- w - step_size v, v <- momentum v + g.

    The rule acts entry by entry, so stacked runs need nothing special.

    Args:
        params: tensors or parameter groups, stacked over runs or not.
        step_size: learning rate.
        momentum: share of the previous direction that is kept.
        weight_decay: factor of an added quadratic penalty.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        momentum: Probability = 0.0,
        weight_decay: NonNegative = 0.0,
        stacked: bool = False,
    ) -> None:
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, found {step_size}")
        super().__init__(params, lr=step_size, momentum=momentum, weight_decay=weight_decay)
