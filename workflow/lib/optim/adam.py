"""Adam."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from workflow.lib.settings import NonNegative, Positive, Probability


class Adam(torch.optim.Adam):
    """Adam as torch implements it, under this library's names.

    The rule acts entry by entry, so stacked runs need nothing special.

    Source: Kingma and Ba (ICLR 2015), Algorithm 1.

    Args:
        params: tensors or parameter groups, stacked over runs or not.
        step_size: learning rate.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        epsilon: added to the root of the latter.
        weight_decay: factor of an added quadratic penalty.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        beta1: Probability = 0.9,
        beta2: Probability = 0.999,
        epsilon: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
        stacked: bool = False,
    ) -> None:
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, found {step_size}")
        super().__init__(params, lr=step_size, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)
