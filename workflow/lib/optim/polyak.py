"""Polyak's step size."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from workflow.lib.optim._norms import at_least_tiny, joint_norm, per_run, with_gradients
from workflow.lib.settings import Positive


class Polyak(torch.optim.Optimizer):
    """Gradient descent with Polyak's step size: w <- w - (f(w) - f*) / (factor ||g||^2) g.

    One norm is taken over all parameters together (per run when stacked). A zero gradient moves nothing.
    The step is applied as (gap / (factor ||g||)) (g / ||g||), because ||g||^2 is the first to underflow.

    Source: Polyak, Introduction to Optimization (1987), section 5.3.2, with factor = 1.

    Args:
        params: tensors or parameter groups; shape (runs, ...) when stacked.
        factor: divides the step; 1 is Polyak's own.
        stacked: the leading dimension counts independent runs, each with a step size of its own.
    """

    def __init__(self, params: Iterable[torch.Tensor], *, factor: Positive = 1.0, stacked: bool = False) -> None:
        if not factor > 0:
            raise ValueError(f"factor: expected a positive number, found {factor}")
        super().__init__(params, {"factor": factor, "stacked": stacked})

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor | float] | None = None) -> torch.Tensor | float:  # type: ignore[override]
        """Take one step.

        Args:
            closure: makes the gradients and returns f(w) - f*, shape (runs,) when stacked. Where f* is not 0, the
                difference is the caller's to form, since only the caller can do so without cancellation.

        Raises:
            ValueError: no closure is given; the rule needs the gap.
        """
        if closure is None:
            raise ValueError("polyak: step() needs a closure that returns f(w) - f*")
        with torch.enable_grad():
            gap = closure()
        moving = [pair for group in self.param_groups for pair in with_gradients(group)]
        if moving:
            first = self.param_groups[0]
            norm = at_least_tiny(joint_norm([grad for _, grad in moving], first["stacked"]))
            size = torch.as_tensor(gap, dtype=norm.dtype, device=norm.device) / (first["factor"] * norm)
            for p, grad in moving:
                p.sub_(per_run(size, grad) * (grad / per_run(norm, grad)))
        return gap
