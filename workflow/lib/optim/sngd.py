"""Stochastic normalised gradient descent."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Positive, Probability
from workflow.lib.optim._adaptive import AdaptiveStep
from workflow.lib.optim._norms import ratio
from workflow.lib.optim.traits import Traits


class SNGD(AdaptiveStep):
    """Stochastic normalised gradient descent: w <- w - eta g, eta = min(lr / ||g||, eta_max).

    A zero gradient moves nothing. Without eta_max and momentum every step has length lr.

    Source: docs/papers/ib.md, section 5.1; the exact form in the paper was not read, this is our choice.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        lr: length of a step that the cap does not shorten.
        eta_max: largest factor of the gradient; None for no cap.
        momentum: share of the previous direction that is kept (v <- momentum v + g; the norm stays that of g).
        norm: one norm over all parameters, one for each group, or one for each tensor.
        maximize: ascend instead.
        stacked: the leading dimension counts independent runs, each with norms of its own.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive,
        *,
        eta_max: Positive | None = None,
        momentum: Probability = 0.0,
        norm: Literal["global", "per_group", "per_tensor"] = "global",
        maximize: bool = False,
        stacked: bool = False,
    ) -> None:
        rule = {"lr": lr, "eta_max": eta_max, "momentum": momentum, "norm": norm, "maximize": maximize}
        super().__init__(params, {**rule, "stacked": stacked, "steps_taken": 0, "step_size_taken": None})

    @staticmethod
    def traits(norm: str = "global", **_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(rotations=True, one_norm=norm != "per_tensor", per_run=("lr", "eta_max", "momentum"))

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        size = ratio(group["lr"], norm)
        return size if group["eta_max"] is None else size.clamp(max=group["eta_max"])
