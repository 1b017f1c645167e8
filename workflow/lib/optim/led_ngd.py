"""Normalised gradient descent whose step is measured by one leading parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import NonNegative, Positive
from workflow.lib.optim._norms import joint_norm, per_run
from workflow.lib.optim._rule import Moving, Rule, descend
from workflow.lib.optim.traits import Traits


class LedNGD(Rule):
    """All parameters divided by the gradient norm of the last one, each with a step size of its own.

    w_last <- w_last - lr (t + 1)^(-decay) g_last / ||g_last|| and
    w_j <- w_j - other_lr (t + 1)^(-other_decay) g_j / ||g_last|| for the others.
    A zero leading gradient moves nothing. A scheduler sets `lr`, the leading parameter's alone.

    Source: a reading of the joint rule; docs/papers/ib.md, sections 5.1 and 7.3.

    Args:
        params: tensors or parameter groups, the leading parameter last; shape (runs, ...) when stacked.
        lr: length of the leading parameter's first step.
        decay: exponent of its schedule.
        other_lr: factor of the others.
        other_decay: exponent of their schedule.
        maximize: ascend instead.
        stacked: the leading dimension counts independent runs, each with a norm of its own.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive,
        *,
        decay: NonNegative = 0.0,
        other_lr: Positive = 1.0,
        other_decay: NonNegative = 0.0,
        maximize: bool = False,
        stacked: bool = False,
    ) -> None:
        rule = {"lr": lr, "decay": decay, "other_lr": other_lr, "other_decay": other_decay, "maximize": maximize}
        super().__init__(params, {**rule, "stacked": stacked, "steps_taken": 0})

    @staticmethod
    def traits(**_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(rotations=True, one_norm=True, per_run=("lr", "decay", "other_lr", "other_decay"))

    def _move(self, moving: list[Moving], loss: Any) -> None:
        leading, leader, gradient = moving[-1]
        norm = joint_norm([gradient], leading["stacked"])
        norm = torch.where(norm > 0, norm, torch.inf)
        for group, p, grad in moving:
            own = "" if p is leader else "other_"
            size = group[f"{own}lr"] * (group["steps_taken"] + 1) ** -group[f"{own}decay"]
            if isinstance(size, torch.Tensor):
                descend(p, grad / per_run(norm, grad), size)
            else:
                p.addcdiv_(grad, per_run(norm, grad), value=-size)
        self._count_steps(moving)
