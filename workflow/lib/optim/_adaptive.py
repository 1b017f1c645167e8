"""What the stochastic rules share: momentum, and a step size that follows from the norm of a batch's gradient."""

from __future__ import annotations

from typing import Any

import torch

from workflow.lib.optim._norms import each_norm, joint_norm, per_run, ratio
from workflow.lib.optim._rule import Moving, Rule


class AdaptiveStep(Rule):
    """w <- w - eta v, v <- momentum v + g, where `_step_size` finds eta from the norm of g and the loss.

    Each group keeps `step_size_taken`, the eta of its last step (with a norm per tensor: the length of eta g over the
    length of g), and `steps_taken`.
    """

    def _move(self, moving: list[Moving], loss: Any) -> None:
        alone = self.param_groups[0]["norm"] == "per_tensor"
        sizes = self._of_tensors(moving, loss) if alone else self._of_parts(moving, loss)
        self._count_steps(moving)
        for group, p, g in moving:
            p.sub_(direction(self.state[p], g, group["momentum"]) * per_run(sizes[p], p))

    def _of_parts(self, moving: list[Moving], loss: Any) -> dict[torch.Tensor, torch.Tensor]:
        """Parameter -> eta, from the norm that it shares."""
        sizes: dict[torch.Tensor, torch.Tensor] = {}
        for part in self._sharing_a_norm(moving):
            norm = joint_norm([g for _, _, g in part], part[0][0]["stacked"])
            for group in _groups(part):
                group["step_size_taken"] = self._step_size(group, norm, loss)
            sizes |= {p: group["step_size_taken"] for group, p, _ in part}
        return sizes

    def _of_tensors(self, moving: list[Moving], loss: Any) -> dict[torch.Tensor, torch.Tensor]:
        """Parameter -> eta, from a norm of its own; those of a group are found at once."""
        sizes: dict[torch.Tensor, torch.Tensor] = {}
        for group in _groups(moving):
            own = [(p, g) for found, p, g in moving if found is group]
            norms = each_norm([g for _, g in own], group["stacked"])
            etas = self._step_size(group, norms, loss)
            whole, length = (joint_norm([of.t()], group["stacked"]) for of in (norms, etas * norms))
            group["step_size_taken"] = ratio(length, whole)
            sizes |= zip((p for p, _ in own), etas.unbind(), strict=True)
        return sizes

    def _step_size(self, group: dict[str, Any], norm: torch.Tensor, loss: Any) -> torch.Tensor:
        """The factor of the gradient, 0 where the norm is 0, in the shape of `norm`.

        Args:
            group: the hyper-parameters.
            norm: shape (runs,) if stacked, else (); with a norm per tensor (tensors,) stands before it.
            loss: shape (runs,) or (); None without a closure.
        """
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
