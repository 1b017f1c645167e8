"""The stochastic Polyak step size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from workflow.lib.optim._adaptive import AdaptiveStep, check
from workflow.lib.settings import Count, NonNegative, Positive, Probability, Real


class SPS(AdaptiveStep):
    """Stochastic Polyak step: w <- w - eta g, from the batch's loss f and gradient g.

    Mode `constant`: eta = min((f - floor) / (c ||g||^2 + epsilon), eta_max).
    Mode `smooth_iter`: eta_t = min(growth^(1/period) eta_{t-1}, (f - floor) / (c ||g||^2 + epsilon)) with
    eta_{-1} = initial; eta_max is not used. A loss below the floor moves nothing.

    Source: Loizou, Vaswani, Laradji and Lacoste-Julien (AISTATS 2021), SPS_max and its smoothed variant.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        c: factor of the squared norm.
        eta_max: largest factor of the gradient in mode `constant`; None for no cap.
        floor: the smallest value that the loss of a batch can take.
        epsilon: added to the denominator.
        momentum: share of the previous direction that is kept (v <- momentum v + g; the norm stays that of g).
        norm: one norm over all tensors of a group, or one for each tensor.
        mode: `constant` or `smooth_iter`.
        growth: in mode `smooth_iter`, the step size may grow by this factor ...
        period: ... over so many steps (the batches of an epoch).
        initial: in mode `smooth_iter`, the step size before the first step.
        stacked: the leading dimension counts independent runs; the closure returns one loss per run.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        c: Positive = 0.5,
        eta_max: Positive | None = None,
        floor: Real = 0.0,
        epsilon: NonNegative = 1e-8,
        momentum: Probability = 0.0,
        norm: Literal["global", "per_tensor"] = "global",
        mode: Literal["constant", "smooth_iter"] = "constant",
        growth: Positive = 2.0,
        period: Count = 1,
        initial: Positive = 1.0,
        stacked: bool = False,
    ) -> None:
        check(
            c=(c > 0, "a positive number", c),
            eta_max=(eta_max is None or eta_max > 0, "a positive number or None", eta_max),
            epsilon=(epsilon >= 0, "a number of at least 0", epsilon),
            momentum=(0 <= momentum <= 1, "a number from 0 to 1", momentum),
            norm=(norm in ("global", "per_tensor"), "'global' or 'per_tensor'", norm),
            mode=(mode in ("constant", "smooth_iter"), "'constant' or 'smooth_iter'", mode),
            growth=(growth > 0, "a positive number", growth),
            period=(period >= 1, "a whole number of at least 1", period),
            initial=(initial > 0, "a positive number", initial),
        )
        if mode == "smooth_iter" and norm == "per_tensor":
            raise ValueError("norm: mode 'smooth_iter' keeps one step size and needs norm 'global', found 'per_tensor'")
        rule = {"c": c, "eta_max": eta_max, "floor": floor, "epsilon": epsilon, "momentum": momentum, "norm": norm}
        smooth = {"mode": mode, "growth": growth, "period": period, "initial": initial}
        super().__init__(params, {**rule, **smooth, "stacked": stacked, "steps_taken": 0, "step_size_taken": None})

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
        size = torch.where(norm > 0, gap / denominator, 0.0)
        if group["mode"] == "smooth_iter":
            previous = group["initial"] if group["step_size_taken"] is None else group["step_size_taken"]
            return torch.minimum(size, torch.as_tensor(previous * group["growth"] ** (1 / group["period"])).to(size))
        return size if group["eta_max"] is None else size.clamp(max=group["eta_max"])
