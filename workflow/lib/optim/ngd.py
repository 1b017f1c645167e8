"""Normalised gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._norms import unit, with_gradients
from workflow.lib.settings import NonNegative, Positive


class NGD(torch.optim.Optimizer):
    """Normalised gradient descent: w <- w - step_size (t + 1)^(-decay) g / ||g||.

    One norm is taken over all parameters of a group together (per run when stacked), so that the step has
    length step_size. A zero gradient moves nothing.

    Source: Algorithm 1 of Huang, Liang and Yang (NeurIPS 2024), with decay = 0.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        step_size: length of the first step.
        decay: exponent of the schedule (t + 1)^(-decay).
        stacked: the leading dimension counts independent runs, each with a norm of its own.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        decay: NonNegative = 0.0,
        stacked: bool = False,
    ) -> None:
        if not step_size > 0:
            raise ValueError(f"step_size: expected a positive number, found {step_size}")
        if not decay >= 0:
            raise ValueError(f"decay: expected a number of at least 0, found {decay}")
        super().__init__(params, {"step_size": step_size, "decay": decay, "stacked": stacked, "steps_taken": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            moving = with_gradients(group)
            if moving:
                size = group["step_size"] * (group["steps_taken"] + 1) ** -group["decay"]
                directions = unit([gradient for _, gradient in moving], group["stacked"])
                for (p, _), direction in zip(moving, directions, strict=True):
                    p.sub_(direction, alpha=size)
            group["steps_taken"] += 1
        return loss
