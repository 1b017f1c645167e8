"""What the rules of this folder share: checked hyper-parameters in every group, closures, norms over groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError

from workflow.lib import optim
from workflow.lib.errors import unknown
from workflow.lib.optim._norms import per_run

Moving = tuple[dict[str, Any], torch.Tensor, torch.Tensor]  # a group, one of its parameters, its gradient

_TORCH_S_OWN = {"params", "param_names", "initial_lr"}
_SAME_IN_ALL_GROUPS = ("norm", "mode", "stacked")


class Checked(torch.optim.Optimizer):
    """An optimizer that refuses unknown or bad hyper-parameters by name, in its constructor and in every group."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch's optimizers do.

        Raises:
            ValueError: naming a hyper-parameter that is unknown, bad, or must be the same in all groups.
        """
        for key in param_group:
            if key not in self.defaults and key not in _TORCH_S_OWN:
                raise ValueError(f"{type(self).__name__}: {unknown('hyper-parameter', key, self.defaults)}")
            if key in _SAME_IN_ALL_GROUPS and param_group[key] != self.defaults[key]:
                raise ValueError(f"{key}: is one for all groups, {self.defaults[key]!r}; found {param_group[key]!r}")
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        rule = _registered(type(self))
        if rule is None:  # a subclass of a base class of this folder that is defined elsewhere
            return
        model = optim.hyperparameters(rule)
        values = {key: value for key, value in self._named(group).items() if key in model.model_fields}
        allowed = optim.traits(rule, {k: v for k, v in values.items() if not isinstance(v, torch.Tensor)}).per_run
        runs = 1
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim:
                if key not in allowed or value.ndim != 1 or not group["stacked"]:
                    raise ValueError(f"{key}: expected a number, found a tensor of shape {tuple(value.shape)}")
                runs = len(value)
        for run in range(runs):
            try:
                model.model_validate({key: _of_run(value, run) for key, value in values.items()})
            except ValidationError as error:
                first = error.errors()[0]
                message = first["msg"].removeprefix("Value error, ")
                found = "" if "found" in message else f", found {first['input']!r}"
                raise ValueError(f"{first['loc'][0]}: {message[0].lower()}{message[1:]}{found}") from None

    def _named(self, group: dict[str, Any]) -> dict[str, Any]:
        """The values of a group under the constructor's names."""
        return group


class Rule(Checked):
    """The base class of the rules written here: `step` evaluates the closure, then calls `_move`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; with a closure, evaluate it first (it makes the gradients) and return its loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (group, p, -p.grad if group.get("maximize") else p.grad)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if moving:
            self._move(moving, loss)
        return loss

    def _move(self, moving: list[Moving], loss: Any) -> None:
        """Move every parameter that has a gradient, in place."""
        raise NotImplementedError

    def _sharing_a_norm(self, moving: list[Moving]) -> list[list[Moving]]:
        """The parts that have a norm of their own: everything, the groups, or the tensors."""
        norm = self.param_groups[0]["norm"]
        if norm == "global":
            return [moving]
        if norm == "per_tensor":
            return [[one] for one in moving]
        groups = [[one for one in moving if one[0] is group] for group in self.param_groups]
        return [group for group in groups if group]

    def _count_steps(self, moving: list[Moving]) -> None:
        for group in {id(group): group for group, _, _ in moving}.values():
            group["steps_taken"] += 1


def descend(p: torch.Tensor, direction: torch.Tensor, size: torch.Tensor | float) -> None:
    """Subtract size * direction in place, where size is a number or one per run."""
    if isinstance(size, torch.Tensor):
        p.sub_(per_run(size, p) * direction)
    else:
        p.sub_(direction, alpha=size)


def _registered(rule: type) -> str | None:
    """The registered name of a rule, or of what a class is derived from."""
    for base in rule.__mro__:
        package, _, name = base.__module__.rpartition(".")
        if package == optim.__name__ and name in optim.names():
            return name
    return None


def _of_run(value: Any, run: int) -> Any:
    """A plain value, for one run where there is one for each."""
    if not isinstance(value, torch.Tensor):
        return value
    return value[run if len(value) > 1 else 0].item() if value.ndim else value.item()
