"""Stochastic normalised gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from workflow.lib.optim._adaptive import AdaptiveStep, check, ratio
from workflow.lib.settings import Positive, Probability


class SNGD(AdaptiveStep):
    """Stochastic normalised gradient descent: w <- w - eta g, eta = min(step_size / ||g||, eta_max).

    A zero gradient moves nothing. Without eta_max and momentum every step has length step_size.

    Source: papers/ib, section 5.1; the exact form in the paper was not read, this is our choice.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        step_size: length of a step that the cap does not shorten.
        eta_max: largest factor of the gradient; None for no cap.
        momentum: share of the previous direction that is kept (v <- momentum v + g; the norm stays that of g).
        norm: one norm over all tensors of a group, or one for each tensor.
        stacked: the leading dimension counts independent runs, each with norms of its own.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        step_size: Positive,
        eta_max: Positive | None = None,
        momentum: Probability = 0.0,
        norm: Literal["global", "per_tensor"] = "global",
        stacked: bool = False,
    ) -> None:
        check(
            step_size=(step_size > 0, "a positive number", step_size),
            eta_max=(eta_max is None or eta_max > 0, "a positive number or None", eta_max),
            momentum=(0 <= momentum <= 1, "a number from 0 to 1", momentum),
            norm=(norm in ("global", "per_tensor"), "'global' or 'per_tensor'", norm),
        )
        defaults = {"step_size": step_size, "eta_max": eta_max, "momentum": momentum, "norm": norm}
        super().__init__(params, {**defaults, "stacked": stacked, "steps_taken": 0, "step_size_taken": None})

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        size = ratio(group["step_size"], norm)
        return size if group["eta_max"] is None else size.clamp(max=group["eta_max"])
