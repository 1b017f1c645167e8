"""Polyak's step size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from workflow.lib.number_types import Positive
from workflow.lib.optim._norms import at_least_tiny, joint_norm, per_run, safe_norm
from workflow.lib.optim._rule import Moving, Rule, descend
from workflow.lib.optim.traits import Traits


class Polyak(Rule):
    """Gradient descent with Polyak's step size: w <- w - lr (f(w) - f*) / (factor ||g||^2) g.

    One norm is taken over all parameters together (per run when stacked). A zero gradient moves nothing.
    The step is applied as (gap / (factor ||g||)) (g / ||g||), because ||g||^2 is the first to underflow.

    Source: Polyak, Introduction to Optimization (1987), section 5.3.2, with factor = 1 and lr = 1.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        lr: relaxation, the share of Polyak's step that is taken; it is what a scheduler sets.
        factor: divides the step; 1 is Polyak's own.
        stacked: the leading dimension counts independent runs, each with a step size of its own.
    """

    def __init__(self, params: ParamsT, lr: Positive = 1.0, *, factor: Positive = 1.0, stacked: bool = False) -> None:
        super().__init__(params, {"lr": lr, "factor": factor, "stacked": stacked})

    @staticmethod
    def traits(**_: Any) -> Traits:
        """What rooms have to know."""
        return Traits(rotations=True, needs_loss=True, one_norm=True, per_run=("lr", "factor"))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: makes the gradients and returns f(w) - f*, shape (runs,) when stacked. Where f* is not 0, the
                difference is the caller's to form, since only the caller can do so without cancellation.

        Raises:
            TypeError: no closure is given; the rule needs the gap.
        """
        if closure is None:
            raise TypeError("Polyak needs the loss: call step(closure) with a closure that returns f(w) - f*")
        return super().step(closure)

    def _move(self, moving: list[Moving], loss: Any) -> None:
        if len(moving) == 1:
            group, p, grad = moving[0]
            plain = safe_norm(grad, group["stacked"])
            if plain is not None:  # its square is a safe number, too
                factor = group["factor"] / group["lr"]
                size = torch.as_tensor(loss, dtype=plain.dtype, device=plain.device) / factor
                p.addcmul_(grad, per_run(size, grad) / plain.square(), value=-1)
                return
        norm = at_least_tiny(joint_norm([grad for _, _, grad in moving], moving[0][0]["stacked"]))
        gap = torch.as_tensor(loss, dtype=norm.dtype, device=norm.device)
        for group, p, grad in moving:
            descend(p, grad / per_run(norm, grad), gap / (group["factor"] / group["lr"] * norm))
