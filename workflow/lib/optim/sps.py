"""The stochastic Polyak step size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Count, NonNegative, Positive, Probability, Real
from workflow.lib.optim._adaptive import AdaptiveStep
from workflow.lib.optim._norms import ratio
from workflow.lib.optim.traits import Traits


class SPS(AdaptiveStep):
    """Stochastic Polyak step: w <- w - lr eta g, from the batch's loss f and gradient g.

    Mode `constant`: eta = min((f - floor) / (c ||g||^2 + epsilon), eta_max).
    Mode `smooth_iter`: eta_t = min(growth^(1/period) eta_{t-1}, (f - floor) / (c ||g||^2 + epsilon)) with
    eta_{-1} = initial; eta_max is not used. A loss below the floor moves nothing.

    Source: Loizou, Vaswani, Laradji and Lacoste-Julien (AISTATS 2021), SPS_max and its smoothed variant, with lr = 1.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        lr: relaxation, the share of the step that is taken; it is what a scheduler sets.
        c: factor of the squared norm.
        eta_max: largest factor of the gradient in mode `constant`; None for no cap.
        floor: the smallest value that the loss of a batch can take.
        epsilon: added to the denominator.
        momentum: share of the previous direction that is kept (v <- momentum v + g; the norm stays that of g).
        norm: one norm over all parameters, one for each group, or one for each tensor.
        mode: `constant` or `smooth_iter`.
        growth: in mode `smooth_iter`, the step size may grow by this factor ...
        period: ... over so many steps (the batches of an epoch).
        initial: in mode `smooth_iter`, the step size before the first step.
        stacked: the leading dimension counts independent runs; the closure returns one loss per run.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive = 1.0,
        *,
        c: Positive = 0.5,
        eta_max: Positive | None = None,
        floor: Real = 0.0,
        epsilon: NonNegative = 1e-8,
        momentum: Probability = 0.0,
        norm: Literal["global", "per_group", "per_tensor"] = "global",
        mode: Literal["constant", "smooth_iter"] = "constant",
        growth: Positive = 2.0,
        period: Count = 1,
        initial: Positive = 1.0,
        stacked: bool = False,
    ) -> None:
        rule = {"lr": lr, "c": c, "eta_max": eta_max, "floor": floor, "epsilon": epsilon, "momentum": momentum}
        smooth = {"mode": mode, "growth": growth, "period": period, "initial": initial, "previous": None}
        kept = {"stacked": stacked, "steps_taken": 0, "step_size_taken": None}
        super().__init__(params, {**rule, "norm": norm, **smooth, **kept})

    @staticmethod
    def traits(norm: str = "global", mode: str = "constant", **_: Any) -> Traits:
        """What rooms have to know.

        Raises:
            ValueError: the mode and the norm do not go together.
        """
        if mode == "smooth_iter" and norm == "per_tensor":
            raise ValueError(
                "norm: mode 'smooth_iter' keeps one step size and needs norm 'global' or 'per_group', "
                "found 'per_tensor'"
            )
        numbers = ("lr", "c", "eta_max", "floor", "epsilon", "momentum", "growth", "initial")
        return Traits(rotations=True, needs_loss=True, one_norm=norm != "per_tensor", per_run=numbers)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, which must leave gradients and return the loss, take one step, return the loss.

        Raises:
            TypeError: there is no closure, and so no loss to follow.
        """
        if closure is None:
            raise TypeError("SPS needs the loss: call step(closure) with a closure that returns it")
        return super().step(closure)

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        gap = (torch.as_tensor(loss, dtype=norm.dtype, device=norm.device) - group["floor"]).clamp(min=0)
        denominator = group["c"] * norm**2 + group["epsilon"]
        size = torch.where(norm > 0, ratio(gap, denominator), 0.0)
        if group["mode"] == "smooth_iter":
            previous = group["initial"] if group["previous"] is None else group["previous"]
            most = torch.as_tensor(
                previous * group["growth"] ** (1 / group["period"]), dtype=size.dtype, device=size.device
            )
            size = group["previous"] = torch.minimum(size, most)
        elif group["eta_max"] is not None:
            size = size.clamp(max=group["eta_max"])
        return group["lr"] * size
