"""Normalised gradient descent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import NonNegative, Positive
from workflow.lib.optim._norms import safe_norm, unit
from workflow.lib.optim._rule import Moving, Rule, descend
from workflow.lib.optim.traits import Traits


class NGD(Rule):
    """Normalised gradient descent: w <- w - lr (t + 1)^(-decay) g / ||g||.

    One norm is taken over all parameters together (per run when stacked), so that the step has length lr. A zero
    gradient moves nothing.

    Source: Algorithm 1 of Huang, Liang and Yang (NeurIPS 2024), with decay = 0.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        lr: length of the first step.
        decay: exponent of the schedule (t + 1)^(-decay).
        norm: one norm over all parameters, one for each group, or one for each tensor.
        maximize: ascend instead.
        stacked: the leading dimension counts independent runs, each with a norm of its own.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive,
        *,
        decay: NonNegative = 0.0,
        norm: Literal["global", "per_group", "per_tensor"] = "global",
        maximize: bool = False,
        stacked: bool = False,
    ) -> None:
        rule = {"lr": lr, "decay": decay, "norm": norm, "maximize": maximize}
        super().__init__(params, {**rule, "stacked": stacked, "steps_taken": 0})

    @staticmethod
    def traits(norm: str = "global", **_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(rotations=True, one_norm=norm != "per_tensor", per_run=("lr", "decay"))

    def _move(self, moving: list[Moving], loss: Any) -> None:
        for part in self._sharing_a_norm(moving):
            group, p, gradient = part[0]
            norm = safe_norm(gradient, group["stacked"]) if len(part) == 1 else None
            if norm is not None:  # one operation in place of three
                size = group["lr"] * (group["steps_taken"] + 1) ** -group["decay"]
                if not isinstance(size, torch.Tensor):
                    p.addcdiv_(gradient, norm, value=-size)
                    continue
            directions = unit([gradient for _, _, gradient in part], part[0][0]["stacked"])
            for (group, p, _), along in zip(part, directions, strict=True):
                descend(p, along, group["lr"] * (group["steps_taken"] + 1) ** -group["decay"])
        self._count_steps(moving)
