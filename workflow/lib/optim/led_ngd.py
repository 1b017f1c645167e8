"""Normalised gradient descent whose step is measured by one leading parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._norms import at_least_tiny, joint_norm, per_run, with_gradients
from workflow.lib.settings import NonNegative, Positive


class LedNGD(torch.optim.Optimizer):
    """All parameters divided by the gradient norm of the last one, each with a step size of its own.

    w_last <- w_last - step_size (t + 1)^(-decay) g_last / ||g_last|| and
    w_j <- w_j - other_step_size (t + 1)^(-other_decay) g_j / ||g_last|| for the others.
    A zero leading gradient moves nothing.

    Source: the joint rule "both by norm of grad_u" of the specification (papers/ib, section 5.3).

    Args:
        params: tensors or parameter groups, the leading parameter last; shape (runs, ...) when stacked.
        step_size: length of the leading parameter's first step.
        decay: exponent of its schedule.
        other_step_size: factor of the others.
        other_decay: exponent of their schedule.
        stacked: the leading dimension counts independent runs, each with a norm of its own.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        decay: NonNegative = 0.0,
        other_step_size: Positive = 1.0,
        other_decay: NonNegative = 0.0,
        stacked: bool = False,
    ) -> None:
        for name, value in (("step_size", step_size), ("other_step_size", other_step_size)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, found {value}")
        for name, value in (("decay", decay), ("other_decay", other_decay)):
            if not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, found {value}")
        leading = {"step_size": step_size, "decay": decay}
        others = {"other_step_size": other_step_size, "other_decay": other_decay}
        super().__init__(params, {**leading, **others, "stacked": stacked, "steps_taken": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        moving = [(p, grad, group) for group in self.param_groups for p, grad in with_gradients(group)]
        if moving:
            leader, lead, group = moving[-1]
            norm = at_least_tiny(joint_norm([lead], group["stacked"]))
            for p, grad, group in moving:
                own = "" if p is leader else "other_"
                size = group[f"{own}step_size"] * (group["steps_taken"] + 1) ** -group[f"{own}decay"]
                p.addcdiv_(grad, per_run(norm, grad), value=-size)
        for group in self.param_groups:
            group["steps_taken"] += 1
        return loss
