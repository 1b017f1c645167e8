"""Adam."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Decay, NonNegative, Positive
from workflow.lib.optim._rule import Checked
from workflow.lib.optim.traits import Traits


class Adam(Checked, torch.optim.Adam):
    """Adam as torch implements it; in parameter groups the names are torch's: `lr`, `betas`, `eps`, `weight_decay`.

    The rule acts entry by entry, so stacked runs need nothing special.

    Source: Kingma and Ba (ICLR 2015), Algorithm 1.

    Args:
        params: tensors or parameter groups, stacked over runs or not.
        lr: learning rate.
        beta1: decay of the mean of the gradients.
        beta2: decay of the mean of their squares.
        epsilon: added to the root of the latter.
        weight_decay: factor of an added quadratic penalty.
        maximize: ascend instead.
        stacked: accepted for uniformity; makes no difference.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive,
        *,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        epsilon: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
        maximize: bool = False,
        stacked: bool = False,
    ) -> None:
        values: dict[str, Any] = {"lr": lr, "betas": (beta1, beta2), "eps": epsilon, "weight_decay": weight_decay}
        self._check(values)  # before torch does, so that it is told in the names of this class
        super().__init__(params, **values, maximize=maximize)

    @staticmethod
    def traits(**_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(entrywise=True)

    def _named(self, group: dict[str, Any]) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        return {**group, "beta1": beta1, "beta2": beta2, "epsilon": group["eps"]}
