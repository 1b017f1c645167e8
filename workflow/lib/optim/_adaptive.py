"""What the stochastic rules share: momentum, and a step size that follows from the norm of a batch's gradient."""

from __future__ import annotations

from typing import Any

import torch

from workflow.lib.optim._norms import joint_norm, per_run, ratio
from workflow.lib.optim._rule import Moving, Rule


class AdaptiveStep(Rule):
    """w <- w - eta v, v <- momentum v + g, where `_step_size` finds eta from the norm of g and the loss.

    Each group keeps `step_size_taken`, the eta of its last step (with a norm per tensor: the length of eta g over the
    length of g), and `steps_taken`.
    """

    def _move(self, moving: list[Moving], loss: Any) -> None:
        sizes: dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] = {}  # parameter -> eta, norm
        for part in self._sharing_a_norm(moving):
            norm = joint_norm([g for _, _, g in part], part[0][0]["stacked"])
            of_group = {id(group): self._step_size(group, norm, loss) for group in _groups(part)}
            sizes |= {p: (of_group[id(group)], norm) for group, p, _ in part}
        for group in _groups(moving):
            own = [(g, *sizes[p]) for found, p, g in moving if found is group]
            if group["norm"] == "per_tensor":
                lengths = [(size * norm).unsqueeze(-1) for _, size, norm in own]
                whole = joint_norm([g for g, _, _ in own], group["stacked"])
                group["step_size_taken"] = ratio(joint_norm(lengths, group["stacked"]), whole)
            else:
                group["step_size_taken"] = own[0][1]
        self._count_steps(moving)
        for group, p, g in moving:
            p.sub_(direction(self.state[p], g, group["momentum"]) * per_run(sizes[p][0], p))

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        """The factor of the gradient: shape (runs,) if stacked, else (); 0 where the norm is 0."""
        raise NotImplementedError


def _groups(moving: list[Moving]) -> list[dict[str, Any]]:
    return list({id(group): group for group, _, _ in moving}.values())


def direction(state: dict[str, Any], gradient: torch.Tensor, momentum: torch.Tensor | float) -> torch.Tensor:
    """The gradient plus `momentum` times the previous direction, which a parameter's state keeps as `velocity`."""
    if not isinstance(momentum, torch.Tensor) and not momentum:
        return gradient
    if "velocity" not in state:
        state["velocity"] = torch.zeros_like(gradient)
    velocity: torch.Tensor = state["velocity"]
    kept = per_run(momentum, gradient) if isinstance(momentum, torch.Tensor) else momentum
    return velocity.mul_(kept).add_(gradient)
