"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Positive, Probability
from workflow.lib.optim._adaptive import direction
from workflow.lib.optim._rule import Moving, Rule, descend
from workflow.lib.optim.traits import Traits


class SGD(Rule):
    """Stochastic gradient descent: w <- w - lr v, v <- momentum v + g.

    Args:
        params: tensors or parameter groups, stacked over runs or not (the rule acts entry by entry).
        lr: factor of the direction.
        momentum: share of the previous direction that is kept.
        maximize: ascend instead.
        stacked: the leading dimension counts independent runs.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive,
        *,
        momentum: Probability = 0.0,
        maximize: bool = False,
        stacked: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "maximize": maximize, "stacked": stacked})

    @staticmethod
    def traits(**_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(entrywise=True, rotations=True, per_run=("lr", "momentum"))

    def _move(self, moving: list[Moving], loss: Any) -> None:
        for group, p, gradient in moving:
            descend(p, direction(self.state[p], gradient, group["momentum"]), group["lr"])
