"""What the stochastic rules share: momentum, and a step size that follows from the norm of a batch's gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workflow.lib.optim._closure import evaluated
from workflow.lib.optim._norms import joint_norm, per_run, with_gradients


class AdaptiveStep(torch.optim.Optimizer):
    """w <- w - eta v, v <- momentum v + g, where `_step_size` finds eta from the norm of g and the loss.

    Each group keeps `step_size_taken`, the eta of the last step (with a norm per tensor: the length of eta g
    over the length of g), and `steps_taken`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; with a closure, evaluate it first and return its loss."""
        loss = evaluated(closure)
        for group in self.param_groups:
            moving = with_gradients(group)
            if not moving:
                continue
            norm = joint_norm([g for _, g in moving], group["stacked"])
            if group["norm"] == "global":
                sizes = [self._step_size(group, norm, loss)] * len(moving)
                group["step_size_taken"] = sizes[0]
            else:
                norms = [joint_norm([g], group["stacked"]) for _, g in moving]
                sizes = [self._step_size(group, own, loss) for own in norms]
                lengths = torch.stack([size * own for size, own in zip(sizes, norms, strict=True)])
                group["step_size_taken"] = ratio(torch.linalg.vector_norm(lengths, dim=0), norm)
            group["steps_taken"] += 1
            for (p, g), size in zip(moving, sizes, strict=True):
                p.sub_(direction(self.state[p], g, group["momentum"]) * per_run(size, p))
        return loss

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        """The factor of the gradient: shape (runs,) if stacked, else (); 0 where the norm is 0."""
        raise NotImplementedError


def direction(state: dict[str, Any], gradient: torch.Tensor, momentum: float) -> torch.Tensor:
    """The gradient plus `momentum` times the previous direction, which a parameter's state keeps as `velocity`."""
    if not momentum:
        return gradient
    if "velocity" not in state:
        state["velocity"] = torch.zeros_like(gradient)
    velocity: torch.Tensor = state["velocity"]
    return velocity.mul_(momentum).add_(gradient)


def ratio(numerator: torch.Tensor | float, denominator: torch.Tensor) -> torch.Tensor:
    """Numerator / denominator, and 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


def check(**conditions: tuple[bool, str, object]) -> None:
    """Refuse a hyper-parameter by name: `check(c=(c > 0, "a positive number", c))`."""
    for name, (good, expected, found) in conditions.items():
        if not good:
            raise ValueError(f"{name}: expected {expected}, found {found!r}")
