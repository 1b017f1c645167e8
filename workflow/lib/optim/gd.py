"""Gradient descent."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Positive
from workflow.lib.optim._rule import Moving, Rule, descend
from workflow.lib.optim.traits import Traits


class GD(Rule):
    """Gradient descent: w <- w - lr g.

    Args:
        params: tensors or parameter groups, stacked over runs or not (the rule acts entry by entry).
        lr: factor of the gradient.
        maximize: ascend instead.
        stacked: the leading dimension counts independent runs.
    """

    def __init__(self, params: ParamsT, lr: Positive, *, maximize: bool = False, stacked: bool = False) -> None:
        super().__init__(params, {"lr": lr, "maximize": maximize, "stacked": stacked})

    @staticmethod
    def traits(**_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(entrywise=True, rotations=True, per_run=("lr",))

    def _move(self, moving: list[Moving], loss: Any) -> None:
        for group, p, gradient in moving:
            descend(p, gradient, group["lr"])
